#!/usr/bin/env python3
"""Kills `kizashi up` with SIGKILL at random moments under load, over and over, on one log.

After every restart and at the end: every acknowledged event is there once, every request ends once,
every done request is a prediction of the right value, and fsck is clean. The load sends every batch
again until it is acknowledged, as a careful client does, so unacknowledged ones may be there or not,
but never twice.

    crash.py [--rounds 20] [--seed N] [--dir DIR]
"""

import argparse
import collections
import http.client
import json
import pathlib
import random
import shutil
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness  # noqa: E402

USERS = 40
CLIENTS = 4


class Client(threading.Thread):
    """Sends batches of events; what was not acknowledged is sent again after the restart."""

    def __init__(self, number, seed):
        super().__init__(daemon=True)
        self.number, self.random = number, random.Random(seed)
        self.acknowledged, self.unsure, self.sent = set(), [], 0
        self.port, self.run_it, self.idle = None, threading.Event(), threading.Event()
        self.finish, self.drain = False, False
        self.wrong = []

    def batch(self):
        """Ten events; some ask for the prediction in the answer."""
        events = []
        for _ in range(10):
            self.sent += 1
            events.append({"event_id": f"c{self.number}-{self.sent}", "name": "view",
                           "user_id": f"u{self.random.randrange(USERS)}",
                           "props": {"price": round(self.random.uniform(1, 99), 2), "pad": "x" * self.random.randrange(300)}})
        return events

    def run(self):
        while not self.finish:
            self.idle.set()
            if not self.run_it.wait(0.05):
                continue
            self.idle.clear()
            try:
                self.talk()
                time.sleep(0.01)
            except (OSError, http.client.HTTPException):
                self.run_it.clear()

    def talk(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        while self.run_it.is_set() and not self.finish:
            if self.drain and not self.unsure:
                return
            events = self.unsure or self.batch()
            self.unsure = events
            connection.request("POST", "/v1/events", "\n".join(map(json.dumps, events)))
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                time.sleep(0.01)
                continue
            told = json.loads(body)
            if told["accepted"] + told["duplicates"] != len(events) or told.get("rejected"):
                self.wrong.append(told)
            self.acknowledged.update(event["event_id"] for event in events)
            self.unsure = []
        connection.close()


def verify(data, clients, final):
    """What must hold of the log; returns a summary line."""
    fsck = harness.run("fsck", "--data", data)
    assert fsck.returncode == 0, fsck.stdout[-2000:] + fsck.stderr[-2000:]
    events, requests, results = collections.Counter(), {}, collections.Counter()
    ends = collections.Counter()
    views = collections.Counter()
    for record in harness.dump(data):
        kind = record["type"]
        if kind == "event":
            events[record["event_id"]] += 1
            views[record["user_id"]] += 1
        elif kind == "request":
            requests[record["seq"]] = (record["user_id"], views[record["user_id"]])
        elif kind == "result":
            results[record["request"]] += 1
            ends[record["end"]] += 1
            if record["end"] == "done":
                user, expected = requests[record["request"]]
                assert record["score"] == min(expected, 500), (record, user, expected)  # max_events
    acknowledged = set().union(*(client.acknowledged for client in clients))
    lost = [event for event in acknowledged if not events[event]]
    assert not lost, f"{len(lost)} acknowledged events are lost: {sorted(lost)[:5]}"
    twice = [event for event, count in events.items() if count > 1]
    assert not twice, f"{len(twice)} events are there twice: {twice[:5]}"
    doubled = [request for request, count in results.items() if count > 1]
    assert not doubled, f"{len(doubled)} requests ended twice: {doubled[:5]}"
    unknown = [request for request in results if request not in requests]
    assert not unknown, f"results of unknown requests: {unknown[:5]}"
    assert len(requests) == sum(events.values()), (len(requests), sum(events.values()))
    if final:
        unended = [request for request in requests if not results[request]]
        assert not unended, f"{len(unended)} requests never ended: {unended[:5]}"
    assert not any(client.wrong for client in clients), [client.wrong[:1] for client in clients]
    return f"{len(acknowledged)} acknowledged, {sum(events.values())} kept, {len(requests)} requests, {dict(ends)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--dir")
    options = parser.parse_args()
    dice = random.Random(options.seed)
    directory = pathlib.Path(options.dir or tempfile.mkdtemp(prefix="kizashi-crash-"))
    project = harness.write_project(directory / "shop", yaml=harness.YAML + "limits: {segment_size: 16Mi, checkpoint: 2Mi}\n")
    data = directory / "data"
    clients = [Client(number, options.seed * 100 + number) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    print(f"crash: {options.rounds} rounds, seed {options.seed}, in {directory}", flush=True)
    for number in range(1, options.rounds + 1):
        server = harness.Server(project, data).start()
        for client in clients:
            client.port = server.port
            client.run_it.set()
        time.sleep(dice.uniform(0.02, 0.9))
        server.kill()
        for client in clients:
            client.run_it.clear()
            client.idle.wait(15)
        if number % 5 == 0 or number == options.rounds:
            print(f"round {number}: {verify(data, clients, False)}", flush=True)
    with harness.Server(project, data) as server:
        for client in clients:  # what is still unsure is sent once more
            client.port, client.drain = server.port, True
            client.run_it.set()
        server.wait(lambda: not any(client.unsure for client in clients), what="the last acknowledgement")
        for client in clients:
            client.finish = True
            client.join(10)
        server.wait(lambda: b"\nkizashi_requests_pending 0" in server.get("/metrics").body, 60, "the backlog's end")
        assert server.stop() == 0
    print(f"end: {verify(data, clients, True)}", flush=True)
    if not options.dir:
        shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())

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
import subprocess
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
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30 * harness.SLOW)
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


def records(data, since_ms):
    """Streams the log's records as dicts, from that time of ours on."""
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since_ms / 1000))
    with subprocess.Popen([harness.BINARY, "dump", "--data", str(data), "--from", since], stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            yield json.loads(line)
    assert process.returncode == 0, process.returncode


class Seen:
    """What the log said so far, checked as it is read. A log only grows at its end, so each look reads
    what is new; main() reads all of it once more at the end."""

    def __init__(self):
        self.seq, self.at_ms = 0, 0
        self.events, self.views, self.event_count = set(), collections.Counter(), 0
        self.requests, self.request_count = {}, 0  # seq to (user, its views then); those without a result
        self.results, self.ends = set(), collections.Counter()

    def read(self, data):
        for record in records(data, self.at_ms):
            if record["seq"] > self.seq:
                assert record["seq"] == self.seq + 1, (record["seq"], self.seq)
                self.seq, self.at_ms = record["seq"], record["at_ms"]
                self.see(record)

    def see(self, record):
        kind = record["type"]
        if kind == "event":
            assert record["event_id"] not in self.events, f"event {record['event_id']} is there twice"
            self.events.add(record["event_id"])
            self.event_count += 1
            self.views[record["user_id"]] += 1
        elif kind == "request":
            self.requests[record["seq"]] = (record["user_id"], self.views[record["user_id"]])
            self.request_count += 1
        elif kind == "result":
            assert record["request"] not in self.results, f"request {record['request']} ended twice"
            self.results.add(record["request"])
            self.ends[record["end"]] += 1
            user, expected = self.requests.pop(record["request"])  # a KeyError: of no request
            if record["end"] == "done":
                assert record["score"] == min(expected, 500), (record, user, expected)  # max_events


def verify(data, clients, seen, final):
    """What must hold of the log; returns a summary line."""
    fsck = harness.run("fsck", "--data", data)
    assert fsck.returncode == 0, fsck.stdout[-2000:] + fsck.stderr[-2000:]
    seen.read(data)
    acknowledged = sum(len(client.acknowledged) for client in clients)
    for client in clients:
        lost = client.acknowledged - seen.events
        assert not lost, f"{len(lost)} acknowledged events are lost: {sorted(lost)[:5]}"
        assert not client.wrong, client.wrong[:1]
    assert seen.request_count == seen.event_count, (seen.request_count, seen.event_count)
    if final:
        assert not seen.requests, f"{len(seen.requests)} requests never ended: {list(seen.requests)[:5]}"
    return f"{acknowledged} acknowledged, {seen.event_count} kept, {seen.request_count} requests, {dict(seen.ends)}"


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
    seen = Seen()
    started = time.monotonic()
    clients = [Client(number, options.seed * 100 + number) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    print(f"crash: {options.rounds} rounds, seed {options.seed}, in {directory}", flush=True)
    for number in range(1, options.rounds + 1):
        server = harness.Server(project, data).start()
        for client in clients:
            client.port = server.port
            client.run_it.set()
        # Most before the models are up, as recovery goes on; some with predictions being made.
        time.sleep(dice.uniform(0.9, 3) if number % 5 == 0 else dice.uniform(0.02, 0.9))
        server.kill()
        for client in clients:
            client.run_it.clear()
            assert client.idle.wait(60 * harness.SLOW), "a client hangs"
        if number % 5 == 0 or number == options.rounds:
            print(f"round {number}, {time.monotonic() - started:.0f} s: {verify(data, clients, seen, False)}", flush=True)
    with harness.Server(project, data) as server:
        for client in clients:  # what is still unsure is sent once more
            client.port, client.drain = server.port, True
            client.run_it.set()
        server.wait(lambda: not any(client.unsure for client in clients), what="the last acknowledgement")
        for client in clients:
            client.finish = True
            client.join(60 * harness.SLOW)
        server.wait(lambda: b"\nkizashi_requests_pending 0" in server.get("/metrics").body, 60, "the backlog's end")
        assert server.stop() == 0
    print(f"end, {time.monotonic() - started:.0f} s: {verify(data, clients, Seen(), True)}", flush=True)
    if not options.dir:
        shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())

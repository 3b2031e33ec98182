"""Pub/Sub pushes more than there is room for: it is told so (429, 503), what was refused comes again, and in the end
everything has happened once."""

import base64
import collections
import json
import signal
import socket

import cloud
import harness
import test_roles_client as client

PATIENT = harness.YAML.replace("timeout: 20s", "timeout: 1000s")
HELD = """
import os
import time

import kizashi


class Counter(kizashi.Model):
    def load(self, ctx):
        self.ctx = ctx

    def predict(self, batch):
        while os.path.exists(self.ctx.path + "/hold"):
            time.sleep(0.02)
        views = list(batch.names).index("views")
        return [float(row[views]) for row in batch.features]
"""


def held(project):
    """The file that keeps the model waiting for as long as it is there."""
    hold = harness.pathlib.Path(project) / "models/counter/hold"
    hold.write_text("")
    return hold


def envelope(data, number):
    return json.dumps({"message": {"data": base64.b64encode(data).decode(), "messageId": str(number)}}).encode()


class Pusher:
    """Pushes over connections of its own, many at a time, as the service does; answers come in the order of requests."""

    EACH = 50  # a connection's

    def __init__(self, port, bodies):
        self.connections = []
        for at in range(0, len(bodies), self.EACH):
            connection = socket.create_connection(("127.0.0.1", port), timeout=60 * harness.SLOW)
            some = bodies[at:at + self.EACH]
            connection.sendall(b"".join(b"POST /v1/pubsub/push HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s"
                                        % (len(body), body) for body in some))
            self.connections.append((connection, len(some)))

    def answers(self):
        """(status, has Retry-After) of each, in order."""
        got = []
        for connection, count in self.connections:
            with connection, connection.makefile("rb") as stream:
                got += [self._answer(stream) for _ in range(count)]
        return got

    @staticmethod
    def _answer(stream):
        status = int(stream.readline().split()[1])
        headers = {}
        while (line := stream.readline().strip()):
            name, value = line.split(b":", 1)
            headers[name.lower()] = value.strip()
        stream.read(int(headers.get(b"content-length", 0)))
        return status, b"retry-after" in headers


def test_infer_takes_a_thousand_pushes_at_a_time_and_the_others_when_they_come_again(tmp_path):
    cloud.need_emulators()
    project = harness.write_project(tmp_path / "shop", yaml=PATIENT, model=HELD)
    hold = held(project)
    with client.roles(project, tmp_path, ("process", "infer", "serve"), {"infer": ["--push"]}) as deployment:
        deployment.pubsub.subscribe("asked", "kizashi-testshop-requests")
        lines = [client.view(f"e{i}", f"u{i}").encode() for i in range(1200)]
        for at in range(0, len(lines), 200):
            deployment.pubsub.publish("kizashi-testshop-events", [(b"\n".join(lines[at:at + 200]), f"lane-{at}", {})])
        asked = []
        deployment.wait(lambda: asked.extend(deployment.pubsub.pull("asked")) or len(asked) == 1200, 60, "1,200 requests")
        bodies = [envelope(request.data, number) for number, request in enumerate(asked)]
        pusher = Pusher(deployment["infer"].port, bodies)
        deployment.wait(lambda: deployment.metric("infer", "http_requests_total") >= 1200, 30, "all pushed")
        hold.unlink()
        answers = pusher.answers()
        assert set(answers) == {(204, False), (429, True)}, collections.Counter(answers)
        assert sum(status == 204 for status, _ in answers) == 1000
        again = [body for body, (status, _) in zip(bodies, answers) if status == 429]
        assert Pusher(deployment["infer"].port, again).answers() == [(204, False)] * len(again)
        deployment.wait(lambda: len(deployment.news.results) >= 1200, 60, "all results")
        assert len(deployment.news.by_request()) == 1200  # fails where one came about twice


def test_infer_that_is_told_to_stop_gives_pushes_back(tmp_path):
    cloud.need_emulators()
    project = harness.write_project(tmp_path / "shop", yaml=PATIENT, model=HELD)
    hold = held(project)
    with client.roles(project, tmp_path, ("process", "infer", "serve"), {"infer": ["--push"]}) as deployment:
        deployment.pubsub.subscribe("asked", "kizashi-testshop-requests")
        deployment.pubsub.publish("kizashi-testshop-events", [
            (b"\n".join(client.view(f"e{i}", f"u{i}").encode() for i in range(50)), "lane-1", {})])
        asked = []
        deployment.wait(lambda: asked.extend(deployment.pubsub.pull("asked")) or len(asked) == 50, 60, "the requests")
        bodies = [envelope(request.data, number) for number, request in enumerate(asked)]
        pusher = Pusher(deployment["infer"].port, bodies)
        deployment.wait(lambda: deployment.metric("infer", "http_requests_total") >= 50, 30, "all pushed")
        deployment["infer"].process.send_signal(signal.SIGTERM)
        assert pusher.answers() == [(503, True)] * 50
        assert deployment["infer"].process.wait(harness.PATIENCE_S * harness.SLOW) == 0  # the model would go on for long
        hold.unlink()
        deployment["infer"].start()
        assert Pusher(deployment["infer"].port, bodies).answers() == [(204, False)] * 50
        deployment.wait(lambda: len(deployment.news.results) >= 50, 60, "all results")
        assert len(deployment.news.by_request()) == 50


def test_events_pushed_to_one_machine_are_refused_while_too_much_is_pending(start):
    server = start(yaml=PATIENT + "limits: {pending: 20}\n", model=HELD)
    hold = held(server.project)
    statuses = collections.Counter()
    bodies = [envelope(client.view(f"e{i}", f"u{i}").encode(), i) for i in range(60)]
    refused = []
    for body in bodies:
        answer = server.post("/v1/pubsub/push", body)
        statuses[answer.status] += 1
        if answer.status != 204:
            assert answer.status == 503 and "retry-after" in answer.headers, (answer.status, answer.headers)
            refused.append(body)
    assert statuses[204] >= 20 and statuses[503] > 0, statuses
    hold.unlink()
    for body in refused:
        server.wait(lambda body=body: server.post("/v1/pubsub/push", body).status == 204, 20, "room")
    server.wait(lambda: b"\nkizashi_requests_pending 0\n" in server.get("/metrics").body, 30, "all")
    assert len(harness.dump(server.data, "--type", "result")) == 60


def test_events_pushed_to_collect_are_refused_while_the_bus_is_away(tmp_path):
    with cloud.Emulator("pubsub", tmp_path) as bus, \
            cloud.Deployment(harness.write_project(tmp_path / "shop"), tmp_path, roles=("collect", "process"), clock="wall",
                             emulators=[bus]) as deployment:
        deployment.pubsub.subscribe("seen", "kizashi-testshop-events")
        bodies = [envelope(client.view(f"e{i}", "u1").encode(), i) for i in range(20)]
        bus.signal(signal.SIGSTOP)
        pusher = Pusher(deployment["collect"].port, bodies)
        try:
            answers = pusher.answers()  # it tries for 30 s
        finally:
            bus.signal(signal.SIGCONT)
        assert set(answers) == {(503, True)}, collections.Counter(answers)
        deployment.wait(lambda: deployment["collect"].post("/v1/pubsub/push", bodies[0]).status == 204, 20, "the bus")
        for body in bodies:
            assert deployment["collect"].post("/v1/pubsub/push", body).status == 204
        found = set()

        def all_seen():
            for message in deployment.pubsub.pull("seen"):
                found.update(json.loads(line)["event_id"] for line in message.data.splitlines() if line)
            return len(found) == 20

        deployment.wait(all_seen, 20, "every event")

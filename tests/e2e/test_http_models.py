"""runtime: http -- models that run elsewhere and speak the Open Inference Protocol v2."""

import os
import pathlib
import re
import socket
import subprocess
import sys
import time

import harness
import pytest

PROGRAM = pathlib.Path(__file__).resolve().parent.parent / "open_inference.py"
ROLES = ("--role", "collect,process,infer,serve", "--backend", "memory")


class Model:
    """The server of tests/open_inference.py; restarted, it has the same port."""

    def __init__(self, program=PROGRAM):
        self.port = harness.free_port()
        self.program = str(program)
        self.process = None

    def start(self):
        self.process = subprocess.Popen([sys.executable, self.program], stderr=subprocess.DEVNULL,
                                        env={**os.environ, "PORT": str(self.port)})
        deadline = time.monotonic() + harness.PATIENCE_S * harness.SLOW
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return self
            except ConnectionRefusedError:
                assert time.monotonic() < deadline and self.process.poll() is None
                time.sleep(0.01)

    def end(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def yaml(self, timeout="20s"):
        return harness.YAML.replace("    path: models/counter\n", f"    runtime: http\n    url: http://127.0.0.1:{self.port}\n") \
            .replace("timeout: 20s", f"timeout: {timeout}")


@pytest.fixture
def model():
    one = Model().start()
    yield one
    one.end()


def view(number, user="u1"):
    return {"event_id": f"e{number}", "user_id": user, "name": "view"}


def scores(server, user):
    return [p["score"] for p in server.get(f"/v1/users/{user}/predictions").json()["predictions"]]


@pytest.mark.parametrize("args", [(), ROLES], ids=["embedded", "roles"])
def test_a_server_is_asked(start, model, args):
    server = start(yaml=model.yaml(), args=args)
    for number in range(1, 4):
        server.send(view(number))
        server.wait(lambda: scores(server, "u1") == [float(number)], 20, f"prediction {number}")
    assert server.stop() == 0


def test_the_server_of_the_documentation(start, tmp_path):
    (program,) = re.findall(r"```python\n(import http.server.*?)```", (harness.ROOT / "docs" / "models.md").read_text(), re.DOTALL)
    (tmp_path / "server.py").write_text(program)
    model = Model(tmp_path / "server.py").start()
    try:
        server = start(yaml=model.yaml())
        told = server.send(view(1), query="?wait=counter&timeout_ms=5000")
        assert [p["score"] for p in told["predictions"]] == [1.0]
    finally:
        model.end()


def test_raw_histories(start, model):
    server = start(yaml=model.yaml().replace("    features: features/counter.sql\n", ""))
    for number in range(1, 4):
        told = server.send(view(number), query="?wait=counter&timeout_ms=5000")
        assert told["predictions"][0]["score"] == float(number)


def test_only_the_row_at_fault_is_dead_lettered(start, model):
    server = start(yaml=model.yaml(timeout="2s"))
    bad = {"raise": "exception", "nan": "nan", "hang": "timeout", "shape": "shape"}
    users = [f"good{n}" for n in range(20)] + list(bad)
    server.send(*[view(n, user) for n, user in enumerate(users)])
    server.wait(lambda: b"\nkizashi_requests_pending 0\n" in server.get("/metrics").body, 60, "the last result")
    for user in users:
        assert scores(server, user) == ([] if user in bad else [1.0]), user
    letters = {r["ref"]: r for r in harness.dump(server.data, "--type", "deadletter")}
    results = {r["request"]: r for r in harness.dump(server.data, "--type", "result")}
    reasons = {results[ref]["user_id"]: letter for ref, letter in letters.items()}
    assert {user: letter["code"] for user, letter in reasons.items()} == bad
    assert "500 (Internal Server Error): no good" in reasons["raise"]["reason"]
    assert server.send(view(100, "later"), query="?wait=counter&timeout_ms=5000")["predictions"][0]["score"] == 1.0


@pytest.mark.parametrize("args", [(), ROLES], ids=["embedded", "roles"])
def test_a_killed_server_loses_no_request(start, model, args):
    server = start(yaml=model.yaml(), args=args)
    server.send(view(1))
    server.wait(lambda: scores(server, "u1") == [1.0], 20, "the first prediction")
    model.end()
    server.send(view(2))
    # Nobody is there to be asked: the model is fenced, and the request waits.
    if not args:
        status = server.wait(lambda: next((m for m in server.get("/v1/admin/status").json()["models"] if m["state"] == "fenced"),
                                          None), 60, "the fence")
        assert "could not connect" in status["reason"]
    model.start()
    server.wait(lambda: scores(server, "u1") == [2.0], 90, "the prediction after the restart")


def test_a_row_that_ends_the_server_is_a_crash(start, model):
    server = start(yaml=model.yaml())
    server.send(view(1, "exit"))

    def is_over():  # somebody restarts the server whenever it has ended
        if model.process.poll() is not None:
            model.end()
            model.start()
        return b"\nkizashi_requests_pending 0\n" in server.get("/metrics").body

    server.wait(is_over, 90, "the end of the request")
    assert [letter["code"] for letter in harness.dump(server.data, "--type", "deadletter")] == ["crash"]
    told = server.send(view(2, "good"), query="?wait=counter&timeout_ms=5000")
    assert [p["score"] for p in told["predictions"]] == [1.0]


def test_check_asks_whether_it_is_ready(tmp_path, model):
    project = harness.write_project(tmp_path / "shop", yaml=model.yaml())
    harness.run("check", project, check=0)
    model.end()
    assert f"could not connect to 127.0.0.1:{model.port}" in harness.run("check", project, check=1).stderr.decode()

"""What `up` is whatever runs in it, the pipeline or roles: keys that are read again, and how it ends."""

import json
import os
import re
import signal
import socket
import time

import pytest

import harness

RUNS = {"embedded": [], "roles": ["--role", "collect,process,infer,serve", "--backend", "memory"]}
either = pytest.mark.parametrize("args", RUNS.values(), ids=RUNS)


@either
def test_a_key_made_while_requests_come_without_a_pause_counts_within_a_second(start, args):
    server = start(args=args)
    event = {"user_id": "u1", "name": "view"}
    assert server.post("/v1/events", event).status == 200  # from loopback, as long as there is no key
    made = harness.run("keys", "create", server.project, "--data", server.data, "--kind", "write", "--json", check=0)
    bearer = {"Authorization": f"Bearer {json.loads(made.stdout)['secret']}"}
    server.wait(lambda: server.post("/v1/events", event).status == 401, 3, "that a key is asked")
    assert server.post("/v1/events", event, headers=bearer).status == 200


def held(server):
    """A request that is begun and never finished: stopping waits for it until connections are cut."""
    client = socket.create_connection(("127.0.0.1", server.port), harness.PATIENCE_S * harness.SLOW)
    client.sendall(b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
                   b"Content-Length: 100\r\n\r\n")
    assert client.recv(100).startswith(b"HTTP/1.1 100 ")  # the server has it
    client.sendall(b"[")
    return client


def metric(server, name):
    return float(re.search(rb"^%s (\S+)$" % name.encode(), server.get("/metrics").body, re.M).group(1))


@either
def test_ctrl_c_that_comes_twice_is_one_word(start, args):
    server = start(args=args)
    with held(server):
        began = time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            server.process.send_signal(number)
        assert server.process.wait(harness.PATIENCE_S * harness.SLOW) == 0
        assert 4 < time.monotonic() - began  # it was not cut short
    assert server.read_log().count("stopping: nothing new is taken") == 1


@either
def test_a_second_word_stops_at_once(start, args):
    # It leaves threads as they are, which is the point; ThreadSanitizer would say so.
    env = {"TSAN_OPTIONS": os.environ.get("TSAN_OPTIONS", "") + ":report_thread_leaks=0"}
    for _ in range(10):
        server = start(args=args, env=env)
        with held(server):
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            time.sleep(1.2)  # behind the second in which two signals are one word
            if time.monotonic() - began > 4:  # a busy machine: the first word may have been enough
                continue
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(harness.PATIENCE_S * harness.SLOW) == 1
        assert "stopping at once" in server.read_log()
        return
    pytest.skip("too busy a machine: the second word always came too late")


@either
def test_who_waits_longer_than_a_second_is_told_that_it_stops(start, args):
    model = harness.MODEL.replace("        views =", "        __import__('time').sleep(100)\n        views =")
    server = start(args=args, model=model, yaml=harness.YAML.replace("timeout: 20s", "timeout: 100s"))
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        body = b'{"event_id":"e1","user_id":"u1","name":"view"}'
        client.sendall(b"POST /v1/events?wait=counter&timeout_ms=10000 HTTP/1.1\r\nHost: localhost\r\n"
                       b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        server.wait(lambda: metric(server, "kizashi_collect_waits_total") == 1, 10, "who waits")
        server.process.send_signal(signal.SIGTERM)
        client.settimeout(harness.PATIENCE_S * harness.SLOW)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200 ") and b'"reason":"stopping"' in answer, answer
    assert server.process.wait(harness.PATIENCE_S * harness.SLOW) == 0

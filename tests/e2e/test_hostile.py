"""At least 10,000 hostile inputs to every endpoint: never a crash, a leak or a hang, always an error that says what
was wrong. The commands are in test_hostile_commands.py. Also run with KIZASHI pointing to a build with ASan."""

import json
import os
import re
import socket
import time

import pytest

import harness
import hostile
from hostile import Gone, Wire, check, post, request

# The sum of these is what "at least 10,000" means; each test counts what it sent.
INPUTS = {"test_broken_json": 1400, "test_wrong_types_in_every_member": 1950, "test_mutated_bodies": 4000, "test_what_clients_sent_mutated": 1600,
          "test_gzip_that_is_none_and_bombs": 300, "test_over_the_limits": 50, "test_odd_paths_and_ids": 1400, "test_query_nonsense": 800,
          "test_methods": 270, "test_headers": 130, "test_framing_and_smuggling": 280, "test_garbage_behind_a_good_request": 100}
# A build with ASan keeps freed memory in quarantine and needs more for everything.
RSS_GROWTH_MAX_MIB = 160 if "asan" in harness.BINARY else 96
JSON_ERRORS = {200, 400, 413}
sent = {}


def view(number, user):
    return {"event_id": f"good{number}", "user_id": user, "name": "view"}


def rss_mib(server):
    with open(f"/proc/{server.process.pid}/status", encoding="ascii") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1)) >> 10


def slow_senders(port):
    """Connections that never get to the end of their request."""
    begun = []
    for start in (b"", b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ", b"POST /v1/events HTTP/1.1\r\n" + hostile.HOST +
                  b"Content-Length: 100\r\n\r\n{", b"POST /v1/events HTTP/1.1\r\n" + hostile.HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
                  b"POST /v1/events HTTP/1.1\r\n" + hostile.HOST + b"Expect: 100-continue\r\nContent-Length: 8000000\r\n\r\n"):
        wire = Wire(port)
        wire.send(start)
        begun.append(wire)
    return begun


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("hostile")
    harness.write_project(directory / "shop")
    options = "quarantine_size_mb=8:abort_on_error=0:detect_leaks=1"
    with harness.Server(directory / "shop", directory / "data", env={"ASAN_OPTIONS": options}) as running:
        # What a busy server needs anyway is not growth: pools, the model's worker, one large body.
        for number in range(50):
            running.send(*[view(f"{number}-{n}", f"warm{n}") for n in range(100)], query="?wait=counter&timeout_ms=5000")
        running.post("/v1/events", b"x" * (8 << 20))
        running.rss_before, running.pid_before = rss_mib(running), running.process.pid
        running.slow, running.slow_since = slow_senders(running.port), time.monotonic()
        yield running


@pytest.fixture
def tally(request):
    """tally(n) counts inputs; the test has to come to its figure in INPUTS."""
    name = request.node.name
    sent[name] = 0

    def add(count=1):
        sent[name] += count

    yield add
    assert sent[name] >= INPUTS[name], (name, sent[name])


def ask(server, items, tally):
    """Sends (request bytes, allowed statuses) pipelined, up to 32 at once, and checks every answer."""
    wire, waiting, faults = Wire(server.port), [], []

    def flush():
        while waiting:
            wire.send(b"".join(data for data, _ in waiting))
            try:
                while waiting:
                    data, allowed = waiting[0]
                    answer = wire.read(no_body=data.startswith(b"HEAD "))
                    waiting.pop(0)
                    try:
                        check(answer, allowed, data)
                    except (AssertionError, ValueError, KeyError) as fault:
                        faults.append(f"{fault!r}"[:900])
                    if wire.socket is None:
                        break  # it said close; the rest goes by a new connection
            except Gone:
                raise AssertionError(("closed without an answer", waiting[0][0][:600])) from None
            except TimeoutError:
                raise AssertionError(("no answer in time", waiting[0][0][:600])) from None

    for data, allowed in items:
        waiting.append((data, allowed))
        tally()
        if len(waiting) == 32 or sum(len(d) for d, _ in waiting) > 1 << 18:
            flush()
    flush()
    wire.close()
    assert not faults, "\n".join([f"{len(faults)} answers are wrong:"] + faults[:20])


def test_broken_json(server, tally):
    def items():
        for number, body in enumerate(hostile.broken_json(hostile.rng("broken"))):
            # Two lines of NDJSON are two events, so a list may be taken in part.
            allowed = {400} if b"\n" not in body.strip() else JSON_ERRORS
            if b"\\u0000" in body and b"props" in body:
                allowed = {200, 400}  # RFC 8259 has it; in an id or a name it is refused
            yield post("/v1/events", body), allowed
            path = list(hostile.CALLS)[number % len(hostile.CALLS)]
            if len(body) < 200000:
                yield post(path, body), JSON_ERRORS

    ask(server, items(), tally)


def test_wrong_types_in_every_member(server, tally):
    ask(server, ((post(path, body), {200, 204, 400}) for path, body in hostile.wrong_types()), tally)


def test_mutated_bodies(server, tally):
    random_, valid = hostile.rng("mutated"), hostile.valid_bodies()
    ask(server, ((post(path, hostile.mutate(random_, body)), JSON_ERRORS) for path, body in (random_.choice(valid) for _ in range(4000))), tally)


@pytest.mark.skipif(not hostile.captured_bodies() or not hostile.otto_lines(), reason="the captured requests and OTTO lines are not here (../shared/data)")
def test_what_clients_sent_mutated(server, tally):
    random_ = hostile.rng("captured")
    ask(server, ((post(path, hostile.mutate(random_, body)), JSON_ERRORS) for path, body in
                 (random_.choice(hostile.captured_bodies()) for _ in range(1500))), tally)
    lines = hostile.otto_lines()
    ask(server, ((post("/v1/events", line), {400}) for line in lines[:50]), tally)
    ask(server, ((post("/v1/batch", hostile.mutate(random_, random_.choice(lines)[:20000])), JSON_ERRORS) for _ in range(100)), tally)


def test_gzip_that_is_none_and_bombs(server, tally):
    ask(server, ((post("/v1/events", body, headers), JSON_ERRORS) for body, headers in hostile.packed(hostile.rng("gzip"))), tally)


def test_over_the_limits(server, tally):
    ask(server, ((post("/v1/events", body), allowed) for body, allowed in hostile.huge(hostile.rng("huge"))), tally)
    for path in ("/v1/events", "/v1/batch", "/v1/pubsub/push", "/v1/nothing", "/v1/admin/requests/drop"):
        wire = Wire(server.port)
        wire.send(request("POST", path, None, [("Content-Length", "9000000")]) + b"x" * (1 << 16))
        check(wire.read(), {404, 413}, path.encode())
        wire.close()
        tally()


def test_odd_paths_and_ids(server, tally):
    random_ = hostile.rng("paths")

    def fill(path):
        return path.replace("{}", random_.choice(hostile.IDS), 1).replace("{}", random_.choice(hostile.IDS))

    def items():
        for path in hostile.PATHS:
            for one in hostile.IDS:
                odd = path.replace("{}", one, 1)
                yield request("GET", fill(odd)), {200, 400, 404, 431}
        for path in hostile.POST_PATHS:
            for one in random_.sample(hostile.IDS, 30):
                yield post(fill(path.replace("{}", one, 1)), b""), {200, 400, 404, 405, 409}
        for one in hostile.IDS:
            yield request("DELETE", "/v1/users/" + one), {200, 202, 400, 404, 405}
        for _ in range(100):
            raw = bytes(random_.choice(b"/%.abcuv120?&=#;:@!$'()*+,~\\|^`{}[]<>\"") for _ in range(random_.randint(1, 60)))
            yield request("GET", b"/" + raw), {200, 400, 404}

    ask(server, (item for item in items() if b" " not in item[0].split(b" HTTP/1.1")[0].split(b" ", 1)[1]), tally)


def test_query_nonsense(server, tally):
    random_ = hostile.rng("query")
    gets = ["/v1/users/warm1/predictions", "/v1/users/warm1/actions", "/v1/users/warm1/events", "/v1/users/warm1/export", "/v1/admin/deadletters",
            "/v1/admin/status", "/v1/admin/top", "/v1/users/warm1/events/good0-1/trace", "/", "/v1", "/metrics"]

    def pairs():
        return "&".join(f"{random_.choice(hostile.QUERY_KEYS)}={random_.choice(hostile.QUERY_VALUES)}".replace(" ", "")
                        for _ in range(random_.randint(1, 4)))

    def items():
        for key in hostile.QUERY_KEYS:
            for value in hostile.QUERY_VALUES:
                if " " not in value:
                    yield request("GET", f"{random_.choice(gets)}?{key}={value}"), {200, 400, 401, 403, 404}
        for _ in range(250):
            yield post(f"/v1/events?{pairs()}", b'{"user_id":"q","name":"other"}'), {200, 400, 401, 403, 431}
        for value in hostile.QUERY_VALUES:
            if " " not in value:
                yield post(f"/v1/events?wait={value}&timeout_ms=1", hostile.dumps(view(1, "waits"))), {200, 400}
                yield post(f"/v1/events?wait=counter&timeout_ms={value}", b'{"user_id":"q","name":"other"}'), {200, 400}
                yield post(f"/v1/admin/requests/drop?model={value}", b""), {200, 400, 404}
        for dest in ("", "/", "/dev/null", "/proc/x", "%00", "/no/such/dir/at/all", "a" * 5000, "/tmp", ".", "..", "/etc/passwd/x"):
            yield post(f"/v1/admin/backup?dest={dest}", b""), {400, 404, 409, 503}  # 503: the one before is not done
        yield request("GET", "/v1/admin/status?" + "a=b&" * 3500), {200}
        yield request("GET", "/v1/admin/status?" + "&" * 12000), {200}

    ask(server, items(), tally)


def test_methods(server, tally):
    paths = ["/v1/events", "/v1/batch", "/v1/users/nobody/predictions", "/v1/users/nobody/export", "/v1/erasures/1", "/v1/admin/status",
             "/v1/admin/top", "/v1/admin/deadletters", "/v1/admin/deadletters/1", "/v1/admin/models/none/pause", "/v1/admin/actions/none/pause",
             "/healthz", "/readyz", "/metrics", "/v1", "/v2", "/v2/health/ready", "/v2/models/counter", "/", "/nothing", "/v1/users/nobody/actions/1/ack"]
    # A HEAD has no body to say what was wrong in.
    items = [(request(method, path, b"{}"), {200, 204, 400, 403, 404, 405}) for method in hostile.METHODS if method != "HEAD" for path in paths]
    items += [(request("POST", f"/v2/models/counter{version}/infer", b"{}"), {501}) for version in ("", "/versions/1", "/versions/%41")]
    ask(server, items, tally)


def test_headers(server, tally):
    for name, value in hostile.HEADERS:
        for method, path, body in (("POST", "/v1/events", b'{"user_id":"h","name":"x"}'), ("GET", "/v1/users/warm1/events", None)):
            data = hostile.as_bytes(f"{method} {path} HTTP/1.1\r\n") + (b"" if name == "Host" else hostile.HOST) + hostile.as_bytes(f"{name}: {value}\r\n")
            data += b"" if body is None else b"Content-Length: %d\r\n" % len(body)
            wire = Wire(server.port)
            wire.send(data + b"\r\n" + (body or b""))
            check(wire.read(), {200, 400, 401, 403, 404, 431}, data)
            wire.close()
            tally()


def alone(server, data, allowed, tally):
    """One connection that sends this and then nothing more. Answers, if any, are errors, and the end comes soon."""
    wire = Wire(server.port)
    wire.send(data)
    wire.end()
    answers = 0
    try:
        while wire.socket is not None:
            check(wire.read(), allowed, data)
            answers += 1
    except Gone:
        pass
    except TimeoutError:
        raise AssertionError(("not closed in time", data[:600])) from None
    wire.close()
    tally()
    return answers


def test_framing_and_smuggling(server, tally):
    for data, allowed in hostile.FRAMING:
        assert alone(server, data, allowed, tally) >= 1, data[:300]
    for chunk in hostile.CHUNKS:
        alone(server, b"POST /v1/events HTTP/1.1\r\n" + hostile.HOST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk, {400, 413}, tally)
    # A request within another's body must never be taken for one of its own.
    hidden = post("/v1/events", b'{"event_id":"smuggled","user_id":"smuggled","name":"view"}')
    for head in (b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"Content-Length: 5\r\nContent-Length: 0\r\n\r\n",
                 b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
                 b"Transfer-Encoding: chunked\r\n\r\n0\n\n", b"Content-Length : 0\r\n\r\n", b"Content-Length: 0\rX: y\r\n\r\n"):
        assert alone(server, b"POST /v1/events HTTP/1.1\r\n" + hostile.HOST + head + hidden, {400, 501}, tally) >= 1, head
    assert server.get("/v1/users/smuggled/events").json().get("events", []) == []
    random_, good = hostile.rng("framing"), post("/v1/events", b'{"user_id":"f","name":"x"}')
    for _ in range(150):
        alone(server, hostile.mutate(random_, good), {200, 204, 400, 403, 404, 405, 413, 417, 431, 501, 505}, tally)
    for _ in range(50):
        alone(server, random_.randbytes(random_.choice([1, 10, 1000, 20000])), {400, 431, 505}, tally)


def test_garbage_behind_a_good_request(server, tally):
    random_ = hostile.rng("pipeline")
    for number in range(100):
        good = post("/v1/events", b'{"event_id":"p%d","user_id":"p","name":"x"}' % number)
        wire = Wire(server.port)
        wire.send(good + random_.choice([b"\xff", b"GARBAGE\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"{}" * 100, random_.randbytes(200), good[:40]]) + good)
        check(wire.read(), {200}, good)
        wire.end()
        try:
            while wire.socket is not None:
                check(wire.read(), {200, 400, 431, 501, 505}, good)
        except Gone:
            pass
        wire.close()
        tally()


def test_streams_of_nobody_are_left_at_once(server):
    for number in range(200):
        wire = Wire(server.port)
        wire.send(request("GET", f"/v1/users/{hostile.IDS[number % len(hostile.IDS)]}/stream".replace(" ", "")) if number % 3 else request("GET", "/v1/stream"))
        answer = wire.read(head_only=True)
        assert answer.status in (200, 400, 404, 429, 503), answer.status
    server.wait(lambda: b"kizashi_http_streams_open 0" in server.get("/metrics").body, 20, "no stream open")


def test_slow_senders_are_ended(server):
    deadline = server.slow_since + 30 + harness.PATIENCE_S * harness.SLOW
    for number, wire in enumerate(server.slow):
        wire.socket.settimeout(max(10, deadline - time.monotonic()))
        if number == 0:
            wire.close()  # it never said a word, which may last longer
            continue
        try:
            check(wire.read(), {408}, b"slow sender %d" % number)
        except Gone:
            pass
        except socket.timeout:
            raise AssertionError(f"slow sender {number} was not ended") from None
        wire.close()


def test_the_server_is_as_it_was(server):
    assert server.process.poll() is None and server.process.pid == server.pid_before
    server.post("/v1/admin/models/counter/resume", "")
    told = server.send(view("after", "after"), query="?wait=counter&timeout_ms=10000")
    assert [p["score"] for p in told["predictions"]] == [1.0], told
    assert server.get("/readyz").status == 200
    growth = rss_mib(server) - server.rss_before
    assert growth < RSS_GROWTH_MAX_MIB, f"{growth} MiB more than before"
    errors = re.search(rb"kizashi_http_responses_5xx_total (\d+)", server.get("/metrics").body)
    print("5xx", errors and errors.group(1), "rss growth MiB", growth, "inputs", sum(sent.values()))
    assert server.stop() == 0, server.read_log()[-4000:]
    log = server.read_log()
    assert "Sanitizer" not in log and "runtime error" not in log, log[-4000:]
    harness.run("fsck", "--data", server.data, check=0)
    if set(sent) == set(INPUTS):
        assert sum(sent.values()) >= 10000, sent

"""What test_hostile.py sends and how it reads the answers: a small HTTP client that may lie, and literal
families of bad input drawn by a seeded generator. Standard library only."""

import base64
import gzip
import json
import os
import pathlib
import random
import re
import socket
import zlib

import harness

SHARED = pathlib.Path(os.environ.get("KZ_SHARED", harness.ROOT.parent / "shared"))
HOST = b"Host: 127.0.0.1\r\n"
DEADLINE_S = harness.PATIENCE_S * harness.SLOW


# ---- the client ---------------------------------------------------------------------------------------


class Gone(Exception):
    """The server closed the connection without an answer."""


class Wire:
    """One connection: bytes out, answers in."""

    def __init__(self, port):
        self.port, self.socket, self.buffer = port, None, b""

    def open(self):
        if self.socket is None:
            self.socket = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.buffer = b""
        return self.socket

    def close(self):
        if self.socket is not None:
            self.socket.close()
        self.socket, self.buffer = None, b""

    def send(self, data):
        try:
            self.open().sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before all was sent; the answer may still be there

    def end(self):
        try:
            self.open().shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def more(self):
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            raise Gone
        self.buffer += data

    def read(self, head_only=False, no_body=False):
        """The next final answer; raises Gone where there is none, TimeoutError where the server hangs."""
        while True:
            while b"\r\n\r\n" not in self.buffer:
                self.more()
            head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
            lines = head.decode("latin-1").split("\r\n")
            match = re.fullmatch(r"HTTP/1\.1 (\d{3}) [A-Za-z' -]+", lines[0])
            assert match, f"no status line: {lines[0]!r}"
            status = int(match.group(1))
            headers = {}
            for line in lines[1:]:
                name, value = line.split(":", 1)
                headers[name.lower()] = value.strip()
            if status >= 200:
                break
        body = b""
        if not head_only and not no_body and status not in (204, 304):
            if headers.get("transfer-encoding") == "chunked":
                body = self.read_chunks()
            elif "content-length" in headers:
                size = int(headers["content-length"])
                while len(self.buffer) < size:
                    self.more()
                body, self.buffer = self.buffer[:size], self.buffer[size:]
            else:
                assert "text/event-stream" in headers.get("content-type", ""), headers
        if headers.get("connection") == "close" or head_only:
            self.close()
        return harness.Answer(status, headers, body)

    def read_chunks(self):
        body = b""
        while True:
            while b"\r\n" not in self.buffer:
                self.more()
            size, self.buffer = self.buffer.split(b"\r\n", 1)
            size = int(size, 16)
            while len(self.buffer) < size + 2:
                self.more()
            body, self.buffer = body + self.buffer[:size], self.buffer[size + 2:]
            if size == 0:
                return body


def request(method, path, body=None, headers=()):
    """A well-framed request as bytes; method, path and headers are whatever they are."""
    out = [as_bytes(method), b" ", as_bytes(path), b" HTTP/1.1\r\n", HOST]
    for name, value in headers:
        out += [as_bytes(name), b": ", as_bytes(value), b"\r\n"]
    if body is not None:
        out += [b"Content-Length: %d\r\n" % len(body)]
    out += [b"\r\n", body or b""]
    return b"".join(out)


def as_bytes(text):
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


def post(path, body, headers=()):
    return request("POST", path, body, headers)


def check(answer, allowed, what):
    """An answer has an allowed status; an error is in the documented shape and says what was wrong."""
    shown = what if len(what) < 600 else what[:400] + b" ... " + what[-100:]
    assert answer.status in allowed, (answer.status, answer.body[:500], shown)
    if answer.status < 400:
        if answer.body and answer.headers.get("content-type") == "application/json":
            for rejected in json.loads(answer.body).get("rejected", []):
                assert rejected["code"] and rejected["message"], (answer.body[:500], shown)
        return
    told = json.loads(answer.body.decode())
    error = told["error"]
    assert isinstance(error["message"], str) and len(error["message"]) > 3, (answer.body, shown)
    assert error["code"] and error["request_id"], (answer.body, shown)


# ---- literal families ---------------------------------------------------------------------------------

EVENT = {"event_id": "e1", "user_id": "u1", "anonymous_id": "anon-0123456789abcdef", "name": "view",
         "ts": 1790000000000, "props": {"price": 2.5, "item": "i1", "deep": {"a": [1, 2, {"b": None}]}}}
CALLS = {
    "/v1/track": {"userId": "u2", "event": "Product Added", "messageId": "m1", "properties": {"price": 1},
                  "timestamp": "2026-11-23T23:50:16.325Z", "context": {"library": {"name": "x"}}},
    "/v1/page": {"anonymousId": "anon-0123456789abcdef", "name": "Home", "properties": {"url": "https://x.example/"}},
    "/v1/screen": {"userId": "u2", "name": "Cart", "messageId": "m3"},
    "/v1/identify": {"userId": "u3", "anonymousId": "anon-0123456789abcdeg", "traits": {"plan": "gold"}},
    "/v1/group": {"userId": "u3", "groupId": "g1", "traits": {"n": 1}},
    "/v1/alias": {"userId": "u4", "previousId": "u5"},
    "/v1/batch": {"batch": [{"type": "track", "userId": "u6", "event": "x"}, {"type": "page", "userId": "u6"}],
                  "sentAt": "2026-11-23T23:50:16.325Z"},
}
PUSH = {"message": {"data": base64.b64encode(json.dumps(EVENT).encode()).decode(), "messageId": "17",
                    "publishTime": "2026-11-23T23:50:16.325Z"}, "subscription": "projects/p/subscriptions/s"}

BAD_UTF8 = [b"\xff", b"\xfe", b"\x80", b"\xbf", b"\xc0\x80", b"\xc1\xbf", b"\xc3", b"\xc3(", b"\xe0\x80\x80",
            b"\xe2\x82", b"\xe2(\xa1", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf0\x80\x80\x80", b"\xf0\x9f\x92",
            b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80",
            b"\xe3\x81", b"\x83\x8c", b"\xa4\xa2"]
BAD_STRINGS = [b"\\ud800", b"\\udc00", b"\\ud800\\ud800", b"\\ud83d\\u0041", b"\\u0000", b"\\u00", b"\\uzzzz", b"\\x41",
               b"\\'", b"\\", b"\x00", b"\x01", b"\x1f", b"\n", b"\t"]
BAD_NUMBERS = [b"01", b"+1", b".5", b"1.", b"1e", b"1e+", b"--1", b"-", b"0x10", b"NaN", b"Infinity", b"-Infinity",
               b"1_000", b"1,5", b"1e5e5", b"0b1", b"1.2.3", b"\xef\xbc\x91"]
ODD_NUMBERS = [b"1e999", b"-1e999", b"1e-999", b"-0", b"0e0", b"9" * 400, b"0." + b"0" * 400 + b"1", b"9223372036854775807",
               b"9223372036854775808", b"-9223372036854775809", b"18446744073709551616", b"1e308", b"4.9e-324"]
BAD_LITERALS = [b"True", b"nul", b"nulll", b"undefined", b"TRUE", b"fals", b"None", b"'a'", b"{a:1}", b"[1,]", b"[,1]",
                b"{\"a\":1,}", b"{\"a\"}", b"{\"a\":}", b"{:1}", b"{1:1}", b"[1 2]", b"{\"a\":1 \"b\":2}", b"//x", b"/*x*/1",
                b"\"", b"\"abc", b"[", b"{", b"]", b"}", b"[}", b"{]", b"\xef\xbb\xbf{}", b"<xml/>", b"a=b&c=d", b"---\n- a"]
WRONG = [None, True, False, 0, -1, 1, 1.5, 1e308, "", " ", "x", "\x00", "\u202e", "💥" * 80, "x" * 129, "x" * 300, "x" * 5000, [], [1],
         [[]], {}, {"a": 1}, {"": ""}, "2026-13-45T99:99:99Z", "now", "1790000000", 1790000000, 179000000000000000, -5, 2**63,
         "NaN", "null", "kizashi.x", "../../etc/passwd", "' OR 1=1 --", "%s%n%x", "${HOME}", "\r\nX: y"]
PATHS = ["/v1/users/{}/predictions", "/v1/users/{}/actions", "/v1/users/{}/actions?all=1", "/v1/users/{}/events",
         "/v1/users/{}/export", "/v1/users/{}/events/{}/trace", "/v1/users/u1/events/{}/trace", "/v1/erasures/{}",
         "/v1/admin/deadletters/{}", "/v2/models/{}", "/v2/models/{}/ready", "/v2/models/counter/versions/{}",
         "/v2/models/counter/versions/{}/ready", "/v1/{}", "/{}", "/v2/{}", "//{}", "/v1//users/{}/events"]
POST_PATHS = ["/v1/users/{}/actions/{}/ack", "/v1/users/u1/actions/{}/ack", "/v1/admin/models/{}/pause",
              "/v1/admin/models/{}/resume", "/v1/admin/models/{}/unfence", "/v1/admin/actions/{}/pause",
              "/v1/admin/actions/{}/resume", "/v1/admin/deadletters/{}/retry", "/v1/admin/deadletters/{}/drop",
              "/v1/{}", "/v1/events/{}", "/v1/batch/{}"]
IDS = ["%00", "%ff", "%C3%28", "%", "%2", "%zz", "%2f", "%2F..%2F..", "..", ".", "%2e%2e", "%25", "%20", "+", "%0d%0aX:%20y", ";", ",",
       "*", "~", "@", "a@", "@a", "u1%00", "a" * 300, "%41" * 300, "a" * 5000, "%F0%9F%92%A5", "%ED%A0%80", "'", "%22", "%5C", "<b>",
       "00000001:00001030", "ffffffff:ffffffff", "0", "-1", "1e9", "18446744073709551615", "18446744073709551616", "99999999999999999999999",
       "null", "{user}", "$", "&", "=", "a=b", "|", "^", "%7f", "%01", "%E3%81%82", "counter%00", "COUNTER", "counter ", "u1/", "u1//"]
QUERY_KEYS = ["limit", "before", "model", "all", "as_of", "stage", "wait", "timeout_ms", "key", "dest", "user", "from", "x", ""]
QUERY_VALUES = ["", "0", "-1", "1", "1e3", "99999999999999999999", "1.5", "abc", "%00", "%ff", "%", "%zz", "a" * 2000, "00000001:00001030",
                "ffffffff:ffffffff", "counter", "counter,counter", ",", ",,,,", "*", "counter%2c", "nosuch", "true", "null", "[]", "%5B%7B", "+",
                "%F0%9F%92%A5", "%ED%A0%80", "0x10", " ", "'", "collect", "shape,log"]


def rng(name):
    return random.Random(f"kizashi hostile 4711 {name}")


def dumps(value):
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def captured_bodies():
    """(path, body) of the captured client requests, where they are here."""
    path = SHARED / "data" / "sdk-captures" / "captures.json"
    if not path.exists():
        return []
    found = []
    for capture in json.loads(path.read_text()):
        body = capture["body"]
        if capture["method"] == "POST" and capture["path"].startswith("/v1/"):
            found.append((capture["path"], body.encode() if isinstance(body, str) else dumps(body)))
    return found


def otto_lines():
    path = SHARED / "data" / "otto-publisher-sample" / "train.jsonl"
    return path.read_bytes().splitlines() if path.exists() else []


def valid_bodies():
    ndjson = b"\n".join(dumps({**EVENT, "event_id": f"n{n}"}) for n in range(5)) + b"\n"
    bodies = [("/v1/events", dumps(EVENT)), ("/v1/events", dumps([EVENT, {**EVENT, "event_id": "e2"}])), ("/v1/events", ndjson)]
    return bodies + [(path, dumps(call)) for path, call in CALLS.items()]


def mutate(random_, data):
    """One to four small faults, as a broken client, proxy or disk would make them."""
    data = bytearray(data)
    for _ in range(random_.randint(1, 4)):
        at = random_.randrange(len(data)) if data else 0
        kind = random_.randrange(8)
        if kind == 0 and data:
            data[at] ^= 1 << random_.randrange(8)
        elif kind == 1:
            data[at:at] = bytes([random_.randrange(256)])
        elif kind == 2:
            del data[at:at + random_.randint(1, 20)]
        elif kind == 3:
            data[at:at] = data[at:at + random_.randint(1, 60)]
        elif kind == 4:
            data[at:at + 1] = random_.choice(BAD_UTF8 + BAD_STRINGS + BAD_NUMBERS + BAD_LITERALS)
        elif kind == 5:
            del data[at:]
        elif kind == 6:
            data[at:at + 8] = random_.choice([b"{", b"[", b'"', b":", b",", b"null", b"\x00"]) * random_.randint(1, 40)
        else:
            data[at:at + 1] = random_.choice(ODD_NUMBERS)
    return bytes(data)


def broken_json(random_):
    """Texts no reader of RFC 8259 takes as an event: each is refused as a whole or in its only event."""
    body = dumps(EVENT)
    for cut in range(1, len(body)):
        yield body[:cut]
    for bad in BAD_UTF8 + BAD_STRINGS:
        for where in (b'{"user_id":"u%s","name":"view"}', b'{"user_id":"u","name":"vi%sew"}', b'{"user_id":"u","name":"view","props":{"a":"%s"}}',
                      b'{"user_id":"u","name":"view","props":{"%s":1}}', b'{"event_id":"%s","user_id":"u","name":"v","x%s":1}'):
            yield where.replace(b"%s", bad)
    for bad in BAD_NUMBERS + BAD_LITERALS:
        yield b'{"user_id":"u","name":"view","props":{"a":' + bad + b"}}"
        yield b'{"user_id":' + bad + b',"name":"view"}'
        yield bad
    for depth in (65, 129, 1000, 10000, 1000000):
        yield b"[" * depth
        yield b'{"a":' * depth
        yield b'{"user_id":"u","name":"v","props":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
        yield b'{"user_id":"u","name":"v","props":{"a":' + b"[" * depth + b"]" * depth + b"}}"
        yield b'[{"a":' * depth
    for _ in range(400):
        yield random_.randbytes(random_.choice([1, 2, 3, 7, 64, 500, 5000]))
    for blank in (b" ", b"\n", b"\r\n\r\n", b"\x00", b"\x00" * 1000, b"\t" * 100000, b"\n" * 1000000):
        yield blank


def wrong_types():
    """Every member of an event and of every call with every wrong value; also missing, doubled, and in an array."""
    forms = [("/v1/events", EVENT)] + list(CALLS.items()) + [("/v1/batch", CALLS["/v1/batch"]["batch"][0])]
    for path, form in forms:
        for member in list(form):
            for wrong in WRONG:
                yield path, dumps({**form, member: wrong})
            yield path, dumps({k: v for k, v in form.items() if k != member})
            yield path, dumps(form)[:-1] + b"," + dumps({member: 1})[1:]
    for wrong in WRONG:
        for form in ([wrong], [wrong, EVENT], {"batch": wrong}, {"batch": [wrong]}, wrong):
            yield "/v1/events", dumps(form)
            yield "/v1/batch", dumps(form)
        for member in ("price", "item", "$", "price.a"):
            yield "/v1/events", dumps({**EVENT, "props": {member: wrong}})
        for push in ({"message": wrong}, {"message": {"data": wrong}}, {**PUSH, "message": {**PUSH["message"], "messageId": wrong}},
                     {**PUSH, "message": {**PUSH["message"], "publishTime": wrong}}, wrong):
            yield "/v1/pubsub/push", dumps(push)


def packed(random_):
    """(body, headers) that are gzip, deflate or claim to be."""
    gzipped = [("Content-Encoding", "gzip")]
    good = gzip.compress(dumps([{**EVENT, "event_id": f"g{n}"} for n in range(20)]))
    for cut in range(1, len(good) - 1, 2):
        yield good[:cut], gzipped
    for _ in range(200):
        yield mutate(random_, good), gzipped
    for size in (0, 1, 10, 1000, 100000):
        yield b"\x1f\x8b" + random_.randbytes(size), gzipped
        yield b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03" + random_.randbytes(size), gzipped
        yield random_.randbytes(size + 1), [("Content-Encoding", "deflate")]
    bomb = gzip.compress(b" " * (256 << 20), 9)
    array = gzip.compress(b"[" + b'{"user_id":"u","name":"v"},' * 2000000 + b"{}]", 6)
    for body in (bomb, array, gzip.compress(bomb), gzip.compress(b"[" * (20 << 20)), zlib.compress(b"\0" * (128 << 20))):
        yield body, gzipped
        yield body, [("Content-Encoding", "deflate")]
    yield gzip.compress(gzip.compress(dumps(EVENT))), gzipped
    for encoding in ("br", "zstd", "compress", "gzip, gzip", "identity, gzip", "x" * 3000, "\x80", ""):
        yield good[5:], [("Content-Encoding", encoding)]
        yield b"{", [("Content-Encoding", encoding)]


def huge(random_):
    """(body, allowed): over one limit or another."""
    for size in (200, 1000, 70000, 300000, 2000000):
        for member in ("user_id", "event_id", "name", "ts", "anonymous_id"):
            yield dumps({**EVENT, member: "h" * size}), {200} if size == 200 and member.endswith("id") else {400, 413}
        yield dumps({**EVENT, "props": {"a": "h" * size}}), {200, 400, 413}
        yield dumps({**EVENT, "props": {"h" * size: 1}}), {200, 400, 413}
        yield dumps({**EVENT, "h" * size: 1}), {200, 400, 413}
        yield dumps({**EVENT, "props": {f"k{n}": n for n in range(size // 10)}}), {200, 400, 413}
    yield b"[" + b",".join([b"{}"] * 10001) + b"]", {413}
    yield b"{}\n" * 10001, {413}
    yield b"[" + b",".join([b"1"] * 10000) + b"]", {200}
    yield b"[" + b"[]," * 9999 + b"[]]", {200}
    yield b"1\n" * 500000, {400, 413}
    yield b"x" * (8 << 20), {400}
    yield random_.randbytes(4 << 20), {400}
    yield b'"' + b"\\u0041" * 1000000 + b'"', {400}
    yield b'{"user_id":"u","name":"v","props":{"a":"' + b"\\n" * 3000000 + b'"}}', {400, 413}
    yield b"[" + b'{"user_id":"' + b"\\u0041" * 1300000 + b'"}]', {200, 400, 413}


FRAMING = [
    # (bytes, allowed statuses; empty: may also be closed without an answer)
    (b"GET / HTTP/1.1\r\n\r\n", {400}),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", {400}),
    (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", {400}),
    (b"GET /\r\n\r\n", {400, 505}),
    (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", {505, 400}),
    (b"GET / HTTP/9.9\r\n" + HOST + b"\r\n", {505, 400}),
    (b"GET / HTTP/1.1\n" + b"Host: x\n\n", {400}),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {505, 400, 405}),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500, {400}),
    (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", {400}),
    (b"GET / HTTP/1.1\r\n" + HOST + b" folded: x\r\n\r\n", {400}),
    (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n c\r\n\r\n", {400}),
    (b"GET / HTTP/1.1\r\n" + HOST + b"A\x00: b\r\n\r\n", {400}),
    (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\x00c\r\n\r\n", {400}),
    (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\rc\r\n\r\n", {400}),
    (b"GET / HTTP/1.1\r\n" + HOST + b": b\r\n\r\n", {400}),
    (b"GET / HTTP/1.1\r\n" + HOST + b"no colon\r\n\r\n", {400}),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 70000 + b"\r\n\r\n", {431}),
    (b"GET / HTTP/1.1\r\n" + HOST + b"".join(b"X%d: y\r\n" % n for n in range(2000)) + b"\r\n", {431}),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 5000 + b"\r\n", {431}),
    (b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", {431, 414}),
    (b"GET /?" + b"a=b&" * 20000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", {431, 414}),
    (b"G" * 70000, {400, 431}),
    (b"POST /v1/events HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", {400}),
    (b"POST /v1/events HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", {400}),
    (b"POST /v1/events HTTP/1.1\r\n" + HOST + b"Content-Length: 2, 2\r\n\r\n{}", {400}),
    (b"POST /v1/events HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n", {400}),
    (b"POST /v1/events HTTP/1.1\r\n" + HOST + b"Content-Length: +2\r\n\r\n{}", {400}),
    (b"POST /v1/events HTTP/1.1\r\n" + HOST + b"Content-Length: 0x2\r\n\r\n{}", {400}),
    (b"POST /v1/events HTTP/1.1\r\n" + HOST + b"Content-Length: 2.0\r\n\r\n{}", {400}),
    (b"POST /v1/events HTTP/1.1\r\n" + HOST + b"Content-Length: \r\n\r\n{}", {400}),
    (b"POST /v1/events HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999999999999\r\n\r\n{}", {400, 413}),
    (b"POST /v1/events HTTP/1.1\r\n" + HOST + b"Content-Length: 999999999999\r\n\r\n{}", {413}),
    (b"POST /v1/events HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
    (b"POST /v1/events HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
    (b"POST /v1/events HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", {501, 400}),
    (b"POST /v1/events HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", {501, 400}),
    (b"POST /v1/events HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", {501, 400}),
    (b"POST /v1/events HTTP/1.1\r\n" + HOST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", {501, 400}),
    (b"POST /v1/events HTTP/1.1\r\n" + HOST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", {400}),
    (b"POST /v1/events HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
    (b"POST /v1/events HTTP/1.1\r\n" + HOST + b"Expect: 200-ok\r\nContent-Length: 2\r\n\r\n{}", {417}),
    (b"CONNECT example.com:80 HTTP/1.1\r\n" + HOST + b"\r\n", {400, 404, 405}),
    (b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", {200, 400, 403, 404}),  # the page holds nothing
    (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", {400, 404}),
    (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", {200, 204, 400, 404, 405}),
    (b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n", {400, 404}),
    (b"G\x00T / HTTP/1.1\r\n" + HOST + b"\r\n", {400}),
    (b"\r\n\r\n\r\n\r\nGET /nothing HTTP/1.1\r\n" + HOST + b"\r\n", {400, 404}),
]
CHUNKS = [b"zz\r\n", b"-1\r\n", b"+2\r\n{}\r\n0\r\n\r\n", b"0x2\r\n{}\r\n0\r\n\r\n", b"2\n{}\n0\n\n", b"2\r\n{}0\r\n\r\n", b"2 \r\n{}\r\n0\r\n\r\n",
          b" 2\r\n{}\r\n0\r\n\r\n", b"3\r\n{}\r\n0\r\n\r\n", b"1\r\n{}\r\n0\r\n\r\n", b"\r\n{}\r\n0\r\n\r\n", b"ffffffffffffffff\r\n{}", b"fffffffffffffff\r\n{}",
          b"7fffffffffffffff\r\n", b"10000000000000000\r\n", b"00000000000000000002\r\n{}\r\n0\r\n\r\n", b"1000000000\r\n", b"2;" + b"x" * 9000 + b"\r\n{}\r\n0\r\n\r\n",
          b"0\r\n" + b"T: x\r\n" * 3000 + b"\r\n", b"2;a=\x00\r\n{}\r\n0\r\n\r\n", b"2\r\r\n{}\r\n0\r\n\r\n", b"2\r\n{}\r\r0\r\n\r\n", b"1\r\n{\r\n" * 3 + b"x\r\n", b"\xff\r\n"]
HEADERS = [("Range", v) for v in ("bytes=0-0", "bytes=-1", "bytes=5-2", "lines=1", "bytes=" + "0-1," * 500)] + \
    [("Upgrade", v) for v in ("websocket", "h2c", "TLS/1.0", "x" * 500)] + \
    [("Connection", v) for v in ("Upgrade, HTTP2-Settings", "keep-alive, keep-alive", ",,,", "x" * 500, "TE, trailers")] + \
    [("Expect", "100-continue"), ("TE", "trailers, deflate;q=0.5"), ("Trailer", "Content-Length"), ("Max-Forwards", "-1"), ("If-Match", "*"),
     ("If-None-Match", "\"x\""), ("If-Modified-Since", "yesterday"), ("Accept", "application/x-nothing"), ("Accept", "*" * 900),
     ("Accept-Encoding", "gzip;q=NaN"), ("Accept-Language", "\x80\x81"), ("Cookie", "a=" + "b" * 9000), ("Date", "never"), ("Via", "1.1 x" * 100),
     ("X-Forwarded-For", "' OR 1=1"), ("Forwarded", "for=_x"), ("X-HTTP-Method-Override", "DELETE"), ("Content-Type", "a/b; charset=utf-7"),
     ("Content-Type", "multipart/form-data; boundary="), ("Content-MD5", "x"), ("Content-Range", "bytes 0-1/2"), ("User-Agent", ""), ("Referer", "\xff"),
     ("X-Kizashi-User-Token", "a.b.c"), ("Traceparent", "00-x-y-z"), ("Sec-WebSocket-Key", "x"), ("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA")] + \
    [("Authorization", v) for v in ("", "Bearer", "Bearer ", "Bearer kz_w_x", "Bearer " + "k" * 5000, "Basic", "Basic !!!!", "Basic Og==", "Basic gICA", "Digest x",
                                    "Bearer kz_a_' OR 1=1", "bearer\t\tx", "Basic " + "QQ==" * 2000, "Bearer \x80\xff", "Negotiate YII=")] + \
    [("Origin", v) for v in ("null", "http://", "https://evil.example", "x" * 3000, "http://127.0.0.1.evil.example", "\x80")] + \
    [("Host", v) for v in ("evil.example", "", "[::1", "127.0.0.1:99999999", "a b", "x" * 3000)]
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND", "get", "G", "X-Y", "!#$%&'*+-.^_`|~", "M" * 200]

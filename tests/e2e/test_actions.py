"""Actions: decided once, capped, held out, delivered, acknowledged; webhooks signed and retried."""

import hashlib
import hmac
import http.server
import json
import threading

import harness

ACTION = """
actions:
  coupon:
    mode: on
    when: counter.score >= 2
    holdout: {holdout}
    caps: [{{max: 1, per: user, every: 24h}}]
    deliver: {deliver}
"""


def action(deliver="{web: {title: '10% off', code: KZ10}, valid_for: 10m}", holdout="0%"):
    return harness.YAML + ACTION.format(deliver=deliver, holdout=holdout)


def view(number, user="u1"):
    return {"event_id": f"e{number}", "user_id": user, "name": "view"}


def ask(server, *events):
    return server.send(*events, query="?wait=counter&timeout_ms=5000")


def test_a_coupon_is_decided_once_shown_and_acknowledged(start):
    server = start(yaml=action())
    for number in range(5):
        ask(server, view(number))
    waiting = server.wait(lambda: server.get("/v1/users/u1/actions").json()["actions"], 5, "the coupon")
    assert len(waiting) == 1 and "KZ10" in json.dumps(waiting[0])
    server.kill()
    server.start()
    assert server.get("/v1/users/u1/actions").json()["actions"] == waiting
    ack = server.post(f"/v1/users/u1/actions/{waiting[0]['action_id']}/ack", "")
    assert ack.status in (200, 204), ack.body
    assert server.get("/v1/users/u1/actions").json()["actions"] == []
    ask(server, view(10))
    decisions = [d["decision"] for d in harness.dump(server.data, "--type", "decision")]
    assert decisions.count("deliver") == 1 and set(decisions) <= {"deliver", "capped"}
    # What the action did is in the history, and features do not see it.
    names = [e["name"] for e in server.get("/v1/users/u1/events").json()["events"]]
    assert "kizashi.action_delivered" in names and "kizashi.action_shown" in names
    assert server.get("/v1/users/u1/predictions").json()["predictions"][0]["score"] == 6.0


def test_the_held_out_never_see_it(start):
    server = start(yaml=action(holdout="100%"))
    for number in range(3):
        ask(server, view(number))
    assert {d["decision"] for d in harness.dump(server.data, "--type", "decision")} == {"holdout"}
    assert server.get("/v1/users/u1/actions").json()["actions"] == []


def test_paused_actions_do_nothing(start):
    server = start(yaml=action())
    url = f"http://127.0.0.1:{server.port}"
    harness.run("actions", "pause", "--all", "--url", url, check=0)
    ask(server, view(1), view(2))
    assert server.get("/v1/users/u1/actions").json()["actions"] == []
    assert [p["what"] for p in server.get("/v1/admin/status").json()["problems"]] == ["1 of 1 actions are paused"]
    harness.run("actions", "resume", "--all", "--url", url, check=0)
    assert server.get("/v1/admin/status").json()["problems"] == []
    ask(server, view(3))
    server.wait(lambda: server.get("/v1/users/u1/actions").json()["actions"], 5, "the coupon")


class Receiver(http.server.BaseHTTPRequestHandler):
    """Answers 503 twice, then 200, and keeps what it got."""

    got = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((dict(self.headers), body))
        self.send_response(503 if len(self.got) <= 2 else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_webhook_is_signed_retried_and_keeps_its_key(start):
    Receiver.got = []
    receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{receiver.server_port}/hook"
    server = start(yaml=action(deliver=f"{{webhook: {{url: '{url}', secret: 's3cret', body: {{code: KZ10}}}}}}"))
    ask(server, view(1), view(2))
    server.wait(lambda: len(Receiver.got) >= 3, 20, "the third attempt")
    keys = {headers["Idempotency-Key"] for headers, _ in Receiver.got}
    assert len(keys) == 1
    headers, body = Receiver.got[-1]
    signed = f"{headers['Kizashi-Timestamp']}.".encode() + body
    assert headers["Kizashi-Signature"] == "v1=" + hmac.new(b"s3cret", signed, hashlib.sha256).hexdigest()
    assert json.loads(body)["user_id"] == "u1"
    server.wait(lambda: [d for d in harness.dump(server.data, "--type", "delivery") if d["state"] == "sent"], 10, "the end")
    said = [line.split(" ", 1)[1].strip() for line in server.read_log().splitlines() if "webhook" in line]
    name = said[0].split("action=")[1].split()[0]
    assert said == [f'warn  a webhook failed action={name} attempt=1 of=8 reason="503 Service Unavailable"',
                    f"info  webhooks are taken again action={name}"], said
    receiver.shutdown()


def test_the_stream_shows_predictions_and_coupons_as_they_happen(start):
    import socket
    server = start(yaml=action())
    with socket.create_connection(("127.0.0.1", server.port), timeout=harness.PATIENCE_S * harness.SLOW) as stream:
        stream.sendall(b"GET /v1/users/u1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        ask(server, view(1), view(2))
        text = b""
        while b"event: action" not in text or b"KZ10" not in text:
            piece = stream.recv(65536)
            assert piece, text
            text += piece
    assert text.count(b"event: prediction") == 2

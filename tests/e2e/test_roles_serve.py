"""All four roles in one process over the backends in memory, asked over HTTP as anybody would."""

import hashlib
import hmac
import http.server
import json
import socket
import threading

import pytest

import harness
from test_actions import Receiver, action

ROLES = ["--role", "collect,process,infer,serve", "--backend", "memory"]


def view(number, user="u1", **props):
    return {"event_id": f"e{number}", "user_id": user, "name": "view", "props": props}


def ask(server, *events):
    answer = server.send(*events, query="?wait=counter&timeout_ms=8000")
    assert answer["pending"] == [], answer
    return answer["predictions"]


def waiting(server, user="u1"):
    return server.get(f"/v1/users/{user}/actions").json()["actions"]


def test_a_prediction_is_waited_for_and_read(start):
    server = start(args=ROLES)
    assert ask(server, view(1, price=2.5))[0]["score"] == 1.0
    prediction = ask(server, view(2))[0]
    assert prediction["score"] == 2.0 and prediction["event_id"] == "e2"
    assert server.get("/v1/users/u1/predictions").json()["predictions"] == [prediction]
    events = server.get("/v1/users/u1/events").json()["events"]
    assert [e["event_id"] for e in events] == ["e2", "e1"]
    page = server.get("/v1/users/u1/events?limit=1").json()
    assert [e["event_id"] for e in page["events"]] == ["e2"]
    page = server.get(f"/v1/users/u1/events?limit=1&before={page['next']}").json()
    assert [e["event_id"] for e in page["events"]] == ["e1"]
    stages = server.get("/v1/users/u1/events/e1/trace").json()["stages"]
    request = [s for s in stages if s["stage"] == "request"][0]
    assert request["end"] == "done" and request["score"] == 1.0
    assert server.get("/v1/users/nobody/predictions").json()["predictions"] == []
    assert server.get("/readyz").status == 200
    assert server.stop() == 0


WAITS = """
project: testshop
triggers:
  viewing: {when: name = 'view'}
  calm: {when: "name IN ('calm', 'both')", debounce: 60s}
  late: {when: "name IN ('late', 'both')", delay: 60s}
  often: {count: {of: "name = 'often'", within: 1h, reaches: 3}}
models:
  counter: {trigger: viewing, path: models/counter, features: features/counter.sql, valid_for: 1h}
  calm: {trigger: calm, path: models/counter, features: features/counter.sql, valid_for: 1h}
  late: {trigger: late, path: models/counter, features: features/counter.sql, valid_for: 1h}
  often: {trigger: often, path: models/counter, features: features/counter.sql, valid_for: 1h}
"""


def test_what_an_event_did_not_ask_is_told_at_once_with_the_reason(start):
    server = start(args=ROLES, yaml=WAITS, sql="SELECT count(*) AS views FROM events\n")

    def told(*names, models="counter,calm,late,often", first=1):
        events = [{"event_id": f"{name}{number}", "user_id": "u1", "name": name}
                  for number, name in enumerate(names, first)]
        answer = server.send(*events, query=f"?wait={models}&timeout_ms=10000")
        reasons = {pending["model"]: pending["reason"] for pending in answer["pending"]}
        return reasons, [prediction["model"] for prediction in answer["predictions"]]

    nothing = {model: "not_triggered" for model in ("counter", "calm", "late", "often")}
    assert told("login") == (nothing, [])
    assert told("late") == (nothing | {"late": "delayed"}, [])
    assert told("often") == (nothing, [])  # counted, and not there yet
    others = {model: "not_triggered" for model in ("calm", "late", "often")}
    assert told("view") == (others, ["counter"])
    assert told("view", first=1) == (nothing, [])  # it was there before: nobody was asked now
    # The first of a debounced rule is asked at once, those within the window later.
    assert told("calm", models="calm,late", first=1) == ({"late": "not_triggered"}, ["calm"])
    assert told("both", models="calm,late") == ({"calm": "debounced", "late": "delayed"}, [])
    # Of several events one that asks is enough, and one that asks later says more than one that does not.
    assert told("login", "view", "late", models="counter,late", first=20) == ({"late": "delayed"}, ["counter"])
    assert told("login", "login", "login", models="counter", first=30) == ({"counter": "not_triggered"}, [])


CHAIN = """
project: testshop
triggers:
  viewing: {when: name = 'view'}
models:
  counter: {trigger: viewing, path: models/counter, features: features/counter.sql, valid_for: 1h}
  next: {trigger: {after: counter, when: counter.score > 1.5}, path: models/counter, features: features/counter.sql, valid_for: 1h}
  third: {trigger: {after: next}, path: models/counter, features: features/counter.sql, valid_for: 1h}
"""


def test_who_waited_for_a_model_after_another_that_was_not_asked_waited_in_vain(start):
    server = start(args=ROLES, yaml=CHAIN, sql="SELECT count(*) AS views FROM events\n")

    def told(*events, models="counter,next,third"):  # in vain, they end as "timeout"
        answer = server.send(*events, query=f"?wait={models}&timeout_ms=10000")
        return ({pending["model"]: pending["reason"] for pending in answer["pending"]},
                sorted(prediction["model"] for prediction in answer["predictions"]))

    nothing = {"next": "not_triggered", "third": "not_triggered"}
    assert told(view(1)) == (nothing, ["counter"])  # its score is 1: nobody is asked after it
    assert told(view(2)) == ({}, ["counter", "next", "third"])
    assert told(view(1, user="u2"), models="third") == ({"third": "not_triggered"}, [])
    assert told({"user_id": "u3", "name": "login"}) == (nothing | {"counter": "not_triggered"}, [])
    # Of two users one is far enough: the other's word is not the last.
    assert told(view(1, user="u4"), view(3), models="next,third") == ({}, ["next", "third"])


TWICE = """
project: testshop
triggers:
  now: {when: "name IN ('view', 'both')"}
  later: {when: "name IN ('cart', 'both')", delay: 300ms}
models:
  counter: {trigger: [now, later], path: models/counter, features: features/counter.sql, valid_for: 1h}
  next: {trigger: {after: counter, when: counter.score > 1.5}, path: models/counter, features: features/counter.sql, valid_for: 1h,
         config: {sleep: 3}, timeout: 20s}
"""
FALLS = """
import time

import kizashi


class Falls(kizashi.Model):
    \"\"\"The first batch gets 2, the others 1.\"\"\"
    def load(self, ctx):
        self.sleep_s = ctx.config.get("sleep", 0)
        self.score = 2.0

    def predict(self, batch):
        time.sleep(self.sleep_s)
        score, self.score = self.score, 1.0
        return [score for _ in batch.features]
"""


@pytest.mark.parametrize("names", [("both",), ("view", "cart")])
def test_a_model_asked_now_and_once_more_by_a_timer_counted_twice_for_who_waits_for_the_next(start, names):
    server = start(args=ROLES, yaml=TWICE, sql="SELECT count(*) AS views FROM events\n", model=FALLS)
    events = [{"event_id": name, "user_id": name, "name": name} for name in names]
    answer = server.send(*events, query="?wait=next&timeout_ms=10000")
    # The second answer of "counter" asks nobody, and comes while "next" is at work for the first.
    assert not answer["pending"] and [row["user_id"] for row in answer["predictions"]] == [names[0]], answer


def test_who_waits_for_an_event_that_is_refused_is_told_of_the_others(start):
    server = start(args=ROLES)
    answer = server.send({"user_id": "u1"}, {"user_id": "u1", "name": "login"}, query="?wait=counter&timeout_ms=10000")
    assert [rejected["code"] for rejected in answer["rejected"]] == ["missing_name"] and answer["accepted"] == 1
    assert answer["pending"] == [{"model": "counter", "reason": "not_triggered"}]


def test_a_coupon_is_decided_once_shown_and_acknowledged(start):
    server = start(yaml=action(), args=ROLES)
    for number in range(5):
        ask(server, view(number))
    coupon = server.wait(lambda: waiting(server), 5, "the coupon")
    assert len(coupon) == 1 and "KZ10" in json.dumps(coupon[0])
    ack = f"/v1/users/u1/actions/{coupon[0]['action_id']}/ack"
    assert server.post(ack, "").status == 200
    assert waiting(server) == [] and server.post(ack, "").status == 404
    decisions = server.get("/v1/users/u1/actions?all=1").json()["actions"]
    assert sorted(d["decision"] for d in decisions) == ["capped"] * 3 + ["deliver"]
    assert [d["delivery"] for d in decisions if d["decision"] == "deliver"] == ["shown"]

    def told():
        names = [e["name"] for e in server.get("/v1/users/u1/events").json()["events"]]
        return "kizashi.action_delivered" in names and "kizashi.action_shown" in names

    server.wait(told, 10, "what the action did in the history")
    assert ask(server, view(10))[0]["score"] == 6.0  # and features do not see it


def test_a_login_brings_the_visitor_s_predictions_along(start):
    server = start(yaml=action(), args=ROLES)
    for number in range(2):
        answer = server.send({"event_id": f"a{number}", "anonymous_id": "device", "name": "view"},
                             query="?wait=counter&timeout_ms=8000")
        assert answer["pending"] == []
    server.wait(lambda: waiting(server, "anonymous:device"), 5, "the visitor's coupon")
    assert server.post("/v1/identify", {"userId": "bob", "anonymousId": "device"}).status == 200
    server.wait(lambda: waiting(server, "bob"), 5, "the coupon of who logged in")
    prediction = server.get("/v1/users/bob/predictions").json()["predictions"][0]
    assert prediction["score"] == 2.0
    assert ask(server, view(3, "bob"))[0]["score"] == 3.0
    decisions = server.get("/v1/users/bob/actions?all=1").json()["actions"]
    assert sorted(d["decision"] for d in decisions) == ["capped", "deliver"]


def test_a_webhook_is_signed_retried_and_keeps_its_key(start):
    Receiver.got = []
    receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{receiver.server_port}/hook"
    server = start(yaml=action(f"{{webhook: {{url: '{url}', secret: 's3cret', body: {{code: KZ10}}}}}}"), args=ROLES)
    ask(server, view(1))
    ask(server, view(2))
    server.wait(lambda: len(Receiver.got) >= 3, 20, "the third attempt")
    assert len({headers["Idempotency-Key"] for headers, _ in Receiver.got}) == 1
    headers, body = Receiver.got[-1]
    signed = f"{headers['Kizashi-Timestamp']}.".encode() + body
    assert headers["Kizashi-Signature"] == "v1=" + hmac.new(b"s3cret", signed, hashlib.sha256).hexdigest()
    assert json.loads(body)["user_id"] == "u1"

    def sent():
        decisions = server.get("/v1/users/u1/actions?all=1").json()["actions"]
        return [d for d in decisions if d.get("delivery") == "sent"]

    server.wait(sent, 10, "the end of the delivery")
    # One line when the receiver begins to fail, one when it is well again.
    said = [line.split(" ", 1)[1].strip() for line in server.read_log().splitlines() if "webhook" in line]
    name = said[0].split("action=")[1].split()[0]
    assert said == [f'warn  a webhook failed action={name} attempt=1 of=8 reason="503 Service Unavailable"',
                    f"info  webhooks are taken again action={name}"], said
    receiver.shutdown()


def test_the_stream_shows_predictions_and_coupons_as_they_happen(start):
    server = start(yaml=action(), args=ROLES)
    with socket.create_connection(("127.0.0.1", server.port), timeout=harness.PATIENCE_S * harness.SLOW) as stream:
        stream.sendall(b"GET /v1/users/u1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        text = stream.recv(65536)
        ask(server, view(1))
        ask(server, view(2))
        while b"event: action" not in text or b"KZ10" not in text:
            piece = stream.recv(65536)
            assert piece, text
            text += piece
    assert text.count(b"event: prediction") == 2


FAILING = """
import os

import kizashi


class Counter(kizashi.Model):
    def predict(self, batch):
        if not os.path.exists(self.ctx.path + "/mended"):
            raise ValueError("no luck today")
        return [float(row[0]) for row in batch.features]

    def load(self, ctx):
        self.ctx = ctx
"""


def test_a_dead_letter_is_shown_and_tried_again(start):
    server = start(model=FAILING, args=ROLES)
    answer = server.send(view(1), query="?wait=counter&timeout_ms=8000")
    assert answer["pending"] == [{"model": "counter", "reason": "dead_letter"}], answer
    letters = server.wait(lambda: server.get("/v1/admin/deadletters").json()["dead_letters"], 5, "the letter")
    assert len(letters) == 1 and letters[0]["code"] == "exception" and "no luck" in letters[0]["reason"]
    one = server.get(f"/v1/admin/deadletters/{letters[0]['id']}").json()
    assert "Traceback" in one["reason"]
    (harness.pathlib.Path(server.project) / "models/counter/mended").write_text("")
    answer = server.post(f"/v1/admin/deadletters/{letters[0]['id']}/retry", "")
    assert answer.status == 200 and answer.json()["count"] == 1, answer.body
    prediction = server.wait(lambda: server.get("/v1/users/u1/predictions").json()["predictions"], 10, "it")
    assert prediction[0]["event_id"] == "e1"
    assert server.get("/v1/admin/deadletters").json()["dead_letters"] == []


def test_an_operator_pauses_and_resumes(start):
    server = start(yaml=action(), args=ROLES)
    url = f"http://127.0.0.1:{server.port}"
    harness.run("actions", "pause", "--all", "--url", url, check=0)
    ask(server, view(1))
    ask(server, view(2))
    assert waiting(server) == []
    assert [p["what"] for p in server.get("/v1/admin/status").json()["problems"]] == ["1 of 1 actions are paused"]
    harness.run("actions", "resume", "--all", "--url", url, check=0)
    ask(server, view(3))
    server.wait(lambda: waiting(server), 5, "the coupon")
    harness.run("models", "pause", "counter", "--url", url, check=0)
    model = lambda: server.get("/v1/admin/status").json()["models"][0]  # noqa: E731
    server.wait(lambda: model()["state"] == "paused", 5, "the pause")
    answer = server.send(view(4), query="?wait=counter&timeout_ms=1500")
    assert answer["pending"][0]["reason"] == "timeout"
    harness.run("models", "resume", "counter", "--url", url, check=0)
    server.wait(lambda: server.get("/v1/users/u1/predictions").json()["predictions"][0]["score"] == 4.0, 10, "it")


def test_an_erased_user_is_gone(start):
    server = start(yaml=action(), args=ROLES)
    ask(server, view(1))
    ask(server, view(2))
    server.wait(lambda: waiting(server), 5, "the coupon")
    answer = server.request("DELETE", "/v1/users/u1")
    assert answer.status == 202
    erasure = answer.json()["erasure_id"]
    assert server.get("/v1/users/u1/predictions").json()["predictions"] == []
    assert server.get("/v1/users/u1/events").json()["events"] == []
    assert waiting(server) == []
    assert server.get(f"/v1/erasures/{erasure}").json()["state"] in ("running", "done")
    assert server.get("/v1/erasures/12345").status == 404
    assert server.stop() == 0


@pytest.mark.parametrize("path", ["/metrics", "/v1/admin/status", "/v1/admin/top", "/v2/models/counter/ready"])
def test_numbers_are_there(start, path):
    server = start(args=ROLES)
    ask(server, view(1))
    answer = server.get(path)
    assert answer.status == 200
    if path == "/metrics":
        for name in ("kizashi_role_infer_requests_total 1", 'kizashi_backlog_messages{role="infer"} 0',
                     "kizashi_predictions_writes_total 1", "kizashi_requests_done_total 1"):
            # Who waited is told before the last of it is counted and acknowledged.
            server.wait(lambda name=name: name in server.get(path).body.decode(), 10, name)


def test_top_showed_zeros_of_a_log_that_roles_do_not_have(start):
    server = start(args=ROLES)
    ask(server, view(1), view(2))
    status = server.get("/v1/admin/status").json()
    assert "log" not in status and [role["name"] for role in status["roles"]] == ["collect", "process", "infer", "serve"]
    backends = status["backends"]
    assert backends["bus"]["name"] == "memory" and backends["bus"]["published_total"] >= 2 and "problem" not in backends["bus"]
    assert backends["store"]["commits_total"] >= 1 and backends["predictions"]["writes_total"] >= 1
    screen = harness.run("top", "--once", "--url", f"http://127.0.0.1:{server.port}", check=0).stdout.decode()
    for word in ("process      backlog 0", "bus          memory: in ", "store        memory: commits ", "predictions  memory: writes "):
        assert word in screen, screen
    assert "fsyncs" not in screen and "segments" not in screen, screen


LOADING = """
import os

import kizashi


class Counter(kizashi.Model):
    def load(self, ctx):
        if not os.path.exists(ctx.path + "/mended"):
            raise ValueError("the weights are not there")

    def predict(self, batch):
        return [float(row[0]) for row in batch.features]
"""


def test_a_fenced_model_s_requests_wait_on_the_bus(start):
    server = start(model=LOADING, args=ROLES)
    model = lambda: server.get("/v1/admin/status").json()["models"][0]  # noqa: E731
    server.wait(lambda: model()["state"] == "fenced", 60, "the fence")
    server.send(view(1), view(2))
    (harness.pathlib.Path(server.project) / "models/counter/mended").write_text("")
    harness.run("models", "unfence", "counter", "--url", f"http://127.0.0.1:{server.port}", check=0)
    server.wait(lambda: server.get("/v1/users/u1/predictions").json()["predictions"][0]["score"] == 2.0, 30, "it")
    assert server.get("/v1/admin/deadletters").json()["dead_letters"] == []


def test_a_push_is_answered_when_all_is_done(start):
    server = start(args=["--role", "collect,process,infer,serve", "--backend", "memory", "--push"])
    # With collect in the process a push is of events; infer's is asked for by its role alone. See docs/http.md.
    answer = server.post("/v1/pubsub/push", {"message": {"data": "bm90IGpzb24=", "messageId": "1"}})
    assert answer.status == 204

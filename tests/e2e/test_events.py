"""Events in: forms, duplicates, rejections, time, identity, the Segment clients' real requests."""

import gzip
import json
import os
import pathlib
import time

import pytest

import harness

SHARED = pathlib.Path(os.environ.get("KZ_SHARED", harness.ROOT.parent / "shared"))


def event(number=1, user="u1", name="view", **more):
    return {"event_id": f"e{number}", "user_id": user, "name": name, "props": {"price": 2.5}, **more}


def test_one_object_an_array_and_ndjson_are_the_same(server):
    assert server.post("/v1/events", event(1)).json()["accepted"] == 1
    assert server.post("/v1/events", [event(2), event(3)]).json()["accepted"] == 2
    lines = "\n".join(json.dumps(event(n)) for n in (4, 5, 6)) + "\n"
    assert server.post("/v1/events", lines).json()["accepted"] == 3
    packed = gzip.compress(json.dumps([event(7)]).encode())
    assert server.post("/v1/events", packed, headers={"Content-Encoding": "gzip"}).json()["accepted"] == 1
    found = server.get("/v1/users/u1/events").json()["events"]
    assert [e["event_id"] for e in found] == ["e7", "e6", "e5", "e4", "e3", "e2", "e1"]
    assert found[0]["props"] == {"price": 2.5}


def test_an_id_is_made_up_where_none_was_sent(server):
    answer = server.send({"user_id": "u1", "name": "view"})
    assert answer["accepted"] == 1 and len(answer["event_ids"][0]) == 26
    assert server.get("/v1/users/u1/events").json()["events"][0]["event_id"] == answer["event_ids"][0]


def test_a_duplicate_has_no_second_effect_also_after_a_restart(server):
    assert server.send(event(1))["accepted"] == 1
    assert server.send(event(1)) | {"rejected": []} == {"accepted": 0, "duplicates": 1, "rejected": []}
    assert server.send(event(1, user="other"))["accepted"] == 1  # ids are unique for a user
    server.kill()
    server.start()
    assert server.send(event(1))["duplicates"] == 1
    assert len(server.get("/v1/users/u1/events").json()["events"]) == 1
    requests = [r for r in harness.dump(server.data, "--type", "request")]
    assert len(requests) == 2


def test_partial_acceptance_says_why_and_keeps_what_was_rejected(server):
    answer = server.send(event(1), {"user_id": "u1"}, {"name": "view"}, event(2, props="no object"),
                         event(3, props={"price": "dear"}), event(4))
    assert answer["accepted"] == 2
    assert [r["index"] for r in answer["rejected"]] == [1, 2, 3, 4]
    assert all(r["code"] and r["message"] for r in answer["rejected"])
    letters = json.loads(harness.run("deadletters", "list", "--url", f"http://127.0.0.1:{server.port}", "--json",
                                     check=0).stdout)
    assert len(letters["dead_letters"]) == 4


def test_a_client_clock_wrong_by_years_is_clamped_and_harmless(server):
    now = int(time.time() * 1000)
    server.send(event(1, ts=now - 10 * 365 * 86400000), event(2, ts=now + 10 * 365 * 86400000),
                event(3, ts="2001-01-01T00:00:00Z"), event(4))
    seen = {e["event_id"]: e for e in server.get("/v1/users/u1/events").json()["events"]}
    assert now - 86400000 - 60000 <= seen["e1"]["ts"] <= now - 86400000 + 60000
    assert now <= seen["e2"]["ts"] <= now + 65000
    assert abs(seen["e4"]["ts"] - now) < 60000
    assert b"kizashi_events_clamped_total 3" in server.get("/metrics").body


def test_an_anonymous_visitor_who_logs_in_keeps_the_history(server):
    server.send({"anonymous_id": "anon-0123456789abcdefghij", "name": "view", "event_id": "a1"})
    server.post("/v1/identify", {"userId": "mao", "anonymousId": "anon-0123456789abcdefghij", "messageId": "m1"})
    server.send({"anonymous_id": "anon-0123456789abcdefghij", "name": "view", "event_id": "a2"})
    names = [e["event_id"] for e in server.get("/v1/users/mao/events").json()["events"]]
    assert names == ["a2", "m1", "a1"]
    # A later login on the same device takes later events only.
    server.post("/v1/identify", {"userId": "rin", "anonymousId": "anon-0123456789abcdefghij", "messageId": "m2"})
    server.send({"anonymous_id": "anon-0123456789abcdefghij", "name": "view", "event_id": "a3"})
    assert [e["event_id"] for e in server.get("/v1/users/rin/events").json()["events"]] == ["a3", "m2"]
    assert [e["event_id"] for e in server.get("/v1/users/mao/events").json()["events"]] == ["a2", "m1", "a1"]


def captures():
    path = SHARED / "data" / "sdk-captures" / "captures.json"
    if not path.exists():
        return []
    return [c for c in json.loads(path.read_text()) if "segment" in c["client"] or "rudder" in c["client"]]


@pytest.mark.skipif(not captures(), reason="the captured client requests are not here (../shared/data)")
def test_the_real_requests_of_segment_and_rudderstack_clients(server):
    for capture in captures():
        body = capture["body"]
        raw = body if isinstance(body, str) else json.dumps(body)
        headers = {k: v for k, v in capture["headers"].items()
                   if k.lower() not in ("host", "connection", "content-length", "content-encoding", "accept-encoding",
                                        "transfer-encoding")}
        answer = server.request(capture["method"], capture["path"], raw, headers)
        assert answer.status == 200, (capture["client"], answer.body)
        told = answer.json()
        assert told["accepted"] + told["duplicates"] == len(body["batch"]), (capture["client"], told)
    events = server.get("/v1/users/u1/events").json()["events"]
    assert {"identify", "page", "Product Added"} <= {e["name"] for e in events}


def test_the_history_is_open_to_sql(server):
    server.send(*[event(n, props={"price": n, "item": f"i{n % 2}"}) for n in range(1, 11)])
    out = harness.run("sql", server.project, "SELECT item, sum(price) AS total FROM events GROUP BY 1 ORDER BY 1",
                      "--data", server.data, "--format", "json", check=0).stdout
    assert json.loads(out) == [{"item": "i0", "total": 30.0}, {"item": "i1", "total": 25.0}]

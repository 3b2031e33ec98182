"""A million past events are imported, then the system goes live: nothing is triggered or decided from the past, and the
features of a live event see it."""

import random
import time

import harness

EVENTS, USERS, EACH = 1_000_000, 20_000, 50
DAY_MS = 86400000
YAML = harness.YAML.replace("    valid_for: 1h\n", "    valid_for: 1h\n    history: {window: 80d, max_events: 500}\n") + """
actions:
  coupon:
    mode: on
    when: counter.score >= 1
    deliver: {web: {title: "x", body: "y"}, valid_for: 10m}
"""


def test_a_million_past_events_then_live(project, tmp_path):
    harness.write_project(project, yaml=YAML)
    source, data = tmp_path / "past.ndjson", tmp_path / "data"
    past = int(time.time() * 1000) - 60 * DAY_MS
    random_ = random.Random(4711)
    with open(source, "w", encoding="ascii") as file:
        for number in range(EVENTS):  # a quarter of them would have triggered
            file.write(f'{{"event_id":"p{number}","user_id":"u{number % USERS}","name":"{"view" if number // USERS % 4 == 0 else "other"}",'
                       f'"ts":{past + number * 5000 + random_.randrange(5000)},"props":{{"price":1.5}}}}\n')
    harness.run("import", project, source, "--data", data, "--quiet", check=0)
    with harness.Server(project, data) as server:
        for kind in ("request", "result", "decision"):
            assert harness.dump(data, "--type", kind) == [], kind
        assert server.get("/v1/users/u7/predictions").json()["predictions"] == []
        told = server.send({"event_id": "live", "user_id": "u7", "name": "view"}, query="?wait=counter&timeout_ms=10000")
        # 50 past events of the user, views where their number is a multiple of four: 13; and the live one.
        assert [p["score"] for p in told["predictions"]] == [14.0], told
        told = server.send({"event_id": "live", "user_id": "nobody before", "name": "view"}, query="?wait=counter&timeout_ms=10000")
        assert [p["score"] for p in told["predictions"]] == [1.0], told
        requests, decisions = harness.dump(data, "--type", "request"), harness.dump(data, "--type", "decision")
        assert [r["event_id"] for r in requests] == ["live", "live"] and len(decisions) == 2
        metrics = server.get("/metrics").body
        assert b"kizashi_requests_done_total 2" in metrics
        assert server.stop() == 0
    counted = harness.run("sql", project, "SELECT count(*) AS n, count(DISTINCT user_id) AS users FROM events WHERE name IN ('view', 'other')", "--data", data, "--format", "csv", check=0)
    assert counted.stdout.split() == [b"n,users", f"{EVENTS + 2},{USERS + 1}".encode()]

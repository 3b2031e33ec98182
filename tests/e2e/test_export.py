"""`kizashi export` and `import`: a history moves, from one machine to another or to a deployment of roles, and what is
computed from it stays the same, bit for bit."""

import json
import secrets

import pytest

import cloud
import harness

HOUR = 3600000
NOW = 1790000000000


def history():
    """Visitors, one of whom logs in and is somebody's other device from then on; clocks that are wrong; what was
    imported; props over more than one line."""
    past = [{"event_id": "old", "user_id": "ada", "name": "view", "ts": NOW - 9000 * HOUR, "props": {"price": 1.0}}]
    live = []
    for i in range(40):
        user = {"user_id": f"u{i % 7}"} if i % 3 else {"anonymous_id": f"device{i % 5}"}
        live.append({"event_id": f"e{i}", **user, "name": "view" if i % 2 else "cart", "ts": NOW + i * 60000,
                     "props": {"price": i / 7, "item": f"買い物{i}"}})
    live.insert(20, {"event_id": "in", "user_id": "u1", "anonymous_id": "device0", "name": "identify", "ts": NOW + 20 * 60000})
    live.insert(30, {"event_id": "ahead", "user_id": "ada", "name": "view", "ts": NOW + 30 * 60000})
    return past, live


@pytest.fixture
def source(project, tmp_path):
    """A data directory with that history."""
    past, live = history()
    for name, events in (("past", past), ("live", live)):
        (tmp_path / f"{name}.ndjson").write_text("".join(json.dumps(event) + "\n" for event in events))
    data = tmp_path / "one"
    harness.run("import", project, tmp_path / "past.ndjson", "--data", data, check=0)
    with harness.Server(project, data) as server:
        # On our clock now: what clients say of 2026 is held to the range, and their claim kept.
        answer = server.post("/v1/events", b'{"event_id":"lines","user_id":"u2","name":"view","props":{"price":\n2.5,\n"item":"a b"}}')
        assert answer.json()["accepted"] == 1
        server.send(*live)
        server.wait(lambda: b"kizashi_requests_pending 0" in server.get("/metrics").body)
        assert server.stop() == 0
    return data


def export(project, *args, env=None):
    return harness.run("export", project, *args, "--quiet", env=env, check=0).stdout


def table(project, data, columns):
    out = harness.run("sql", project, f"SELECT {columns} FROM events ORDER BY event_id, name", "--data", data, "--format", "json", check=0)
    return out.stdout


def test_an_export_imported_is_the_same_history(project, source, tmp_path):
    exported = export(project, "--data", source)
    (tmp_path / "x.ndjson").write_bytes(exported)
    told = json.loads(harness.run("import", project, tmp_path / "x.ndjson", "--data", tmp_path / "two", "--json", "--quiet",
                                  check=0).stdout)
    assert told == {"imported": 44, "duplicates": 0, "rejected": 0, "later": 0}
    again = json.loads(harness.run("import", project, tmp_path / "x.ndjson", "--data", tmp_path / "two", "--json", "--quiet",
                                   check=0).stdout)
    assert again == {"imported": 0, "duplicates": 44, "rejected": 0, "later": 0}
    assert export(project, "--data", tmp_path / "two").splitlines()[:-1] == exported.splitlines()[:-1]
    columns = "event_id, user_id, name, ts, client_ts, received_at, price, item"
    assert table(project, tmp_path / "two", columns) == table(project, source, columns)
    for user in ("ada", "u1", "u2", "device3"):
        one, two = (harness.run("features", project, "--model", "counter", "--user", user, "--data", data,
                                check=0).stdout.splitlines()[1:] for data in (source, tmp_path / "two"))
        assert one == two and one, user
    for kind in ("request", "result", "decision"):
        assert harness.dump(tmp_path / "two", "--type", kind) == [], "something came of the past"


def test_what_came_later_is_exported_alone(project, source, tmp_path):
    lines = export(project, "--data", source).splitlines()
    middle = json.loads(export(project, "--data", source, "--after", 0).splitlines()[-1])["seq"] - 5
    later = export(project, "--data", source, "--after", middle).splitlines()
    assert later[1:-1] == lines[-1 - len(later[1:-1]):-1] and 0 < len(later) - 2 < 6
    assert json.loads(later[-1])["seq"] == json.loads(lines[-1])["seq"]


def test_a_cut_or_foreign_export_is_refused(project, source, tmp_path):
    lines = export(project, "--data", source).splitlines(keepends=True)
    (tmp_path / "cut.ndjson").write_bytes(b"".join(lines[:20]))
    refused = harness.run("import", project, tmp_path / "cut.ndjson", "--data", tmp_path / "two", check=1).stderr
    assert b"is cut" in refused
    (tmp_path / "less.ndjson").write_bytes(b"".join(lines[:20] + lines[-1:]))
    refused = harness.run("import", project, tmp_path / "less.ndjson", "--data", tmp_path / "two", check=1).stderr
    assert b"less.ndjson:21: the export had 44 events, 19 are here" in refused
    (tmp_path / "other.ndjson").write_bytes(b"".join(lines).replace(b'"project":"testshop"', b'"project":"other"'))
    refused = harness.run("import", project, tmp_path / "other.ndjson", "--data", tmp_path / "three", check=1).stderr
    assert b'is of project "other", not of "testshop"' in refused
    broken = lines[5].replace(b'"received_at":', b'"received_at":-')
    (tmp_path / "bad.ndjson").write_bytes(b"".join(lines[:5] + [broken] + lines[6:]))
    refused = harness.run("import", project, tmp_path / "bad.ndjson", "--data", tmp_path / "four", check=1).stderr
    assert b"received_at" in refused


def test_a_history_moves_to_a_deployment_of_roles_and_back(project, source, tmp_path):
    cloud.need_emulators()
    exported = export(project, "--data", source)
    (tmp_path / "x.ndjson").write_bytes(exported)
    env = {"GOOGLE_CLOUD_PROJECT": "t" + secrets.token_hex(8)}
    missing = harness.run("import", project, tmp_path / "x.ndjson", "--backend", "gcp", env=env, check=1).stderr
    assert b"kizashi gcp" in missing, "it has to say what makes the database"
    harness.run("gcp", "init", project, env=env, check=0)
    told = json.loads(harness.run("import", project, tmp_path / "x.ndjson", "--backend", "gcp", "--json", "--quiet", env=env,
                                  check=0).stdout)
    assert told == {"imported": 44, "duplicates": 0, "rejected": 0, "later": 0}
    again = json.loads(harness.run("import", project, tmp_path / "x.ndjson", "--backend", "gcp", "--json", "--quiet", env=env,
                                   check=0).stdout)
    assert again == {"imported": 0, "duplicates": 44, "rejected": 0, "later": 0}
    moved = export(project, "--backend", "gcp", env=env)
    events = [json.loads(line) for line in moved.splitlines()[1:-1]]
    assert cloud.own_events(events) == cloud.own_events([json.loads(line) for line in exported.splitlines()[1:-1]])
    (tmp_path / "back.ndjson").write_bytes(moved)
    harness.run("import", project, tmp_path / "back.ndjson", "--data", tmp_path / "back", "--quiet", check=0)
    columns = "event_id, user_id, name, ts, client_ts, received_at, price, item"
    assert table(project, tmp_path / "back", columns) == table(project, source, columns)

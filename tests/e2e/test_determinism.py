"""The REES46 log, replayed twice on virtual time into fresh data, gives the same features, predictions and decisions
bit for bit; and what was served is computed again from the log without a difference.

Of its 17,434 rows the first 6,000 are played, so that the suite stays short; KZ_REES46_ROWS=0 plays all."""

import csv
import json
import os
import pathlib
import shutil

import pytest

import harness

SHARED = pathlib.Path(os.environ.get("KZ_SHARED", harness.ROOT.parent / "shared"))
LOG = SHARED / "data" / "rees46-multicategory-2019-10-01" / "events.csv"
ROWS = int(os.environ.get("KZ_REES46_ROWS", "6000"))
MAP = "ts=event_time,name=event_type,user_id=user_id"


@pytest.mark.skipif(not LOG.exists(), reason=f"the REES46 log is not here ({LOG}); set KZ_SHARED")
def test_two_replays_of_rees46_are_equal_bit_for_bit(tmp_path):
    shutil.copytree(harness.ROOT / "examples" / "shop", tmp_path / "shop")
    source = tmp_path / "events.csv"
    lines = LOG.read_bytes().splitlines(keepends=True)
    source.write_bytes(b"".join(lines[:ROWS + 1] if ROWS else lines))
    told = []
    for run in ("a", "b"):
        out = harness.run("replay", source, "--dir", tmp_path / "shop", "--data", tmp_path / run, "--clock", "event", "--map", MAP,
                          "--out", tmp_path / f"{run}.ndjson", "--json", "--quiet", check=0).stdout
        told.append(json.loads(out))
    hashes = [{key: value for key, value in one.items() if "hash" in key} for one in told]
    assert hashes[0] == hashes[1] and len(hashes[0]) >= 3, told
    first, second = (tmp_path / "a.ndjson").read_bytes(), (tmp_path / "b.ndjson").read_bytes()
    assert first == second and first.count(b"\n") > 1000
    assert told[0]["done"] == told[0]["requests"] == first.count(b"\n") and told[0]["dead"] == 0 and told[0]["decisions"] > 100
    verified = harness.run("features", tmp_path / "shop", "--verify", "--data", tmp_path / "a", "--json", "--quiet", check=0).stdout
    for model, counts in json.loads(verified).items():
        assert counts["differ"] == counts["gone"] == 0 and counts["equal"] == counts["served"] > 1000, (model, counts)


def test_rows_of_a_replay_and_labels_of_sql_are_what_to_learn_from(tmp_path):
    """As docs/models.md has it: features as they would have been, and what came within half an hour."""
    minute, past = 60000, [(0, "a", "view"), (1, "b", "view"), (10, "a", "buy"), (12, "a", "view"), (41, "b", "buy"), (50, "b", "view"), (80, "b", "buy")]
    (tmp_path / "past.ndjson").write_text("".join(json.dumps({
        "event_id": f"e{n}", "user_id": user, "name": name, "ts": 1790000000000 + at * minute}) + "\n" for n, (at, user, name) in enumerate(past)))
    project, data, out = harness.write_project(tmp_path / "shop"), tmp_path / "data", tmp_path / "rows.ndjson"
    harness.run("replay", tmp_path / "past.ndjson", "--dir", project, "--data", data, "--clock", "event", "--out", out, check=0)
    told = harness.run("sql", project, "--data", data, "--format", "csv", """
        SELECT p.user_id, p.event_id, p.as_of,
               EXISTS (SELECT 1 FROM events e WHERE e.user_id = p.user_id AND e.name = 'buy'
                       AND e.ts > p.as_of AND e.ts <= p.as_of + duration('30m')) AS label
        FROM predictions p
        WHERE p.model = 'counter' AND p.as_of <= (SELECT max(ts) FROM events) - duration('30m')""", check=0).stdout.decode()
    labels = {(row["user_id"], row["event_id"], int(row["as_of"])): int(row["label"]) for row in csv.DictReader(told.splitlines())}
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert list(rows[0]["features"]) == ["events", "views", "spent"]
    learned = [(r["event_id"], r["features"]["events"], labels[r["user_id"], r["event_id"], r["as_of"]]) for r in rows]
    assert learned == [("e0", 1, 1), ("e1", 1, 0), ("e3", 3, 0), ("e5", 3, 1)]

"""REES46 on virtual time: all four roles over the backends in memory against the embedded pipeline, request for
request: features bit for bit, predictions within 1e-6, and the same decisions.

The first 3,000 of its rows are played; KZ_REES46_ROWS=0 plays all."""

import csv
import json
import os
import shutil
import urllib.parse

import pytest

import harness
from test_determinism import LOG

ROWS = int(os.environ.get("KZ_REES46_ROWS", "3000"))
ROLES = ["--role", "collect,process,infer,serve", "--backend", "memory", "--clock", "event"]
COUPON = """
  parity:
    mode: on
    when: purchase.score > 0.05
    having: (SELECT count(*) FROM events WHERE name = 'view') >= 2
    holdout: 20%
    caps: [{max: 2, per: user, every: 1h}]
    deliver: {web: {title: "parity"}, valid_for: 1h}
"""


def read_events():
    with LOG.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows[:ROWS] if ROWS else rows):
        props = {k: v for k, v in row.items() if k not in ("event_time", "event_type", "user_id") and v}
        if "price" in props:
            props["price"] = float(props["price"])
        yield {"event_id": f"row-{number}", "user_id": row["user_id"], "name": row["event_type"],
               "ts": row["event_time"].replace(" UTC", "Z").replace(" ", "T"), "props": props}


def outcomes(records):
    """What requests and decisions came to, whoever decided them: by user, event, model and moment."""
    results, decisions = {}, {}
    for r in records:
        if r["type"] == "result":
            key = (r["user_id"], r["event_id"], r["model"], r["as_of_ms"])
            assert key not in results, ("two results", key)
            results[key] = (r["end"], r["features_hash"], r.get("score"))
        elif r["type"] == "decision":
            key = (r["user_id"], r["event_id"], r["action_name"], r["model"], r["at_ms"])
            assert key not in decisions, ("two decisions", key)
            decisions[key] = r["decision"]
    return results, decisions


@pytest.mark.skipif(not LOG.exists(), reason=f"the REES46 log is not here ({LOG}); set KZ_SHARED")
def test_roles_come_to_what_one_machine_comes_to(tmp_path):
    shop = tmp_path / "shop"
    shutil.copytree(harness.ROOT / "examples" / "shop", shop, ignore=shutil.ignore_patterns(".kizashi"))
    yaml = (shop / "kizashi.yaml").read_text()
    assert "\nactions:\n" in yaml
    (shop / "kizashi.yaml").write_text(yaml.replace("\nactions:\n", "\nactions:\n" + COUPON, 1))
    events = list(read_events())
    source = tmp_path / "events.ndjson"
    source.write_text("".join(json.dumps(e) + "\n" for e in events))
    harness.run("replay", source, "--dir", shop, "--data", tmp_path / "one", "--clock", "event", "--quiet", check=0)
    want = outcomes(harness.dump(tmp_path / "one"))
    assert len(want[0]) > 1000 and "holdout" in want[1].values() and "deliver" in want[1].values()

    with harness.Server(shop, tmp_path / "many", args=ROLES) as server:
        for at in range(0, len(events), 500):
            server.send(*events[at:at + 500])
        assert server.post("/v1/watermark?ms=4102444800000", "").status == 204

        def numbers():
            text = server.get("/metrics").body.decode()
            return {n.rsplit(" ", 1)[0]: float(n.rsplit(" ", 1)[1]) for n in text.splitlines() if n and n[0] != "#"}

        def all_done():
            n = numbers()
            return n["kizashi_requests_done_total"] >= len(want[0]) and not any(
                n[f'kizashi_backlog_messages{{role="{role}"}}'] for role in ("process", "infer"))

        server.wait(all_done, 300, "all requests")
        records = []
        for user in sorted({e["user_id"] for e in events}):
            answer = server.get("/v1/users/" + urllib.parse.quote(user, safe="") + "/export")
            records += [json.loads(line) for line in answer.body.splitlines()]
    have = outcomes(r for r in records if r["type"] != "user")
    assert set(have[0]) == set(want[0])
    for key, (end, features, score) in want[0].items():
        assert have[0][key][:2] == (end, features), (key, have[0][key], want[0][key])
        assert score is None or abs(have[0][key][2] - score) <= 1e-6, key
    # The shop's coupon has a cap in total: who comes first among users is not the same, how many get it is.
    for action in ("coupon", "parity"):
        counts = [sorted(d for key, d in one[1].items() if key[2] == action) for one in (want, have)]
        assert counts[0] == counts[1], (action, [{d: c.count(d) for d in c} for c in counts], [(k, d, have[1][k]) for k, d in want[1].items() if have[1].get(k) != d][:8])
    some = {key: "by the cap in total" if key[2] == "coupon" and d in ("deliver", "capped") else d
            for key, d in want[1].items()}
    assert {key: some[key] if key in some and some[key].startswith("by") and d in ("deliver", "capped") else d
            for key, d in have[1].items()} == some

"""A whole deployment (collect, process, two of infer, serve, each its own process, beside Google's three emulators) takes
the REES46 log end to end on virtual time and gives what one machine gives: the same features bit for bit, the same
scores, the same decisions.

As part of the suite each test plays the first rows of the log; `make deployment` (KZ_DEPLOYMENT_ROWS=0) plays all of its
17,434."""

import concurrent.futures
import os
import random
import time

import pytest

import cloud
import harness

ROWS = int(os.environ.get("KZ_DEPLOYMENT_ROWS", "700"))


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """One machine's run of the same rows."""
    cloud.need_emulators()
    cloud.need_rees46()
    tmp = tmp_path_factory.mktemp("embedded")
    rows = cloud.REES46.read_bytes().splitlines(keepends=True)
    (tmp / "events.csv").write_bytes(b"".join(rows[:ROWS + 1] if ROWS else rows))
    one = cloud.Embedded(cloud.shop(tmp / "shop"), tmp / "events.csv", tmp / "data")
    assert len(one.results) > 1.5 * len(one.events) and one.decisions, "nothing to compare"
    return one


def sent(embedded):
    """The events as clients send them: those that were not ours."""
    return [line for line, event in zip(embedded.lines, embedded.events) if not event.get("action")]


def send_all(deployment, lines, each=200):
    """By user in order, eight at a time: what came in one request goes in the same order to the same lane."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        list(pool.map(deployment.post, (lines[at:at + each] for at in range(0, len(lines), each))))


def settle(deployment, embedded, timeout):
    """Until every result that one machine has is there: then whatever there is too much shows as well."""
    end = max(event["ts"] for event in embedded.events) + 86400000
    deployment.watermark(end)
    deployment.wait(lambda: len(deployment.news.results) >= len(embedded.results), timeout, "all results")
    deployment.wait(lambda: not any(deployment.metric(role, "backlog_messages") for role in ("process", "infer-1", "infer-2")),
                    30, "an empty backlog")


def compare(deployment, embedded):
    cloud.compare_results(embedded.results, deployment.news.by_request())
    delivered = {key: count for key, count in embedded.decisions.items() if key[3] == "deliver"}
    found = {}
    for user, event, action, decision, _ in deployment.news.decisions.values():
        key = (user, event, action, decision)
        found[key] = found.get(key, 0) + 1
    assert found == delivered, (len(found), len(delivered))
    # What is stored: every event once, as one machine has it, and what actions did, once each.
    exported = deployment.exported()
    assert cloud.own_events(exported) == cloud.own_events(embedded.events)
    assert actions_of(exported) == actions_of(embedded.events)


def actions_of(events):
    """What actions did, however it came in between."""
    return sorted((event["user_id"], event["name"], event["ts"], event["props"]["action"])
                  for event in events if event.get("action"))


def test_a_deployment_gives_what_one_machine_gives(embedded, tmp_path):
    with cloud.Deployment(cloud.shop(tmp_path / "shop"), tmp_path) as deployment:
        started = time.monotonic()
        send_all(deployment, sent(embedded))
        settle(deployment, embedded, 60 + len(embedded.results) / 20)
        print(f"{len(embedded.results)} results in {time.monotonic() - started:.1f} s")
        compare(deployment, embedded)
        for role in ("infer-1", "infer-2"):
            assert deployment.metric(role, "requests_done_total") > 0, f"{role} did nothing"

"""Google's own client and our bus talk to each other, over the Pub/Sub emulator."""

import json
import os
import pathlib
import secrets
import subprocess

import pytest

import harness
import pubsub

PEER = pathlib.Path(harness.BINARY).resolve().parent / "bus_peer"


class Bus:
    """The C bus, as a program (tests/conformance/bus_peer.c)."""

    def __init__(self, gcp_project):
        self.gcp_project = gcp_project
        assert os.access(PEER, os.X_OK), f"{PEER} is missing: build the target bus_peer"
        self.run("create")

    def run(self, command, *args, lines=(), host=None):
        env = dict(os.environ, PUBSUB_EMULATOR_HOST=host or os.environ["PUBSUB_EMULATOR_HOST"])
        done = subprocess.run([PEER, command, self.gcp_project, "shop", *map(str, args)], check=False,
                              input="".join(json.dumps(line) + "\n" for line in lines),
                              capture_output=True, text=True, timeout=120 * harness.SLOW, env=env)
        assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
        assert not harness.REPORTS.search(done.stderr), done.stderr[-4000:]
        if command != "create":
            self.stats = json.loads(done.stderr.splitlines()[-1])
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def gcp_project():
    return "t" + secrets.token_hex(8)  # the emulator takes any: nobody else's topics are there


def test_our_bus_pulls_what_googles_client_publishes(gcp_project):
    client = pubsub.Client(gcp_project)
    bus = Bus(gcp_project)
    sent = [{"data": json.dumps({"user_id": f"u{i}", "name": "view", "props": {"title": "買い物"}}),
             "key": f"lane-{i % 3}", "attributes": {"source": "crm", "n": str(i)}} for i in range(30)]
    ids = client.publish("kizashi-shop-events", sent)
    assert len(set(ids)) == 30
    came = bus.run("pull", "events", "process", 30)
    assert {m["id"] for m in came} == set(ids)
    by_id = {m["id"]: m for m in came}
    for message_id, message in zip(ids, sent):
        got = by_id[message_id]
        assert {k: got[k] for k in ("data", "key", "attributes")} == message
        assert got["attempt"] == 1
    for lane in ("lane-0", "lane-1", "lane-2"):
        numbers = [int(m["attributes"]["n"]) for m in came if m["key"] == lane]
        assert numbers == sorted(numbers)


def test_googles_client_pulls_what_our_bus_publishes(gcp_project):
    client = pubsub.Client(gcp_project)
    bus = Bus(gcp_project)
    client.create_subscription("kizashi-shop-actions", "mine")
    sent = [{"data": json.dumps({"action": "coupon", "user_id": f"u{i}", "text": "10% オフ"}),
             "key": f"lane-{i % 2}", "attributes": {"kizashi-key": f"kz-shop-{i}"}} for i in range(10)]
    bus.run("publish", "actions", lines=sent)
    came = client.pull("mine", 10)
    assert len({m["id"] for m in came}) == 10
    assert sorted((m["attributes"]["kizashi-key"], m["key"], m["data"]) for m in came) == \
        sorted((m["attributes"]["kizashi-key"], m["key"], m["data"]) for m in sent)


def test_short_of_quota_our_bus_backs_off_says_so_and_loses_nothing(gcp_project):
    client = pubsub.Client(gcp_project)
    bus = Bus(gcp_project)
    sent = [{"data": f"message {i}", "key": "lane-1"} for i in range(5)]
    with client.refusing(Publish=6, StreamingPull=2) as host:
        bus.run("publish", "events", lines=sent, host=host)
        assert bus.stats["published"] == 5
        assert bus.stats["publish_retries"] == 6
        assert bus.stats["throttled"] is True
        came = bus.run("pull", "events", "process", 5, host=host)
        assert [m["data"] for m in came] == [m["data"] for m in sent]
        assert bus.stats["reconnects"] == 2
        assert bus.stats["throttled"] is True
    bus.run("publish", "events", lines=sent)
    assert bus.stats["publish_retries"] == 0
    assert bus.stats["throttled"] is False

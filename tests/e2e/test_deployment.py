"""A whole deployment (collect, process, two of infer, serve, each its own process, beside Google's three emulators) takes
the REES46 log end to end on virtual time and gives what one machine gives: the same features bit for bit, the same
scores, the same decisions.

As part of the suite each test plays the first rows of the log; `make deployment` (KZ_DEPLOYMENT_ROWS=0) plays all of its
17,434."""

import collections
import concurrent.futures
import os
import random
import signal
import threading
import time
import zlib

import pytest

import cloud
import harness

ROWS = int(os.environ.get("KZ_DEPLOYMENT_ROWS", "500"))


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """One machine's run of the same rows."""
    cloud.need_emulators()
    cloud.need_rees46()
    tmp = tmp_path_factory.mktemp("embedded")
    rows = cloud.REES46.read_bytes().splitlines(keepends=True)
    (tmp / "events.csv").write_bytes(b"".join(rows[:ROWS + 1] if ROWS else rows))
    one = cloud.Embedded(cloud.shop(tmp / "shop"), tmp / "events.csv", tmp / "data")
    assert len(one.results) > 1.5 * len(one.events), "nothing to compare"
    assert {"deliver", "capped"} <= {key[3] for key in one.decisions}, one.decisions
    return one


def sent(embedded):
    """The events as clients send them: those that were not ours."""
    return [line for line, event in zip(embedded.lines, embedded.events) if not event.get("action")]


def send_all(deployment, lines, each=200):
    """In order, a request at a time: what came in one request goes in the same order to the same lane."""
    for at in range(0, len(lines), each):
        deployment.post(lines[at:at + each])


def settle(deployment, embedded, timeout):
    """Until every result that one machine has is there: then whatever there is too much shows as well."""
    end = max(event["ts"] for event in embedded.events) + 86400000
    deployment.watermark(end)
    deployment.wait(lambda: len(deployment.news.results) >= len(embedded.results), timeout, "all results")
    deployment.wait(lambda: not any(deployment.metric(role, "backlog_messages") for role in ("process", "infer-1", "infer-2")),
                    30, "an empty backlog")


def compare(deployment, embedded, decided=lambda user: True):
    """`decided`: whose results and decisions are compared."""
    cloud.compare_results(*({key: row for key, row in results.items() if decided(key[0])}
                            for results in (embedded.results, deployment.news.by_request())))
    expected = collections.Counter({key: count for key, count in embedded.decisions.items() if decided(key[0])})
    delivered = collections.Counter({key: count for key, count in expected.items() if key[3] == "deliver"})
    told = collections.Counter(row[:4] for row in deployment.news.decisions.values() if decided(row[0]))
    assert told == delivered, (told - delivered, delivered - told)
    # Those that were not delivered, capped for the most part, are no news: they are in the users' rows.
    users = {event["user_id"] for event in embedded.events if decided(event["user_id"])}
    found = decisions_of(deployment, users)
    assert found == expected, (found - expected, expected - found)
    # What is stored: every event once, as one machine has it, and what actions did, once each.
    exported = deployment.exported()
    assert cloud.own_events(exported) == cloud.own_events(embedded.events)
    assert [a for a in actions_of(exported) if decided(a[0])] == [a for a in actions_of(embedded.events) if decided(a[0])]


def decisions_of(deployment, users):
    """Every decision, as `serve` shows it to an operator."""
    found = collections.Counter()
    for user in users:
        answer = deployment["serve"].get(f"/v1/users/{user}/actions?all=1")
        assert answer.status == 200, (user, answer.body)
        for row in answer.json()["actions"]:
            found[(user, row["event_id"], row["action"], row["decision"])] += 1
    return found


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


def messages_of(embedded, seed, twice):
    """What a collect would publish, by lane: a few events each, in order; some time later each once more."""
    dice = random.Random(seed)
    lanes = collections.defaultdict(list)
    for line in sent(embedded):
        user = line.split(b'"user_id":"', 1)[1].split(b'"', 1)[0]
        lanes[f"lane-{zlib.crc32(user) % 32:03}"].append(line)
    for lane, lines in lanes.items():
        messages = []
        while lines:
            count = dice.randint(1, 8)
            messages.append(b"\n".join(lines[:count]))
            lines = lines[count:]
        for message in reversed(messages) if twice else ():
            messages.insert(dice.randint(messages.index(message) + 1, len(messages)), message)
        lanes[lane] = messages
    order = list(lanes)
    dice.shuffle(order)
    return [(lane, lanes[lane]) for lane in order]


def test_every_message_twice_and_users_in_another_order_changes_nothing(embedded, tmp_path):
    with cloud.Deployment(cloud.shop(tmp_path / "shop"), tmp_path) as deployment:
        echo = cloud.Tape(deployment.pubsub, "kizashi-shop-requests", echo=True)

        def publish(lane):
            for message in lane[1]:
                deployment.pubsub.publish("kizashi-shop-events", [(message, lane[0], {"kizashi-format": "1"})])

        lanes = messages_of(embedded, 4711, twice=True)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:  # lanes beside and behind each other, each in its order
            list(pool.map(publish, lanes))
        settle(deployment, embedded, 60 + len(embedded.results) / 10)
        deployment.wait(lambda: len(echo.messages) >= len(embedded.results), 30, "an echo of each request")
        settle(deployment, embedded, 30)
        compare(deployment, embedded)
        assert deployment.metric("process", "events_duplicate_total") >= len(sent(embedded))
        echo.stop()


def test_roles_killed_at_random_lose_nothing_and_double_nothing(embedded, tmp_path):
    """What they held and had not acknowledged comes again: Pub/Sub would bring it. Its emulator goes on feeding the streams
    of the dead, so in its place an empty one is started, and all that was ever published is played to it from tapes."""
    dice = random.Random(4712)
    with cloud.Emulator("pubsub", tmp_path) as pubsub, \
            cloud.Deployment(cloud.shop(tmp_path / "shop"), tmp_path, emulators=[pubsub]) as deployment:
        tapes = [cloud.Tape(deployment.pubsub, f"kizashi-shop-{topic}") for topic in ("events", "requests")]
        lines = sent(embedded)
        stop = threading.Event()
        killed = []

        order = dice.sample(deployment.ROLES, len(deployment.ROLES))

        def kill_some():
            while not stop.wait(dice.uniform(0.2, 1.0)):
                role = order[len(killed) % len(order)]
                deployment.kill(role)
                killed.append(role)

        killer = threading.Thread(target=kill_some)
        killer.start()
        try:
            for at in range(0, len(lines), 50):
                deployment.post(lines[at:at + 50])
                time.sleep(0.3)  # so that they are killed at work
            deployment.wait(lambda: len(killed) >= 3, 120, "three kills")
        finally:
            stop.set()
            killer.join()
        deployment.quiet(120)
        deployment["process"].kill()  # so that nothing is acknowledged at the last moment that no tape has
        deployment.quiet(30)
        deployment.wait(lambda: all(tape.has_all() for tape in tapes), 60, "everything on the tapes")
        pubsub.kill()
        pubsub.start()
        deployment.init()
        deployment["process"].start()
        for watching in (deployment.news, *tapes):
            watching.subscribe()
        before = deployment.metric("process", "bus_acknowledged_total")
        tapes[0].play()
        deployment.wait(lambda: deployment.metric("process", "bus_acknowledged_total") >= before + len(tapes[0].messages), 60,
                        "all events taken once more")
        tapes[1].play()
        settle(deployment, embedded, 60 + len(embedded.results) / 10)
        print("killed", killed)
        compare(deployment, embedded)
        for tape in tapes:
            tape.stop()


def test_spanner_stands_still_under_load_and_the_backlog_drains(embedded, tmp_path):
    still_s = 30 if not ROWS else 4
    with cloud.Emulator("spanner", tmp_path) as spanner, \
            cloud.Deployment(cloud.shop(tmp_path / "shop"), tmp_path, emulators=[spanner]) as deployment:
        lines = sent(embedded)
        half = len(lines) // 2
        send_all(deployment, lines[:half], each=50)
        spanner.signal(signal.SIGSTOP)
        try:
            since = time.monotonic()
            send_all(deployment, lines[half:], each=50)  # collect needs no Spanner
            time.sleep(max(0, still_s - (time.monotonic() - since)))
            lag = deployment.metric("process", "lag_seconds")
        finally:
            spanner.signal(signal.SIGCONT)
        assert lag > still_s / 2, "nothing waited"
        settle(deployment, embedded, 120 + len(embedded.results) / 10)
        compare(deployment, embedded)
        deployment.wait(lambda: deployment.metric("process", "lag_seconds") < 1, 30, "lag back to normal")


def test_pubsub_and_bigtable_are_killed_in_mid_stream_and_come_back_empty(embedded, tmp_path):
    """These emulators keep everything in memory. So they are killed when the first users' events have had their results,
    and not while something is acknowledged that only they know; what they had is made anew by `gcp init`, and the other
    users go on. What Bigtable's has forgotten besides, who has had a coupon and which request was the last, matters to the
    first users' timers that fire at the end: what they had until then is compared, and all of the others'."""

    def late(user):
        return zlib.crc32(user.encode()) % 2 == 1

    lines = {False: [], True: []}
    for line in sent(embedded):
        lines[late(line.split(b'"user_id":"', 1)[1].split(b'"', 1)[0].decode())].append(line)
    with cloud.Emulator("pubsub", tmp_path) as pubsub, cloud.Emulator("bigtable", tmp_path) as bigtable, \
            cloud.Deployment(cloud.shop(tmp_path / "shop"), tmp_path, emulators=[pubsub, bigtable]) as deployment:
        send_all(deployment, lines[False])
        deployment.wait(lambda: sum(not event.get("action") for event in deployment.exported()) == len(lines[False]), 120,
                        "all events stored")
        deployment.quiet(60 + len(embedded.results) / 10)
        before = deployment.news.by_request()
        assert len(before) > len(lines[False])
        cloud.compare_results({key: embedded.results[key] for key in before}, before)
        pubsub.kill()
        bigtable.kill()
        with pytest.raises(TimeoutError):  # it tries for 30 s and then answers 503: nothing is acknowledged meanwhile
            deployment["collect"].post("/v1/events", lines[False][0], timeout=2 / harness.SLOW)
        pubsub.start()
        bigtable.start()
        deployment.init()
        deployment.news.subscribe()
        send_all(deployment, lines[True])
        deployment.watermark(max(event["ts"] for event in embedded.events) + 86400000)
        wanted = {key for key in embedded.results if late(key[0])}
        assert len(wanted) > len(lines[True])
        deployment.wait(lambda: wanted <= deployment.news.by_request().keys(), 120 + len(wanted) / 10, "all of the others' results")
        deployment.quiet(30)
        compare(deployment, embedded, late)
        user, _, model, _ = next(key for key in embedded.results if late(key[0]))
        answer = deployment["serve"].get(f"/v1/users/{user}/predictions?model={model}")
        assert answer.status == 200, answer.body

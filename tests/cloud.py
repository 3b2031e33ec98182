"""A deployment of roles for tests: `kizashi up --role` processes beside Google's emulators, what they say on the bus,
and what one machine made of the same events.

The emulators are those of tools/with-emulators, in whose environment the test runs. A deployment has a project of
Google Cloud of its own, so that many can share them. Pub/Sub is spoken to by its REST interface, with the standard
library: to see predictions go by, and to publish as no collect would."""

import base64
import collections
import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import random
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
import urllib.request

import pytest

import harness

EMULATORS = ("pubsub", "spanner", "bigtable")
SHARED = pathlib.Path(os.environ.get("KZ_SHARED", harness.ROOT.parent / "shared"))
REES46 = SHARED / "data" / "rees46-multicategory-2019-10-01" / "events.csv"
MAP = "ts=event_time,name=event_type,user_id=user_id"


def need_emulators():
    gone = [name for name in EMULATORS if not os.environ.get(f"{name.upper()}_EMULATOR_HOST")]
    if gone:
        why = f"no emulator of {', '.join(gone)} here (tools/with-emulators starts them)"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)


def need_rees46():
    if not REES46.exists():
        pytest.skip(f"the REES46 log is not here ({REES46}); set KZ_SHARED")


def shop(directory, edit=lambda yaml: yaml):
    """A copy of the example without what needs an order over all users: the coupon's cap in total."""
    shutil.copytree(harness.ROOT / "examples" / "shop", directory)
    path = directory / "kizashi.yaml"
    yaml = path.read_text()
    without = yaml.replace(", {max: 500, per: total, every: day, tz: Asia/Tokyo}", "")
    assert without != yaml
    path.write_text(edit(without))
    return directory


# ---- one machine ----------------------------------------------------------------------------------------------------

class Embedded:
    """What one machine makes of a file of events, on virtual time."""

    def __init__(self, project, source, data, args=("--map", MAP)):
        out = data.with_suffix(".out")
        harness.run("replay", source, "--dir", project, "--data", data, "--clock", "event", *args, "--out", out,
                    "--quiet", check=0, timeout=1200)
        self.results = {}
        self.decisions = collections.Counter()
        for line in out.read_text().splitlines():
            row = json.loads(line)
            key = (row["user_id"], row["event_id"], row["model"], row["as_of"])
            assert row["status"] == "done" and key not in self.results, row
            self.results[key] = (row["features_hash"], row["score"])
            for decision in row["decisions"]:
                self.decisions[(row["user_id"], row["event_id"], decision["action"], decision["decision"])] += 1
        self.lines = harness.run("export", project, "--data", data, "--quiet", check=0).stdout.splitlines()[1:-1]
        self.events = [json.loads(line) for line in self.lines]


# ---- Pub/Sub --------------------------------------------------------------------------------------------------------

Message = collections.namedtuple("Message", "data attributes key id")  # `id` counts in the order of publishing


# What a call comes to while the emulator is away, ends in the middle of an answer, or does not know us yet.
AWAY = (OSError, http.client.HTTPException, ValueError)


class PubSub:
    """The emulator's REST interface."""

    def __init__(self, gcp_project, host=None):
        self.base = f"http://{host or os.environ['PUBSUB_EMULATOR_HOST']}/v1/"
        self.gcp_project = gcp_project

    def call(self, method, path, body=None, timeout=30 * harness.SLOW):
        request = urllib.request.Request(f"{self.base}projects/{self.gcp_project}/{path}", method=method,
                                         data=None if body is None else json.dumps(body).encode(),
                                         headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return json.load(answer)

    def topic(self, name):
        return f"projects/{self.gcp_project}/topics/{name}"

    def subscribe(self, name, topic):
        self.call("PUT", f"subscriptions/{name}", {"topic": self.topic(topic), "ackDeadlineSeconds": 60})

    def publish(self, topic, messages):
        """`messages`: (data, key, attributes), all of one key."""
        self.call("POST", f"topics/{topic}:publish", {"messages": [
            {"data": base64.b64encode(data).decode(), "orderingKey": key, "attributes": attributes}
            for data, key, attributes in messages]})

    def pull(self, subscription, count=500):
        """`Message`s, acknowledged at once."""
        got = self.call("POST", f"subscriptions/{subscription}:pull",
                        {"maxMessages": count, "returnImmediately": True}).get("receivedMessages", [])
        if got:
            self.call("POST", f"subscriptions/{subscription}:acknowledge", {"ackIds": [m["ackId"] for m in got]})
        return [Message(base64.b64decode(m["message"].get("data", "")), m["message"].get("attributes", {}),
                        m["message"].get("orderingKey", ""), int(m["message"]["messageId"])) for m in got]


class Tape:
    """Every message of a topic, kept: to publish again what a bus that keeps its word would bring again."""

    def __init__(self, pubsub, topic, echo=False):
        """`echo`: each is published once more at once, so that whoever takes it gets all of them twice."""
        self.pubsub, self.topic, self.name, self.echo = pubsub, topic, f"tape-{secrets.token_hex(4)}", echo
        self.messages = []
        self.idle = 0  # looks without a message
        self.subscribe()
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def subscribe(self):
        self.pubsub.subscribe(self.name, self.topic)

    def _run(self):
        while not self.stopping.is_set():
            messages = []
            with contextlib.suppress(*AWAY):
                messages = self.pubsub.pull(self.name)
                self.idle = 0 if messages else self.idle + 1
            mine = [m for m in messages if "again" not in m.attributes]
            if self.echo:
                self._publish(mine)
            self.messages += mine
            if not messages:
                time.sleep(0.05)

    def has_all(self, looks=40):
        """Whether nothing more has come for so many looks: what was published before is there then."""
        return self.idle >= looks

    def _publish(self, messages):
        for m in messages:
            self.pubsub.publish(self.topic, [(m.data, m.key, {**m.attributes, "again": "1"})])

    def play(self):
        """In the order in which they were published : lanes have one."""
        self._publish(sorted(self.messages, key=lambda message: message.id))

    def stop(self):
        self.stopping.set()
        self.thread.join()


class News:
    """The bus's own news, taken down as they go by: RESULT and DECISION records (app/roles/news.h, contract/record.h)."""

    RESULT, DECISION, DONE = 5, 6, 1
    DECISIONS = {1: "deliver", 2: "shadow", 3: "holdout", 4: "capped", 5: "schedule", 6: "paused"}

    def __init__(self, pubsub, topic):
        self.pubsub, self.topic, self.name = pubsub, topic, f"watch-{secrets.token_hex(4)}"
        self.results, self.decisions = {}, {}  # by (owner, seq)
        self.repeats, self.failure = 0, None
        self.subscribe()
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def subscribe(self):
        self.pubsub.subscribe(self.name, self.topic)

    def _run(self):
        while not self.stopping.is_set():
            try:
                messages = self.pubsub.pull(self.name)
            except AWAY:
                messages = []
            try:
                for message in messages:
                    self._take(message.data)
            except Exception as error:  # pylint: disable=broad-except  # said where somebody waits
                self.failure = error
                return
            if not messages:
                time.sleep(0.1)

    def _take(self, data):
        record = data[16:]
        size, kind, _, _, seq, at_ms, owner = struct.unpack_from("<IBBHQqQ", record)
        assert size == len(record), "a piece of news is no record"
        body = record[48:]

        def span(offset):
            start, length = struct.unpack_from("<II", body, offset)
            return body[start:start + length].decode()

        if kind == self.RESULT:
            end, = struct.unpack_from("<B", body, 16)
            score, as_of = struct.unpack_from("<dq", body, 24)
            features, = struct.unpack_from("<Q", body, 56)
            row = (end, span(104), span(112), span(88), as_of, f"{features:016x}", score)
            into = self.results
        else:
            decision, = struct.unpack_from("<B", body, 16)
            row = (span(48), span(56), span(32), self.DECISIONS[decision], at_ms)
            into = self.decisions
        self.repeats += (owner, seq) in into
        # Said again it is the same; a second effect would have a seq of its own.
        assert into.setdefault((owner, seq), row) == row, (into[owner, seq], row)

    def stop(self):
        self.stopping.set()
        self.thread.join()

    def by_request(self):
        """{(user, event, model, as_of): (features_hash, score)}; fails where one came about twice."""
        found = {}
        for end, user, event, model, as_of, features, score in self.results.values():
            assert end == self.DONE, (end, user, event, model)
            key = (user, event, model, as_of)
            assert key not in found, f"two results of {key}"
            found[key] = (features, score)
        return found


# ---- emulators of one's own ----------------------------------------------------------------------------------------

class Emulator:
    """One that may be killed and suspended: its pid is ours, its port stays the same. tools/with-emulators says by what
    command it is started."""

    def __init__(self, name, tmp):
        need_emulators()
        self.name, self.variable = name, f"{name.upper()}_EMULATOR_HOST"
        self.port = harness.free_port()
        self.host = f"127.0.0.1:{self.port}"
        theirs = os.environ[self.variable].rsplit(":", 1)[1]
        self.command = [part.replace(theirs, str(self.port)) for part in json.loads(os.environ["KZ_EMULATOR_COMMANDS"])[name]]
        self.log = open(tmp / f"{name}.log", "ab")
        self.process = None
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                        start_new_session=True, env={**os.environ, "JAVA_OPTS": "-Xmx512m -XX:+UseSerialGC"})
        deadline = time.monotonic() + 60 * harness.SLOW
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=2) as probe:
                probe.settimeout(2)
                probe.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
                if len(probe.recv(9)) == 9:
                    return
            time.sleep(0.1)
        raise AssertionError(f"the emulator of {self.name} did not come up")

    def signal(self, number):
        os.killpg(self.process.pid, number)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()
        self.log.close()


# ---- the roles ------------------------------------------------------------------------------------------------------

class Deployment:
    """Roles as processes; each of `roles` is one, its name may carry a number: collect, process, infer-1, infer-2."""

    ROLES = ("collect", "process", "infer-1", "infer-2", "serve")

    def __init__(self, project, tmp, roles=ROLES, clock="event", emulators=(), server=harness.Server):
        """`emulators`: some of this deployment's own (class Emulator); else those of the environment. `server` runs a
        role: harness.Server as a process."""
        need_emulators()
        self.project, self.tmp = project, tmp
        self.gcp_project = "t" + secrets.token_hex(8)
        self.env = {"GOOGLE_CLOUD_PROJECT": self.gcp_project, **{e.variable: e.host for e in emulators}}
        self.pubsub = PubSub(self.gcp_project, self.env.get("PUBSUB_EMULATOR_HOST"))
        self.name = next(line.split(":")[1].strip() for line in (project / "kizashi.yaml").read_text().splitlines()
                         if line.startswith("project:"))
        self.init()
        self.news = News(self.pubsub, f"kizashi-{self.name}-news")
        self.servers = {role: server(project, tmp / role, env=self.env, args=[
            "--role", role.split("-")[0], "--backend", "gcp", "--clock", clock]) for role in roles}

    def init(self):
        """What `gcp init` makes; it can be made again where an emulator has forgotten it."""
        harness.run("gcp", "init", self.project, env=self.env, check=0)

    def __enter__(self):
        try:
            with concurrent.futures.ThreadPoolExecutor() as pool:  # models take a second to load
                list(pool.map(lambda server: server.start(), self.servers.values()))
        except BaseException as error:
            self.__exit__(type(error))
            raise
        return self

    def __exit__(self, failure=None, *_):
        self.news.stop()
        try:
            for role, server in self.servers.items():
                if not failure:  # sanitizers look for leaks at a regular end
                    assert server.stop() == 0, f"{role} did not end well; {self.logs()}"
        finally:
            for server in self.servers.values():
                with contextlib.suppress(AssertionError if server.process is None else ()):
                    server.kill()

    def __getitem__(self, role):
        return self.servers[role]

    def kill(self, role):
        """kill -9, and the same role again."""
        self.servers[role].kill()
        self.servers[role].start()

    def quiet(self, timeout, looks=30):
        """Until nothing more comes of itself, look after look: a machine that stands still for seconds is not quiet."""
        last, same = -1, 0

        def still():
            nonlocal last, same
            same = same + 1 if len(self.news.results) == last else 0
            last = len(self.news.results)
            return same >= looks

        self.wait(still, timeout, "an end of results")

    def logs(self):
        return "\n".join(f"-- {role}\n{server.read_log()[-1500:]}" for role, server in self.servers.items())

    def wait(self, condition, timeout, what):
        timeout = max(timeout, harness.PATIENCE_S) * harness.SLOW
        deadline = time.monotonic() + timeout
        while not condition():
            if self.news.failure:
                raise self.news.failure
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} within {timeout:.0f} s; {len(self.news.results)} results; {self.logs()}")
            time.sleep(0.1)

    def post(self, lines, timeout=60):
        """Events to collect, as a client that tries again: 503 and lost connections until they are taken."""
        body = b"\n".join(lines)
        deadline = time.monotonic() + timeout * harness.SLOW
        while True:
            try:
                answer = self.servers["collect"].post("/v1/events", body, timeout=30)
                if answer.status == 200:
                    assert answer.json()["accepted"] == len(lines), answer.body
                    return
                assert answer.status in (429, 500, 503), (answer.status, answer.body)
                why = (answer.status, answer.body)
            except (OSError, AssertionError) as error:
                why = error
            if time.monotonic() > deadline:
                raise AssertionError(f"collect takes nothing: {why!r}; {self.logs()}")
            time.sleep(0.2)

    def watermark(self, ms):
        answer = self.servers["collect"].post(f"/v1/watermark?ms={ms}", b"")
        assert answer.status == 204, (answer.status, answer.body)

    def metric(self, role, name):
        text = self.servers[role].get("/metrics").body.decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
                   if line.split("{")[0].split(" ")[0] == f"kizashi_{name}")

    def exported(self):
        """The events in Spanner, as `kizashi export` has them."""
        out = harness.run("export", self.project, "--backend", "gcp", "--quiet", env=self.env, check=0).stdout
        return [json.loads(line) for line in out.splitlines()[1:-1]]


# ---- comparing ------------------------------------------------------------------------------------------------------

def own_events(events):
    """{user: [events of theirs, in order]}: without what actions did, whose place among them nobody promises."""
    found = collections.defaultdict(list)
    for event in events:
        if not event.get("action"):
            found[event.get("user_id") or event.get("anonymous_id")].append(event)
    return found


def compare_results(expected, found):
    """Row by row: the same requests, the same bits of features, scores within 1e-6."""
    missing, more = expected.keys() - found.keys(), found.keys() - expected.keys()
    assert not missing and not more, (f"{len(missing)} of {len(expected)} results are missing, {len(more)} are too many",
                                      sorted(missing)[:3], sorted(more)[:3])
    features = [key for key in expected if expected[key][0] != found[key][0]]
    assert not features, (f"{len(features)} of {len(expected)} have other features", features[:3])
    scores = [key for key in expected if abs(expected[key][1] - found[key][1]) > 1e-6]
    assert not scores, (f"{len(scores)} of {len(expected)} have other scores", scores[:3])

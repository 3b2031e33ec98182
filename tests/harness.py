"""Runs a real `kizashi up` for tests: start, ask, kill, look at the log. Standard library only."""

import contextlib
import http.client
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = os.environ.get("KIZASHI", str(ROOT / "build" / "kizashi"))
# Under a sanitizer, or on a busy machine, everything may take that many times longer.
SLOW = float(os.environ.get("KZ_SLOW", "1"))
WAIT_MAX_MS = 10000  # the most that ?timeout_ms= may say
# Whatever has to happen is waited for at least as long: how soon it does is the machine's matter, and no test's.
PATIENCE_S = 60
REPORTS = re.compile(r"^.*(?:ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|: runtime error: ).*", re.M)


class Answer:
    """One HTTP answer: status, headers (lower case) and body."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)


class Server:
    """A `kizashi up` of a project directory, on a free port of loopback."""

    def __init__(self, project, data=None, args=(), env=None):
        self.project, self.args, self.env = str(project), list(args), env
        self.data = str(data) if data else str(pathlib.Path(project) / ".kizashi")
        self.process, self.port, self.log = None, None, None

    def start(self, timeout=60):
        self.log = open(self.data.rstrip("/") + ".log", "ab")
        command = [BINARY, "up", self.project, "--data", self.data]
        if "--listen" not in self.args:
            command += ["--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(command + self.args, stdout=subprocess.PIPE, stderr=self.log,
                                        env={**os.environ, **(self.env or {})})
        deadline = time.monotonic() + timeout * SLOW
        os.set_blocking(self.process.stdout.fileno(), False)
        text = b""
        while time.monotonic() < deadline:
            text += self.process.stdout.read() or b""
            match = re.search(rb"is up: http://[^\s]*:(\d+)", text)
            if match:
                self.port = int(match.group(1))
                return self
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        code = self.process.poll()
        self.kill()
        raise AssertionError(f"kizashi up did not start (exit {code}): {self.read_log()[-3000:]}")

    def read_log(self):
        return pathlib.Path(self.log.name).read_text(errors="replace") if self.log else ""

    def request(self, method, path, body=None, headers=None, timeout=30):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout * SLOW)
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()},
                          response.read())
        except ConnectionError as error:
            raise AssertionError(f"{method} {path}: {error!r}; log: {self.read_log()[-5000:]}") from error
        finally:
            connection.close()

    def get(self, path, **kwargs):
        return self.request("GET", path, **kwargs)

    def post(self, path, body, **kwargs):
        return self.request("POST", path, body=body, **kwargs)

    def send(self, *events, query=""):
        """Sends events and returns the answer's JSON; anything but 200 is a failure. A slow machine is waited for longer."""
        query = re.sub(r"(?<=timeout_ms=)\d+", lambda ms: str(min(int(int(ms[0]) * SLOW), WAIT_MAX_MS)), query)
        answer = self.post("/v1/events" + query, list(events))
        assert answer.status == 200, (answer.status, answer.body)
        return answer.json()

    def wait(self, condition, timeout=20, what="the condition"):
        """Waits until condition() is true and returns its value."""
        deadline = time.monotonic() + max(timeout, PATIENCE_S) * SLOW
        while True:
            try:
                value = condition()
            except (IndexError, KeyError):  # what it looks into is not there yet
                value = None
            if value:
                return value
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} did not come true within {max(timeout, PATIENCE_S) * SLOW:.0f} s; log: {self.read_log()[-2000:]}")
            time.sleep(0.02)

    def stop(self, timeout=PATIENCE_S):
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout * SLOW)
        self._close()
        return code

    def end(self):
        """The end of a test, whatever state it is in: quick, but AddressSanitizer finds leaks at a regular end only."""
        if "ASAN_OPTIONS" in os.environ and self.process and self.process.poll() is None:
            self.stop(30)
        else:
            self.kill()

    def kill(self):
        """kill -9, and the model workers with it (they notice by themselves)."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._close()

    def _close(self):
        with contextlib.suppress(Exception):
            self.process.stdout.close()
        with contextlib.suppress(Exception):
            self.log.close()
        report = REPORTS.search(self.read_log())
        if report:
            raise AssertionError(f"a sanitizer reports: {self.read_log()[report.start():][:8000]}")

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.kill()


def free_port():
    """A port of loopback that is free, and that nobody takes by chance before it is listened to, or while whoever listens
    is being started again: it is below those that the kernel gives to whoever names none (32768 and more on Linux), and
    pytest's workers have different ones."""
    worker, workers = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    for _ in range(1000):
        port = random.randrange(20000 + worker, 32000, workers)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def run(*args, check=None, stdin=None, timeout=300, env=None):
    """Runs a kizashi command; with check, the exit code has to be that."""
    result = subprocess.run([BINARY, *map(str, args)], input=stdin, capture_output=True, timeout=timeout * SLOW,
                            env={**os.environ, **(env or {})}, check=False)
    report = REPORTS.search(result.stderr.decode(errors="replace"))
    assert not report, result.stderr.decode(errors="replace")[report.start():][:8000]
    if check is not None:
        assert result.returncode == check, (args, result.returncode, result.stdout[-3000:], result.stderr[-3000:])
    return result


def dump(data, *args):
    """All records of a data directory as dicts."""
    result = run("dump", "--data", data, *args, check=0)
    return [json.loads(line) for line in result.stdout.splitlines()]


YAML = """
project: testshop
events:
  columns:
    price: {from: $.price, type: float}
    item: {from: $.item, type: string}
  dedupe: 7d
triggers:
  viewing:
    when: name = 'view'
models:
  counter:
    trigger: viewing
    path: models/counter
    features: features/counter.sql
    valid_for: 1h
    batch: {max: 64}
    timeout: 20s
"""

SQL = """SELECT count(*) AS events, count(*) FILTER (WHERE name = 'view') AS views,
       coalesce(sum(price), 0.0) AS spent FROM events
"""

MODEL = """
import kizashi


class Counter(kizashi.Model):
    def predict(self, batch):
        views = list(batch.names).index("views")
        return [float(row[views]) for row in batch.features]
"""


def write_project(directory, yaml=YAML, sql=SQL, model=MODEL, name="counter"):
    """A small project whose prediction is the number of views, so that tests can count on it."""
    directory = pathlib.Path(directory)
    (directory / "features").mkdir(parents=True, exist_ok=True)
    (directory / "models" / name).mkdir(parents=True, exist_ok=True)
    (directory / "kizashi.yaml").write_text(yaml)
    (directory / "features" / f"{name}.sql").write_text(sql)
    (directory / "models" / name / "model.py").write_text(model)
    return directory

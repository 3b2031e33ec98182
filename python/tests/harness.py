"""A host for tests: a real worker process at the other end of a socketpair."""

from __future__ import annotations

import array
import json
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path

from kizashi import _wire as wire
from kizashi._channel import Channel, Frame

PACKAGE_ROOT = str(Path(__file__).resolve().parent.parent)
DEADLINE_S = 120


def _environment() -> dict:
    """Ours, without what would do the worker's duties for it."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "OMP_"))}
    return {**ours, "PYTHONPATH": PACKAGE_ROOT}


class Host:
    """The host's end of one worker's channel."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._ident = 0
        self._channel = Channel(sock)
        # Not settimeout(): that would make the descriptor non-blocking.
        limit = array.array("l", [DEADLINE_S, 0]).tobytes()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)

    def send(self, kind: int, payload: bytes = b"") -> int:
        self._ident += 1
        self.sock.sendall(wire.frame(kind, self._ident, payload))
        return self._ident

    def read(self) -> Frame:
        frame = self._channel.read()
        if frame is None:
            raise EOFError("the worker closed the channel")
        return frame

    def expect(self, kind: int, ident: int) -> bytearray:
        """The payload of the next frame, which must be of this type and id."""
        frame = self.read()
        if frame.kind != kind or frame.ident != ident:
            told = wire.unpack_error(frame.payload) if frame.kind in (wire.FAILED, wire.ERROR) else ""
            raise AssertionError(f"got 0x{frame.kind:02x} #{frame.ident} {told}, not 0x{kind:02x} #{ident}")
        return frame.payload

    def at_end(self) -> bool:
        try:
            return self._channel.read() is None
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._channel.close()


class Worker:
    """A worker process and the host's end of its channel. Close it."""

    def __init__(self, env: dict | None = None) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kizashi.worker", "--fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**_environment(), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        self.host = Host(ours)

    def exit_status(self) -> int:
        return self.process.wait(DEADLINE_S)

    def output(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.read().decode()

    def close(self) -> None:
        self.host.close()
        try:
            self.process.wait(DEADLINE_S)
        finally:
            self.process.kill()
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()


class WorkerCase(unittest.TestCase):
    """Tests over a real worker; `env` is added to its environment."""

    env: dict = {}

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def write_model(self, source: str) -> None:
        (self.folder / "model.py").write_text(textwrap.dedent(source))

    def start(self, env: dict | None = None) -> Worker:
        worker = Worker({**self.env, **(env or {})})
        self.addCleanup(worker.close)
        self.hello = wire.unpack_hello(worker.host.expect(wire.HELLO, 0))
        return worker

    def send_load(self, worker: Worker, **load) -> int:
        doc = {"path": str(self.folder), "version": "v1", **load}
        return worker.host.send(wire.LOAD, json.dumps(doc).encode())

    def start_model(self, source: str, **load) -> Worker:
        """A worker that has loaded `source`, asked with two number columns a, b unless told."""
        self.write_model(source)
        worker = self.start()
        load.setdefault("columns", [{"name": "a", "type": "number"}, {"name": "b", "type": "number"}])
        ident = self.send_load(worker, **load)
        self.ready = wire.unpack_ready(worker.host.expect(wire.READY, ident))
        return worker

    def load_fails(self, source: str | None, **load) -> wire.Failure:
        """How the load of `source` fails; checks that the worker then ends with status 1."""
        if source is not None:
            self.write_model(source)
        worker = self.start()
        ident = self.send_load(worker, **load)
        failure = wire.unpack_error(worker.host.expect(wire.FAILED, ident))
        self.assertEqual(worker.exit_status(), 1)
        return failure

    def ask(self, host: Host, rows, texts=(), **more) -> wire.Result:
        ident = host.send(wire.PREDICT, predict_payload(rows, texts, **more))
        return wire.unpack_result(host.expect(wire.RESULT, ident))

    def ask_in_vain(self, host: Host, rows, texts=(), **more) -> wire.Failure:
        ident = host.send(wire.PREDICT, predict_payload(rows, texts, **more))
        return wire.unpack_error(host.expect(wire.ERROR, ident))


def predict_payload(rows, texts=(), **more) -> bytes:
    n = len(rows)
    more.setdefault("now", [1_700_000_000_000 + i for i in range(n)])
    more.setdefault("user_ids", [f"u{i}" for i in range(n)])
    more.setdefault("event_ids", [f"e{i}" for i in range(n)])
    return wire.pack_predict(rows, texts, **more)

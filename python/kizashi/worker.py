"""A model worker: `python3 -m kizashi.worker [--fd N]`, started by the platform.

Speaks docs/worker-protocol.md over the socket whose number is N, else
$KZ_WORKER_FD. One thread, one batch at a time, answers in order. stdout and
stderr are the model's own; the supervisor keeps them as log lines.

    (start) -HELLO-> new -LOAD-> ready -PREDICT, FORK, PING-> ready
                           \\-> FAILED, exit 1     SHUTDOWN or EOF: exit 0

Exit status: 0 asked to stop, or the host is gone; 1 the model did not load;
2 started wrongly; 3 the stream broke.
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import signal
import socket
import sys
import threading
import time
from typing import Any, Callable, Optional, Sequence

from . import __version__
from . import _wire as wire
from ._channel import Channel, Frame
from ._engine import Engine
from ._errors import EXCEPTION, MODEL, PROTOCOL, REFUSED, BrokenStream, LoadError, ProtocolError
from ._loader import explain
from ._numpy import load_numpy
from ._spec import unpack_load

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_BROKEN = 0, 1, 2, 3

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_PR_SET_PDEATHSIG = 1


class Worker:
    """The loop, and the state it keeps between frames: the channel and the loaded model."""

    def __init__(self, channel: Channel, np: Any) -> None:
        self.channel = channel
        self.np = np
        self.engine: Optional[Engine] = None
        self._load_us = 0
        self._exit: Optional[int] = None
        self._handlers: dict[int, Callable[[Frame], None]] = {
            wire.LOAD: self._on_load,
            wire.PREDICT: self._on_predict,
            wire.FORK: self._on_fork,
            wire.PING: self._on_ping,
            wire.SHUTDOWN: self._on_shutdown,
        }

    def run(self) -> int:
        """Serves until told to stop; returns the exit status. OSError if the host is gone."""
        self._say_hello(replica=False)
        while self._exit is None:
            try:
                frame = self.channel.read()
            except BrokenStream as exc:
                self._refuse(0, PROTOCOL, str(exc))
                return EXIT_BROKEN
            if frame is None:
                raise ConnectionResetError("the host closed the channel")
            handler = self._handlers.get(frame.kind)
            if handler is None:
                self._refuse(frame.ident, PROTOCOL, f"a frame of unknown type 0x{frame.kind:02x}")
            else:
                handler(frame)
        return self._exit

    # ---- one message each

    def _on_load(self, frame: Frame) -> None:
        if self.engine is not None:
            self._refuse(frame.ident, PROTOCOL, "LOAD for a worker that has its model")
            return
        started = time.perf_counter_ns()
        try:
            self.engine = Engine.load(unpack_load(frame.payload), self.np)
        except ProtocolError as exc:
            self._fail(frame.ident, PROTOCOL, str(exc))
        except LoadError as exc:
            self._fail(frame.ident, MODEL, str(exc))
        except BaseException as exc:  # the model's sys.exit(), too
            self._fail(frame.ident, EXCEPTION, *explain(exc))
        else:
            settle_memory()
            self._load_us = (time.perf_counter_ns() - started) // 1000
            self._say_ready(frame.ident)

    def _on_predict(self, frame: Frame) -> None:
        if self.engine is None:
            self._refuse(frame.ident, PROTOCOL, "PREDICT before LOAD")
            return
        kind, payload = self.engine.predict(frame.payload)
        self.channel.send(kind, frame.ident, payload)

    def _on_ping(self, frame: Frame) -> None:
        if len(frame.payload) > wire.PING_BYTES_MAX:
            size = len(frame.payload)
            self._refuse(frame.ident, PROTOCOL, f"PING of {size} bytes, at most {wire.PING_BYTES_MAX}")
            return
        self.channel.send(wire.PONG, frame.ident, frame.payload)

    def _on_shutdown(self, frame: Frame) -> None:
        self._exit = EXIT_DONE

    def _on_fork(self, frame: Frame) -> None:
        """Forks a replica for the descriptor that came along; returns in both processes."""
        fd = self.channel.take_fd()
        if fd is None:
            self._refuse(frame.ident, PROTOCOL, "FORK without a descriptor")
            return
        try:
            sock = socket.socket(fileno=fd)
        except OSError as exc:
            os.close(fd)
            self._refuse(frame.ident, PROTOCOL, f"FORK with a descriptor that is no socket: {exc}")
            return
        with sock:
            self._fork_onto(sock, frame.ident)

    def _fork_onto(self, sock: socket.socket, ident: int) -> None:
        if self.engine is None:
            self._refuse(ident, REFUSED, "cannot fork before a model is loaded")
            return
        threads = count_threads()
        if threads > 1:
            names = ", ".join(thread.name for thread in threading.enumerate())
            self._refuse(ident, REFUSED, f"cannot fork with {threads} threads (Python's: {names})")
            return
        try:
            pid = fork_orphan()
        except OSError as exc:
            self._refuse(ident, REFUSED, f"could not fork: {exc}")
            return
        if pid:
            self.channel.send(wire.FORKED, ident, wire.U32.pack(pid))
        else:
            self._become_replica(sock)

    def _become_replica(self, sock: socket.socket) -> None:
        self.channel.close()
        self.channel = Channel(socket.socket(fileno=sock.detach()))
        die_with_parent()
        self._say_hello(replica=True)
        self._say_ready(0)

    # ---- answers

    def _say_hello(self, replica: bool) -> None:
        numpy = "" if self.np is None else self.np.__version__
        hello = wire.pack_hello(os.getpid(), replica, __version__, platform.python_version(), numpy)
        self.channel.send(wire.HELLO, 0, hello)

    def _say_ready(self, ident: int) -> None:
        assert self.engine is not None
        threads = count_threads()
        name = type(self.engine.model).__name__
        ready = wire.pack_ready(threads == 1, threads, self._load_us, name)
        self.channel.send(wire.READY, ident, ready)

    def _refuse(self, ident: int, code: int, message: str) -> None:
        self.channel.send(wire.ERROR, ident, wire.pack_error(code, 0, message))

    def _fail(self, ident: int, code: int, message: str, traceback: str = "") -> None:
        self.channel.send(wire.FAILED, ident, wire.pack_error(code, 0, message, traceback))
        self._exit = EXIT_FAILED


# ---- the process


def count_threads() -> int:
    """Threads of this process, native ones too where /proc tells."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def fork_orphan() -> int:
    """Forks twice, so that the new process is the host's to reap, not ours.

    Returns its pid, and 0 in it. Its parent is then the nearest child
    subreaper, which the host should be, else init. Raises OSError.
    """
    sys.stdout.flush()  # or both would write what is buffered
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.close(reader)
        return _fork_again(writer)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read(8)
    os.waitpid(middle, 0)
    pid = int.from_bytes(answer, "little", signed=True)
    if pid <= 0:
        raise OSError(-pid, os.strerror(-pid)) if pid else OSError("the fork died")
    return pid


def _fork_again(writer: int) -> int:
    """In the middle process: forks, tells the pid (or -errno) and exits; returns 0 in the new one."""
    middle = os.getpid()
    try:
        pid = os.fork()
    except OSError as exc:
        pid = -(exc.errno or 1)
    if pid == 0:
        os.close(writer)
        while os.getppid() == middle:  # until reparented: die_with_parent() must see the new one
            time.sleep(0.0002)
        return 0
    os.write(writer, pid.to_bytes(8, "little", signed=True))
    os._exit(0)


def limit_threads() -> None:
    """One thread for BLAS and OpenMP, unless told otherwise: replicas are how models scale."""
    for name in _THREAD_VARIABLES:
        os.environ.setdefault(name, "1")


def settle_signals() -> None:
    """The terminal's signals are the host's affair; the others do what they do by default."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def die_with_parent() -> None:
    """Asks Linux to kill us when the host's thread that is our parent ends. Best effort.

    EOF on the channel covers the rest, but not a model stuck in predict().
    """
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    except (OSError, AttributeError):
        pass


def settle_streams() -> None:
    """Every print() reaches the supervisor at its line's end, whatever the locale."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)


def settle_memory() -> None:
    """What load() made stays: out of the collector's rounds, and shared by forked replicas."""
    gc.collect()
    gc.freeze()


def open_channel(arguments: Sequence[str]) -> Channel:
    """The channel of `--fd N` or $KZ_WORKER_FD. ValueError or OSError if there is none."""
    text = os.environ.pop("KZ_WORKER_FD", "")
    if arguments:
        if len(arguments) != 2 or arguments[0] != "--fd":
            raise ValueError(f"unknown arguments {' '.join(arguments)!r}")
        text = arguments[1]
    return Channel(socket.socket(fileno=int(text)))


def main(arguments: Sequence[str]) -> int:
    """Runs a worker; returns its exit status."""
    try:
        channel = open_channel(arguments)
    except (ValueError, OSError) as exc:
        print(
            f"kizashi.worker is started by kizashi, with --fd N or KZ_WORKER_FD=N: {exc}",
            file=sys.stderr,
        )
        return EXIT_USAGE
    settle_streams()
    settle_signals()
    die_with_parent()
    limit_threads()
    worker = Worker(channel, load_numpy())
    try:
        return worker.run()
    except OSError:
        # The host is gone: nobody waits for the model's own threads or exit handlers.
        os._exit(EXIT_DONE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

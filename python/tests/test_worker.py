"""Every message, over a real worker process."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
import unittest

from kizashi import _errors as errors
from kizashi import _wire as wire
from kizashi._numpy import load_numpy

from .harness import DEADLINE_S, PACKAGE_ROOT, Host, WorkerCase, predict_payload

SUM = """
    import kizashi
    class Sum(kizashi.Model):
        def predict(self, batch):
            return [sum(row) for row in batch.features]
"""


def eventually(condition) -> bool:
    """Whether `condition()` came true before the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.002)
    return False


def ended(pid: int) -> bool:
    """Whether the process is gone, or is a zombie that nobody has reaped."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Lifecycle(WorkerCase):
    def test_hello_says_who_is_there(self):
        worker = self.start()
        self.assertEqual((self.hello.oldest, self.hello.newest), (1, 1))
        self.assertEqual(self.hello.pid, worker.process.pid)
        self.assertEqual(self.hello.python.split(".")[:2], [str(v) for v in sys.version_info[:2]])
        numpy = load_numpy()
        self.assertEqual(self.hello.numpy, numpy.__version__ if numpy else "")
        self.assertFalse(self.hello.replica)

    def test_load_gives_the_context_once(self):
        worker = self.start_model(
            """
            import os, kizashi
            class Told(kizashi.Model):
                def load(self, ctx):
                    self.told = [os.path.isfile(ctx.path + "/model.py"), ctx.version, ctx.config]
                def predict(self, batch):
                    return [{"told": self.told}] * len(batch)
            """,
            config={"threshold": 0.5},
        )
        self.assertEqual(self.ready.class_name, "Told")
        result = self.ask(worker.host, [[1, 2]])
        self.assertEqual(json.loads(result.values[0]), {"told": [True, "v1", {"threshold": 0.5}]})

    def test_a_neighbour_of_model_py_is_imported_and_no_bytecode_is_left(self):
        (self.folder / "neighbour.py").write_text("ANSWER = 42.0\n")
        worker = self.start_model(
            """
            import kizashi, neighbour
            class Near(kizashi.Model):
                def predict(self, batch):
                    return [neighbour.ANSWER]
            """
        )
        self.assertEqual(self.ask(worker.host, [[1, 2]]).values, [42.0])
        self.assertEqual(sorted(os.listdir(self.folder)), ["model.py", "neighbour.py"])

    def test_ping_is_echoed_before_and_after_load(self):
        worker = self.start_model(SUM)
        ident = worker.host.send(wire.PING, b"12345678")
        self.assertEqual(worker.host.expect(wire.PONG, ident), b"12345678")

    def test_shutdown_ends_with_status_0(self):
        worker = self.start_model(SUM)
        worker.host.send(wire.SHUTDOWN)
        self.assertEqual(worker.exit_status(), 0)

    def test_the_host_going_ends_the_worker_even_with_a_thread_left(self):
        worker = self.start_model(
            """
            import kizashi, threading, time
            class Threaded(kizashi.Model):
                def load(self, ctx):
                    threading.Thread(target=time.sleep, args=(3600,)).start()
                def predict(self, batch):
                    return [0.0]
            """
        )
        worker.host.close()
        self.assertEqual(worker.exit_status(), 0)

    def test_sigint_is_the_hosts_affair_and_sigterm_ends(self):
        worker = self.start_model(SUM)
        worker.process.send_signal(signal.SIGINT)
        self.assertEqual(self.ask(worker.host, [[1, 2]]).values, [3.0])
        worker.process.send_signal(signal.SIGTERM)
        self.assertEqual(worker.exit_status(), -signal.SIGTERM)

    def test_prints_go_to_stdout_line_by_line(self):
        worker = self.start_model(
            """
            import kizashi
            class Loud(kizashi.Model):
                def predict(self, batch):
                    print("hello \\udc80 \\u5146")
                    return [0.0]
            """
        )
        self.ask(worker.host, [[1, 2]])
        ready, _, _ = select.select([worker.process.stdout], [], [], DEADLINE_S)  # while it runs
        self.assertTrue(ready)
        self.assertEqual(worker.process.stdout.readline().decode(), "hello \\udc80 \u5146\n")

    def test_blas_gets_one_thread_unless_told(self):
        source = """
            import kizashi, os
            class Env(kizashi.Model):
                def predict(self, batch):
                    return [float(os.environ["OMP_NUM_THREADS"])]
        """
        self.assertEqual(self.ask(self.start_model(source).host, [[1, 2]]).values, [1.0])
        self.env = {"OMP_NUM_THREADS": "2"}
        self.assertEqual(self.ask(self.start_model(source).host, [[1, 2]]).values, [2.0])

    def test_the_channel_is_not_inherited_by_the_models_children(self):
        worker = self.start_model(
            """
            import kizashi, subprocess
            class Child(kizashi.Model):
                def predict(self, batch):
                    list_fds = ["ls", "-l", "/proc/self/fd"]
                    out = subprocess.run(list_fds, stdout=subprocess.PIPE, text=True, close_fds=False)
                    return [float("socket" in out.stdout)]
            """
        )
        self.assertEqual(self.ask(worker.host, [[1, 2]]).values, [0.0])

    def test_started_by_hand_it_says_so(self):
        done = subprocess.run(
            [sys.executable, "-m", "kizashi.worker"],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            env={**os.environ, "PYTHONPATH": PACKAGE_ROOT},
        )
        self.assertEqual(done.returncode, 2)
        self.assertIn("is started by kizashi", done.stderr)


class LoadFails(WorkerCase):
    def test_no_model_py(self):
        failure = self.load_fails(None)
        self.assertEqual(failure.code, errors.MODEL)
        self.assertIn("model.py", failure.message)

    def test_import_error_shows_only_the_users_frames(self):
        failure = self.load_fails("import kizashi\nimport not_installed_anywhere\n")
        self.assertEqual(failure.code, errors.EXCEPTION)
        self.assertEqual(failure.message, "ModuleNotFoundError: No module named 'not_installed_anywhere'")
        self.assertIn("import not_installed_anywhere", failure.traceback)
        self.assertEqual(failure.traceback.count("File "), 1)

    def test_syntax_error(self):
        failure = self.load_fails("def broken(:\n")
        self.assertEqual(failure.code, errors.EXCEPTION)
        self.assertTrue(failure.message.startswith("SyntaxError: "), failure.message)
        self.assertIn("model.py", failure.traceback)

    def test_load_raises(self):
        failure = self.load_fails(
            """
            import kizashi
            class Bad(kizashi.Model):
                def load(self, ctx):
                    open("/nonexistent/weights")
            """
        )
        self.assertEqual(failure.code, errors.EXCEPTION)
        self.assertIn("/nonexistent/weights", failure.message)

    def test_exit_at_import(self):
        failure = self.load_fails("import sys\nsys.exit(0)\n")
        self.assertEqual((failure.code, failure.message), (errors.EXCEPTION, "SystemExit: 0"))

    def test_no_model_class(self):
        failure = self.load_fails("from kizashi import Model\n")
        self.assertEqual(failure.code, errors.MODEL)
        self.assertIn("no subclass of kizashi.Model", failure.message)

    def test_two_model_classes_are_named(self):
        failure = self.load_fails(
            "import kizashi\nclass A(kizashi.Model): pass\nclass B(kizashi.Model): pass\n"
        )
        self.assertEqual(failure.code, errors.MODEL)
        self.assertIn("2 models (A, B)", failure.message)

    def test_model_decides_between_two(self):
        self.start_model(
            """
            import kizashi
            class A(kizashi.Model): pass
            class B(kizashi.Model): pass
            MODEL = B
            """
        )
        self.assertEqual(self.ready.class_name, "B")

    def test_a_class_may_be_named_by_the_project(self):
        source = "import kizashi\nclass A(kizashi.Model): pass\nclass B(kizashi.Model): pass\n"
        self.start_model(source, **{"class": "A"})
        self.assertEqual(self.ready.class_name, "A")
        failure = self.load_fails(source, **{"class": "C"})
        self.assertIn('"C"', failure.message)

    def test_load_that_is_not_what_it_should_be(self):
        for payload in (
            b"",
            b"[]",
            b"{",
            b"\xff",
            b"[" * 100_000,
            b'{"path": 3}',
            b'{"path": "x", "columns": [{"name": "a", "type": "blob"}]}',
            b'{"path": "x", "columns": [{"name": "a", "type": "text"}, {"name": "a", "type": "text"}]}',
            b'{"path": "x", "output": {"kind": "classes", "count": 0}}',
            b'{"path": "x", "output": {"kind": "odd"}}',
            b'{"path": "x", "allow_nan": 1}',
        ):
            with self.subTest(payload[:60]):
                worker = self.start()
                ident = worker.host.send(wire.LOAD, payload)
                failure = wire.unpack_error(worker.host.expect(wire.FAILED, ident))
                self.assertEqual(failure.code, errors.PROTOCOL)
                self.assertEqual(worker.exit_status(), 1)


class Predict(WorkerCase):
    def test_rows_in_scores_out(self):
        worker = self.start_model(SUM)
        result = self.ask(worker.host, [[1, 2], [0.25, 0.5], [-1, 1]])
        self.assertEqual((result.kind, result.m, result.bad), (wire.KIND_SCALAR, 1, {}))
        self.assertEqual(result.values, [3.0, 0.75, 0.0])

    def test_answers_keep_the_order_of_pipelined_requests(self):
        worker = self.start_model(SUM)
        idents = [worker.host.send(wire.PREDICT, predict_payload([[i, 0]])) for i in range(200)]
        answers = [worker.host.expect(wire.RESULT, ident) for ident in idents]
        self.assertEqual([wire.unpack_result(a).values for a in answers], [[float(i)] for i in range(200)])

    def test_a_batch_larger_than_the_buffer(self):
        worker = self.start_model(SUM)
        rows = [[i, 0.5] for i in range(20_000)]
        self.assertEqual(self.ask(worker.host, rows).values, [i + 0.5 for i in range(20_000)])
        self.assertEqual(self.ask(worker.host, [[1, 2]]).values, [3.0])

    def test_what_a_batch_offers(self):
        worker = self.start_model(
            """
            import kizashi
            class All(kizashi.Model):
                def predict(self, batch):
                    return [{
                        "names": batch.names, "text": batch.text_names, "n": len(batch),
                        "a": float(batch.column("a")[i]), "null": str(batch.column("b")[i]) == "nan",
                        "city": batch.column("city")[i], "user": batch.user_ids[i],
                        "event": batch.event_ids[i], "now": batch.now[i], "cut": batch.truncated[i],
                    } for i in range(len(batch))]
            """,
            columns=[
                {"name": "a", "type": "number"},
                {"name": "city", "type": "text"},
                {"name": "b", "type": "number"},
            ],
        )
        result = self.ask(
            worker.host,
            [[1, 2], [3, None]],
            [["\u6771\u4eac", None]],
            now=[-5, 2**62],
            truncated=[True, False],
        )
        common = {"names": ["a", "b"], "text": ["city"], "n": 2}
        self.assertEqual(
            [json.loads(text) for text in result.values],
            [
                dict(common, a=1.0, null=False, city="\u6771\u4eac", user="u0", event="e0", now=-5, cut=True),
                dict(common, a=3.0, null=True, city=None, user="u1", event="e1", now=2**62, cut=False),
            ],
        )

    def test_raw_history(self):
        worker = self.start_model(
            """
            import kizashi
            class History(kizashi.Model):
                def predict(self, batch):
                    return [len(batch.history(i)) + batch.history(-1)[0]["ts"] for i in range(len(batch))]
            """,
            columns=[],
            history=True,
        )
        result = self.ask(worker.host, [[], []], history=["[]", '[{"ts": 10}, {"ts": 20}]'])
        self.assertEqual(result.values, [10.0, 12.0])

    def test_a_models_batch_stays_its_own(self):
        worker = self.start_model(
            """
            import kizashi
            class Keeper(kizashi.Model):
                def load(self, ctx):
                    self.kept = []
                def predict(self, batch):
                    self.kept.append(batch)
                    batch.features[0][0] += 100
                    return [float(self.kept[0].features[0][0])]
            """
        )
        self.assertEqual(self.ask(worker.host, [[1, 2]]).values, [101.0])
        self.assertEqual(self.ask(worker.host, [[5, 6]]).values, [101.0])

    def test_an_exception_costs_the_batch_only_and_shows_only_the_users_frames(self):
        worker = self.start_model(
            """
            import kizashi
            def helper(row):
                return 1 / row[0]
            class Divide(kizashi.Model):
                def predict(self, batch):
                    return [helper([float(v) for v in row]) for row in batch.features]
            """
        )
        failure = self.ask_in_vain(worker.host, [[0, 1]])
        self.assertEqual(failure.code, errors.EXCEPTION)
        self.assertTrue(failure.message.startswith("ZeroDivisionError: "), failure.message)
        self.assertIn("return 1 / row[0]", failure.traceback)
        self.assertNotIn("_engine.py", failure.traceback)
        self.assertEqual(self.ask(worker.host, [[4, 1]]).values, [0.25])

    def test_exceptions_that_are_hard_to_report(self):
        worker = self.start_model(
            """
            import kizashi, sys
            class Mute(Exception):
                def __str__(self): raise RuntimeError("no words")
            class Nasty(kizashi.Model):
                def predict(self, batch):
                    case = int(batch.features[0][0])
                    if case == 0: raise Mute()
                    if case == 1: sys.exit(3)
                    if case == 2: raise KeyboardInterrupt()
                    if case == 3: raise MemoryError()
                    if case == 4: return self.predict(batch)
                    if case == 5: raise ValueError("\\udc80 " + "x" * 1_000_000)
                    if case == 6: raise ValueError("first\\nsecond")
            """
        )
        heads = ["", "SystemExit", "KeyboardInterrupt", "MemoryError", "RecursionError", "ValueError"]
        for case, head in enumerate(heads):
            failure = self.ask_in_vain(worker.host, [[case, 0]])
            self.assertEqual(failure.code, errors.EXCEPTION)
            self.assertTrue(failure.message.startswith(head), failure.message)
            self.assertLessEqual(len(failure.message), wire.MESSAGE_BYTES_MAX)
            self.assertLessEqual(len(failure.traceback), wire.TRACEBACK_BYTES_MAX)
        self.assertEqual(self.ask_in_vain(worker.host, [[6, 0]]).message, "ValueError: first")

    def test_nan_marks_its_row_only(self):
        worker = self.start_model(SUM)
        result = self.ask(worker.host, [[1, 2], [None, 1], [3, 4]])
        self.assertEqual(result.bad, {1: (errors.NAN, "predict() returned nan at [1]")})
        self.assertEqual((result.values[0], result.values[2]), (3.0, 7.0))

    def test_nan_may_be_allowed_infinity_never(self):
        worker = self.start_model(SUM, allow_nan=True)
        result = self.ask(worker.host, [[None, 1], [math.inf, 1]])
        self.assertEqual(list(result.bad), [1])
        self.assertTrue(math.isnan(result.values[0]))

    def test_predict_before_load(self):
        worker = self.start()
        failure = self.ask_in_vain(worker.host, [[1, 2]])
        self.assertEqual(failure.code, errors.PROTOCOL)

    def test_a_second_load_is_refused(self):
        worker = self.start_model(SUM)
        ident = self.send_load(worker)
        self.assertEqual(
            wire.unpack_error(worker.host.expect(wire.ERROR, ident)).code, errors.PROTOCOL
        )
        self.assertEqual(self.ask(worker.host, [[1, 2]]).values, [3.0])


class Hostile(WorkerCase):
    def test_payloads_cut_or_changed_anywhere_are_refused_and_survived(self):
        worker = self.start_model(
            """
            import kizashi
            class Reads(kizashi.Model):
                def predict(self, batch):
                    batch.column("t"), batch.user_ids, batch.event_ids, batch.now, batch.truncated
                    return [1.0] * len(batch)
            """,
            columns=[{"name": "a", "type": "number"}, {"name": "t", "type": "text"}],
        )
        good = predict_payload([[1.5], [2.5]], [["x", None]])
        self.assertEqual(self.refusal(worker.host, good), None)
        for size in range(len(good)):
            self.assertEqual(self.refusal(worker.host, good[:size]), errors.PROTOCOL, size)
        self.assertEqual(self.refusal(worker.host, good + b"\0"), errors.PROTOCOL)
        for at in range(len(good)):
            for value in (0x00, 0x7F, 0xFF):
                changed = bytearray(good)
                changed[at] = value
                self.assertIn(self.refusal(worker.host, bytes(changed)), (None, errors.PROTOCOL), at)
        loose = wire.pack_strings([b"x", None])
        padded = good.replace(loose, struct.pack("<I", 2) + loose[4:] + b"y")
        self.assertEqual(self.refusal(worker.host, padded), errors.PROTOCOL)
        for head in range(16):
            changed = bytearray(good)
            changed[head] ^= 0x80
            self.assertEqual(self.refusal(worker.host, bytes(changed)), errors.PROTOCOL, head)

    def refusal(self, host: Host, payload: bytes):
        """The code `payload` is refused with, None where it is answered."""
        ident = host.send(wire.PREDICT, payload)
        frame = host.read()
        self.assertEqual(frame.ident, ident)
        return wire.unpack_error(frame.payload).code if frame.kind == wire.ERROR else None

    def test_unknown_types_and_oversized_pings_are_refused(self):
        worker = self.start_model(SUM)
        for kind, payload in ((0x00, b""), (0x7F, b"junk"), (wire.RESULT, b""), (wire.PING, bytes(65))):
            ident = worker.host.send(kind, payload)
            failure = wire.unpack_error(worker.host.expect(wire.ERROR, ident))
            self.assertEqual(failure.code, errors.PROTOCOL)
        self.assertEqual(self.ask(worker.host, [[1, 2]]).values, [3.0])

    def test_a_header_that_cannot_be_trusted_ends_the_worker(self):
        for header in (
            struct.pack("<IBBHI", 64 << 20, wire.PING, 1, 0, 7),
            struct.pack("<IBBHI", 0, wire.PING, 2, 0, 7),
            struct.pack("<IBBHI", 0, wire.PING, 1, 1, 7),
            b"GET / HTTP/1.1\r\n",
        ):
            worker = self.start()
            worker.host.sock.sendall(header)
            failure = wire.unpack_error(worker.host.expect(wire.ERROR, 0))
            self.assertEqual(failure.code, errors.PROTOCOL)
            self.assertEqual(worker.exit_status(), 3)

    def test_a_frame_cut_by_the_hosts_end(self):
        for part in (b"\x01", wire.frame(wire.PING, 1, b"12345678")[:-1]):
            worker = self.start()
            worker.host.sock.sendall(part)
            worker.host.sock.shutdown(socket.SHUT_WR)
            self.assertTrue(worker.host.at_end())
            self.assertEqual(worker.exit_status(), 0)

    def test_a_frame_that_comes_byte_by_byte(self):
        worker = self.start_model(SUM)
        for byte in wire.frame(wire.PREDICT, 77, predict_payload([[1, 2]])):
            worker.host.sock.sendall(bytes([byte]))
        self.assertEqual(wire.unpack_result(worker.host.expect(wire.RESULT, 77)).values, [3.0])


class Fork(WorkerCase):
    def fork(self, worker) -> tuple[Host, int]:
        """A replica's channel and its pid; HELLO and READY are read."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(worker.host.sock, [wire.frame(wire.FORK, 900)], [theirs.fileno()])
        (pid,) = struct.unpack("<I", worker.host.expect(wire.FORKED, 900))
        replica = Host(ours)
        self.addCleanup(replica.close)
        hello = wire.unpack_hello(replica.expect(wire.HELLO, 0))
        self.assertEqual((hello.pid, hello.replica), (pid, True))
        self.assertTrue(wire.unpack_ready(replica.expect(wire.READY, 0)).can_fork)
        return replica, pid

    def test_replicas_answer_and_go_with_their_own_channel(self):
        worker = self.start_model(SUM)
        self.assertTrue(self.ready.can_fork)
        first, first_pid = self.fork(worker)
        second, second_pid = self.fork(worker)
        self.assertEqual(len({first_pid, second_pid, worker.process.pid}), 3)
        for host in (first, second, worker.host):
            self.assertEqual(self.ask(host, [[1, 2]]).values, [3.0])
        first.close()
        self.assertTrue(eventually(lambda: ended(first_pid)))
        self.assertEqual(self.ask(second, [[2, 2]]).values, [4.0])
        second.send(wire.SHUTDOWN)
        self.assertTrue(second.at_end())

    def test_a_replica_outlives_the_worker_it_came_from(self):
        worker = self.start_model(SUM)
        replica, _ = self.fork(worker)
        worker.host.send(wire.SHUTDOWN)
        self.assertEqual(worker.exit_status(), 0)
        self.assertEqual(self.ask(replica, [[1, 2]]).values, [3.0])

    def test_a_replica_can_fork(self):
        worker = self.start_model(SUM)
        replica, _ = self.fork(worker)
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(replica.sock, [wire.frame(wire.FORK, 5)], [theirs.fileno()])
        replica.expect(wire.FORKED, 5)
        grandchild = Host(ours)
        self.addCleanup(grandchild.close)
        grandchild.expect(wire.HELLO, 0)
        grandchild.expect(wire.READY, 0)
        self.assertEqual(self.ask(grandchild, [[1, 2]]).values, [3.0])

    def test_refused_with_threads(self):
        worker = self.start_model(
            """
            import kizashi, threading, time
            class Threaded(kizashi.Model):
                def load(self, ctx):
                    threading.Thread(target=time.sleep, args=(3600,), name="busy", daemon=True).start()
                def predict(self, batch):
                    return [1.0]
            """
        )
        self.assertEqual((self.ready.can_fork, self.ready.threads), (False, 2))
        failure = self.fork_in_vain(worker)
        self.assertEqual(failure.code, errors.REFUSED)
        self.assertIn("busy", failure.message)
        self.assertEqual(self.ask(worker.host, [[1, 2]]).values, [1.0])

    def test_refused_before_load(self):
        self.assertEqual(self.fork_in_vain(self.start()).code, errors.REFUSED)

    def test_refused_without_a_descriptor_or_with_a_file(self):
        worker = self.start_model(SUM)
        ident = worker.host.send(wire.FORK)
        failure = wire.unpack_error(worker.host.expect(wire.ERROR, ident))
        self.assertEqual(failure.code, errors.PROTOCOL)
        with open(os.devnull) as file:
            socket.send_fds(worker.host.sock, [wire.frame(wire.FORK, 901)], [file.fileno()])
        failure = wire.unpack_error(worker.host.expect(wire.ERROR, 901))
        self.assertEqual(failure.code, errors.PROTOCOL)
        self.assertEqual(self.ask(worker.host, [[1, 2]]).values, [3.0])

    def fork_in_vain(self, worker) -> wire.Failure:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            socket.send_fds(worker.host.sock, [wire.frame(wire.FORK, 902)], [theirs.fileno()])
        return wire.unpack_error(worker.host.expect(wire.ERROR, 902))


class HostDies(WorkerCase):
    def test_a_model_stuck_in_predict_dies_with_its_host(self):
        self.write_model(
            """
            import kizashi
            class Stuck(kizashi.Model):
                def predict(self, batch):
                    print("stuck")
                    while True: pass
            """
        )
        read_end, write_end = os.pipe()
        host_pid = os.fork()
        if host_pid == 0:
            try:
                worker = self.start()
                ident = self.send_load(worker, columns=[])
                worker.host.expect(wire.READY, ident)
                worker.host.send(wire.PREDICT, predict_payload([[]]))
                worker.process.stdout.readline()
                os.write(write_end, struct.pack("<I", worker.process.pid))
                signal.pause()
            finally:
                os._exit(1)
        os.close(write_end)
        with open(read_end, "rb") as pipe:
            ready, _, _ = select.select([pipe], [], [], DEADLINE_S)
            data = pipe.read(4) if ready else b""
        os.kill(host_pid, signal.SIGKILL)
        os.waitpid(host_pid, 0)
        self.assertEqual(len(data), 4)
        (worker_pid,) = struct.unpack("<I", data)
        try:
            self.assertTrue(eventually(lambda: ended(worker_pid)))
        finally:
            if not ended(worker_pid):
                os.kill(worker_pid, signal.SIGKILL)


class WithoutNumpy(WorkerCase):
    env = {"KZ_NO_NUMPY": "1"}

    def test_features_are_lists_of_floats(self):
        worker = self.start_model(
            """
            import kizashi, sys
            class Lists(kizashi.Model):
                def predict(self, batch):
                    assert "numpy" not in sys.modules
                    assert type(batch.features) is list and type(batch.features[0]) is list
                    assert batch.column("b")[1] != batch.column("b")[1]
                    return [[row[0], 7] for row in batch.features]
            """
        )
        self.assertEqual(self.hello.numpy, "")
        result = self.ask(worker.host, [[1, 2], [3, None]])
        self.assertEqual((result.kind, result.m), (wire.KIND_MATRIX, 2))
        self.assertEqual(result.values, [(1.0, 7.0), (3.0, 7.0)])


@unittest.skipUnless(load_numpy(), "NumPy is not installed")
class WithNumpy(WorkerCase):
    def test_features_are_an_aligned_writable_array(self):
        worker = self.start_model(
            """
            import kizashi, numpy
            class Arrays(kizashi.Model):
                def predict(self, batch):
                    x = batch.features
                    assert x.dtype == numpy.float64 and x.flags.c_contiguous
                    assert x.flags.aligned and x.flags.writeable
                    assert x.shape == (len(batch), 2)
                    return numpy.float32(x) * 2
            """
        )
        result = self.ask(worker.host, [[1, 2], [3, 4]])
        self.assertEqual(result.values, [(2.0, 4.0), (6.0, 8.0)])


if __name__ == "__main__":
    unittest.main()

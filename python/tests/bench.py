"""What a round trip costs: `PYTHONPATH=. python3 -m tests.bench`, from python/.

Times PREDICT to RESULT over a real worker, as the host sees them, with a model
that returns its first column; and FORK to the replica's READY. `one core` has
both ends on the same processor: the work itself. Across processors the
scheduler's wake-ups come on top, and differ from machine to machine.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from pathlib import Path

from kizashi import _wire as wire

from .harness import Host, Worker, predict_payload

COLUMNS = 20
SOURCE = """
import kizashi
class First(kizashi.Model):
    def predict(self, batch):
        return batch.column("c0")
"""


def start(folder: str) -> Worker:
    Path(folder, "model.py").write_text(SOURCE)
    worker = Worker()
    worker.host.expect(wire.HELLO, 0)
    columns = ",".join(f'{{"name":"c{i}","type":"number"}}' for i in range(COLUMNS))
    ident = worker.host.send(wire.LOAD, f'{{"path":"{folder}","columns":[{columns}]}}'.encode())
    worker.host.expect(wire.READY, ident)
    return worker


def round_trips(worker: Worker, rows: int, times: int) -> list:
    """Microseconds of each round trip, sorted."""
    request = wire.frame(wire.PREDICT, 1, predict_payload([[0.5] * COLUMNS] * rows))
    answer = bytearray(1 << 20)
    sock = worker.host.sock
    taken = []
    for _ in range(times):
        start_ns = time.perf_counter_ns()
        sock.sendall(request)
        got = sock.recv_into(answer)
        while got < wire.HEADER.size + wire.HEADER.unpack_from(answer)[0]:
            got += sock.recv_into(memoryview(answer)[got:])
        taken.append((time.perf_counter_ns() - start_ns) / 1000)
        assert answer[4] == wire.RESULT
    return sorted(taken[times // 10 :])


def fork_us(worker: Worker) -> float:
    """Microseconds from FORK to the replica's READY."""
    ours, theirs = socket.socketpair()
    start_ns = time.perf_counter_ns()
    with theirs:
        socket.send_fds(worker.host.sock, [wire.frame(wire.FORK, 1)], [theirs.fileno()])
    worker.host.expect(wire.FORKED, 1)
    replica = Host(ours)
    replica.expect(wire.HELLO, 0)
    replica.expect(wire.READY, 0)
    taken = (time.perf_counter_ns() - start_ns) / 1000
    replica.close()
    return taken


def measure(where: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        worker = start(folder)
        print(f"{where}: start to READY {1000 * (time.perf_counter() - started):.0f} ms")
        for rows in (1, 8, 64, 256):
            taken = round_trips(worker, rows, 20_000)
            p50, p99 = taken[len(taken) // 2], taken[len(taken) * 99 // 100]
            print(f"  {rows:4} rows x {COLUMNS} columns: p50 {p50:6.1f} us, p99 {p99:6.1f} us")
        forks = sorted(fork_us(worker) for _ in range(50))
        print(f"  FORK to the replica's READY: p50 {forks[25] / 1000:.2f} ms")
        worker.close()


if __name__ == "__main__":
    print(f"Python {sys.version.split()[0]}")
    measure("across processors")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    measure("one core")

"""Frames and their parts, both directions: docs/worker-protocol.md in code.

The worker needs half of the encoders and decoders here; the other half is the
host's, for kizashi.testing and the tests. All integers are little-endian.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple, Optional, Sequence

from ._errors import ProtocolError

VERSION = 1

LOAD, PREDICT, FORK, PING, SHUTDOWN = 0x01, 0x02, 0x03, 0x04, 0x05
HELLO, READY, FAILED, RESULT, ERROR, FORKED, PONG = 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87

FRAME_BYTES_MAX = 64 << 20
ROWS_MAX = 65_536
COLUMNS_MAX = 16_384
MESSAGE_BYTES_MAX = 4 << 10
TRACEBACK_BYTES_MAX = 64 << 10
PING_BYTES_MAX = 64

HEADER = struct.Struct("<IBBHI")  # payload bytes, type, version, reserved, id
PAYLOAD_BYTES_MAX = FRAME_BYTES_MAX - HEADER.size
PREDICT_HEAD = struct.Struct("<IIII")  # n, k, t, flags
RESULT_HEAD = struct.Struct("<IBBHII")  # n, kind, flags, reserved, m, predict_us
HELLO_HEAD = struct.Struct("<HHII")  # oldest, newest protocol, pid, flags
READY_HEAD = struct.Struct("<IIQ")  # flags, threads, load_us
ERROR_HEAD = struct.Struct("<II")  # code, predict_us
U32 = struct.Struct("<I")

NULL = 0xFFFFFFFF
HELLO_REPLICA = 1
READY_CAN_FORK = 1
PREDICT_HISTORY = 1
ROW_TRUNCATED = 1
RESULT_ROW_ERRORS = 1
KIND_SCALAR, KIND_MATRIX, KIND_DICTS = 1, 2, 3


def frame(kind: int, ident: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return HEADER.pack(len(payload), kind, VERSION, 0, ident) + payload


# ---- strings


def pack_str(text: str, size_max: int = MESSAGE_BYTES_MAX) -> bytes:
    """`str`: u32 size and UTF-8. Over `size_max` bytes the middle is left out."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) > size_max:
        mark = b"\n... (left out) ...\n"
        half = (size_max - len(mark)) // 2
        head = data[:half].decode("utf-8", "ignore").encode()
        tail = data[-half:].decode("utf-8", "ignore").encode()
        data = head + mark + tail
    return U32.pack(len(data)) + data


def unpack_str(data, pos: int) -> tuple[str, int]:
    """The `str` at `pos`, and where it ends."""
    end = pos + 4
    if end > len(data):
        raise ProtocolError(f"a string at byte {pos} is cut short")
    size = U32.unpack_from(data, pos)[0]
    if size > len(data) - end:
        raise ProtocolError(f"a string of {size} bytes at byte {pos} is cut short")
    return _utf8(data, end, end + size), end + size


def pack_strings(values: Sequence[Optional[bytes]]) -> bytes:
    """`strings(n)`: u32 bytes of text, u32 size each (NULL for None), the texts."""
    sizes = [NULL if value is None else len(value) for value in values]
    blob = b"".join(value for value in values if value is not None)
    return struct.pack(f"<I{len(sizes)}I", len(blob), *sizes) + blob


def skip_strings(data, pos: int, n: int) -> int:
    """Where the `strings(n)` at `pos` ends; its sizes are checked when it is unpacked."""
    texts = pos + 4 + 4 * n
    if texts > len(data):
        raise ProtocolError(f"a string block at byte {pos} is cut short")
    end = texts + U32.unpack_from(data, pos)[0]
    if end > len(data):
        raise ProtocolError(f"a string block at byte {pos} is cut short")
    return end


def unpack_strings(data, pos: int, n: int) -> list[Optional[str]]:
    """The n strings, None for NULL, of the block at `pos` that skip_strings() accepted."""
    total, *sizes = struct.unpack_from(f"<{n + 1}I", data, pos)
    at = pos + 4 + 4 * n
    end = at + total
    texts: list[Optional[str]] = []
    for size in sizes:
        if size == NULL:
            texts.append(None)
            continue
        if size > end - at:
            raise ProtocolError(f"the strings of the block at byte {pos} are larger than it")
        texts.append(_utf8(data, at, at + size))
        at += size
    if at != end:
        raise ProtocolError(f"the string block at byte {pos} has {end - at} bytes too many")
    return texts


def _utf8(data, start: int, end: int) -> str:
    try:
        return str(memoryview(data)[start:end], "utf-8")
    except UnicodeDecodeError as exc:
        raise ProtocolError(f"the string at byte {start} is not UTF-8: {exc}") from None


# ---- worker to host


def pack_hello(pid: int, replica: bool, package: str, python: str, numpy: str) -> bytes:
    """HELLO's payload; `numpy` is "" where there is none."""
    head = HELLO_HEAD.pack(VERSION, VERSION, pid, HELLO_REPLICA if replica else 0)
    return head + pack_str(package) + pack_str(python) + pack_str(numpy)


def pack_ready(can_fork: bool, threads: int, load_us: int, class_name: str) -> bytes:
    """READY's payload."""
    return READY_HEAD.pack(READY_CAN_FORK if can_fork else 0, threads, load_us) + pack_str(class_name)


def pack_error(code: int, predict_us: int, message: str, traceback: str = "") -> bytes:
    """The payload of ERROR and of FAILED."""
    return (
        ERROR_HEAD.pack(code, predict_us)
        + pack_str(message)
        + pack_str(traceback, TRACEBACK_BYTES_MAX)
    )


def pack_result(
    n: int,
    kind: int,
    m: int,
    predict_us: int,
    values: bytes,
    bad: dict[int, tuple[int, str]],
) -> bytes:
    """RESULT's payload.

    values  float64 (n,) or (n, m) in C order, or a `strings(n)` block
    bad     row -> (code, message) of the rows without a usable output
    """
    if not bad:
        return RESULT_HEAD.pack(n, kind, 0, 0, m, predict_us) + values + bytes(n)
    status = bytearray(n)
    messages: list[Optional[bytes]] = [None] * n
    for row, (code, message) in bad.items():
        status[row] = code
        messages[row] = pack_str(message)[U32.size :]
    head = RESULT_HEAD.pack(n, kind, RESULT_ROW_ERRORS, 0, m, predict_us)
    return b"".join((head, values, status, pack_strings(messages)))


# ---- host to worker, and the host's reading of answers


def pack_predict(
    rows: Sequence[Sequence[Optional[float]]],
    texts: Sequence[Sequence[Optional[str]]],
    now: Sequence[int],
    user_ids: Sequence[str],
    event_ids: Sequence[str],
    history: Optional[Sequence[str]] = None,
    truncated: Optional[Sequence[bool]] = None,
) -> bytes:
    """PREDICT's payload for n = len(now) rows.

    rows       n rows of k numbers, None for NULL
    texts      t text columns of n strings, None for NULL
    now        @now of each row, ms
    history    a JSON array of events for each row, where the model takes raw history
    truncated  whether a row's history was cut
    """
    n = len(now)
    k = len(rows[0]) if rows else 0
    flat = [float("nan") if value is None else value for row in rows for value in row]
    flags = [ROW_TRUNCATED if cut else 0 for cut in truncated or [False] * n]
    blocks = [user_ids, event_ids, *texts]
    if history is not None:
        blocks.append(history)
    parts = [
        PREDICT_HEAD.pack(n, k, len(texts), 0 if history is None else PREDICT_HISTORY),
        struct.pack(f"<{n * k}d", *flat),
        struct.pack(f"<{n}q", *now),
        struct.pack(f"<{n}I", *flags),
    ]
    for block in blocks:
        parts.append(pack_strings([None if text is None else text.encode() for text in block]))
    return b"".join(parts)


class Hello(NamedTuple):
    oldest: int
    newest: int
    pid: int
    replica: bool
    package: str
    python: str
    numpy: str


class Ready(NamedTuple):
    can_fork: bool
    threads: int
    load_us: int
    class_name: str


class Failure(NamedTuple):
    code: int
    predict_us: int
    message: str
    traceback: str


class Result(NamedTuple):
    """kind, m, and for each row its value (float, tuple or JSON text) or its (code, message)."""

    kind: int
    m: int
    predict_us: int
    values: list[Any]
    bad: dict[int, tuple[int, str]]


def unpack_hello(data) -> Hello:
    """HELLO's payload, read."""
    oldest, newest, pid, flags = HELLO_HEAD.unpack_from(data)
    package, pos = unpack_str(data, HELLO_HEAD.size)
    python, pos = unpack_str(data, pos)
    numpy, _ = unpack_str(data, pos)
    return Hello(oldest, newest, pid, bool(flags & HELLO_REPLICA), package, python, numpy)


def unpack_ready(data) -> Ready:
    """READY's payload, read."""
    flags, threads, load_us = READY_HEAD.unpack_from(data)
    return Ready(bool(flags & READY_CAN_FORK), threads, load_us, unpack_str(data, READY_HEAD.size)[0])


def unpack_error(data) -> Failure:
    """The payload of ERROR or FAILED, read."""
    code, predict_us = ERROR_HEAD.unpack_from(data)
    message, pos = unpack_str(data, ERROR_HEAD.size)
    return Failure(code, predict_us, message, unpack_str(data, pos)[0])


def unpack_result(data) -> Result:
    """RESULT's payload, read."""
    n, kind, flags, _, m, predict_us = RESULT_HEAD.unpack_from(data)
    pos = RESULT_HEAD.size
    values: list[Any]
    if kind == KIND_DICTS:
        values, pos = unpack_strings(data, pos, n), skip_strings(data, pos, n)
    else:
        flat = struct.unpack_from(f"<{n * m}d", data, pos)
        pos += 8 * n * m
        values = list(flat) if kind == KIND_SCALAR else [flat[i * m : i * m + m] for i in range(n)]
    status = bytes(data[pos : pos + n])
    pos += n
    bad: dict[int, tuple[int, str]] = {}
    if flags & RESULT_ROW_ERRORS:
        messages = unpack_strings(data, pos, n)
        pos = skip_strings(data, pos, n)
        bad = {i: (status[i], messages[i] or "") for i in range(n) if status[i]}
    if pos != len(data):
        raise ProtocolError(f"a RESULT of {len(data)} bytes should have had {pos}")
    return Result(kind, m, predict_us, values, bad)

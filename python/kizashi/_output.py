"""What predict() returned, checked and encoded."""

from __future__ import annotations

import json
import math
import struct
from itertools import chain
from typing import Any, Iterator, NamedTuple

from . import _wire as wire
from ._errors import NAN, SHAPE, OutputError
from ._spec import Spec


class Encoded(NamedTuple):
    """An output as RESULT carries it; `bad` is row -> (code, message)."""

    kind: int
    m: int
    values: bytes
    bad: dict


def encode(value: Any, n: int, spec: Spec, np: Any) -> Encoded:
    """Encodes what predict() returned for n rows. Raises OutputError.

    A row whose numbers are not finite, or whose dict JSON cannot express, is
    marked and leaves the others their outputs.
    """
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], dict):
        return _dicts(value, n, spec)
    try:
        if np is None or (isinstance(value, list) and value and isinstance(value[0], (float, int))):
            kind, m, flat = _from_sequence(value, n)
        else:
            kind, m, flat = _from_array(value, n, np)
    except (TypeError, ValueError, OverflowError, struct.error):
        raise _shape_error(value, n, spec) from None
    if not spec.output.accepts(m):
        raise _shape_error(value, n, spec)
    bad = {} if _all_finite(flat, np) else _not_finite(flat, kind, m, spec.allow_nan)
    return Encoded(kind, m, flat, bad)


def _shape_error(value: Any, n: int, spec: Spec) -> OutputError:
    return OutputError(f"predict() returned {describe(value)}; expected {spec.output.expected(n)}")


# ---- numbers


def _from_array(value: Any, n: int, np: Any) -> tuple[int, int, bytes]:
    """(kind, m, float64 in C order) of an ndarray or what becomes one. Raises ValueError."""
    array = np.asarray(value)
    shape = array.shape
    if array.dtype.kind not in "fiub" or not 1 <= len(shape) <= 2 or shape[0] != n:
        raise ValueError
    flat = array.astype("<f8", copy=False).tobytes()
    if len(shape) == 1:
        return wire.KIND_SCALAR, 1, flat
    return wire.KIND_MATRIX, _width(shape[1]), flat


def _from_sequence(value: Any, n: int) -> tuple[int, int, bytes]:
    """The same for n numbers, or n sequences of m numbers, without NumPy."""
    if isinstance(value, (str, bytes, dict, set)) or len(value) != n:
        raise ValueError
    rows = list(value)
    if not isinstance(rows[0], (list, tuple)) and not _is_row(rows[0]):
        return wire.KIND_SCALAR, 1, struct.pack(f"<{n}d", *rows)
    m = _width(len(rows[0]))
    if any(len(row) != m for row in rows):
        raise ValueError
    return wire.KIND_MATRIX, m, struct.pack(f"<{n * m}d", *chain.from_iterable(rows))


def _is_row(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, (str, bytes, dict))


def _width(m: int) -> int:
    if not 1 <= m <= wire.COLUMNS_MAX:
        raise ValueError
    return m


def _all_finite(flat: bytes, np: Any) -> bool:
    """False where a float64 of `flat` is not finite, or where their sum overflows."""
    count = len(flat) // 8
    if np is not None and count > 128:
        return bool(np.isfinite(np.frombuffer(flat, "<f8")).all())
    # A sum is finite only if all of its terms are; for a few it beats a call into NumPy.
    return math.isfinite(sum(struct.unpack(f"<{count}d", flat)))


def _not_finite(flat: bytes, kind: int, m: int, allow_nan: bool) -> dict:
    """The rows with an infinity, or with a NaN that is not allowed: row -> (NAN, message)."""
    bad: dict = {}
    for at, number in enumerate(struct.unpack(f"<{len(flat) // 8}d", flat)):
        if math.isfinite(number) or (allow_nan and math.isnan(number)):
            continue
        row, j = divmod(at, m)
        place = f"{row}" if kind == wire.KIND_SCALAR else f"{row}, {j}"
        bad.setdefault(row, (NAN, f"predict() returned {number} at [{place}]"))
    return bad


# ---- dicts


def _dicts(rows: Any, n: int, spec: Spec) -> Encoded:
    if spec.output.kind != "none" or len(rows) != n:
        raise _shape_error(rows, n, spec)
    texts: list = [None] * n
    bad: dict = {}
    for i, row in enumerate(rows):
        try:
            texts[i] = _json(row, spec.allow_nan)
        except OutputError as exc:
            bad[i] = (exc.code, f"predict() returned at [{i}] {exc}")
    return Encoded(wire.KIND_DICTS, 0, wire.pack_strings(texts), bad)


def _json(row: Any, allow_nan: bool) -> bytes:
    """A dict as UTF-8 JSON; an allowed NaN is null. Raises OutputError."""
    if not isinstance(row, dict):
        raise OutputError(f"{describe(row)}; expected a dict, as at [0]")
    try:
        return _dump(row).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        first = exc
    try:
        for path, number in _floats(row):
            if not math.isfinite(number) and not (allow_nan and math.isnan(number)):
                raise OutputError(f"a dict with {number} at {path}", NAN)
        if allow_nan:
            return _dump(_nan_to_none(row)).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        first = exc
    raise OutputError(f"a dict that JSON cannot express: {first}", SHAPE)


def _dump(row: Any) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    """NumPy's scalars and arrays as Python's own."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} {value!r:.80}")


def _floats(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every float below `value`, with where it is."""
    if isinstance(value, float):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _floats(item, f"{path}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _floats(item, f"{path}[{i}]")
    elif hasattr(value, "tolist"):
        yield from _floats(value.tolist(), path)


def _nan_to_none(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {key: _nan_to_none(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_nan_to_none(item) for item in value]
    return _nan_to_none(value.tolist()) if hasattr(value, "tolist") else value


# ---- words


def describe(value: Any) -> str:
    """What a value is, in a few words: its type, shape and dtype."""
    kind = type(value).__name__
    if value is None:
        return "None (is a return missing?)"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{_a(kind)} of shape {tuple(value.shape)}, dtype {value.dtype}"
    if isinstance(value, (list, tuple)):
        if not value:
            return f"an empty {kind}"
        inner = sorted({_item(item) for item in value[:100]})
        return f"{_a(kind)} of {len(value)} ({', '.join(inner[:4])})"
    if isinstance(value, dict):
        return "a dict (one for each row is expected, in a list)"
    return f"{_a(kind)} {value!r:.60}" if isinstance(value, (str, bytes, int, float)) else _a(kind)


def _item(value: Any) -> str:
    sized = isinstance(value, (list, tuple))
    return f"{type(value).__name__} of {len(value)}" if sized else type(value).__name__


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' or noun == 'ndarray' else 'a'} {noun}"

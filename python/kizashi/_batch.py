"""The rows a model is asked about."""

from __future__ import annotations

import json
import struct
from typing import Any

from . import _wire as wire
from ._errors import ProtocolError
from ._spec import Spec

class Batch:
    """n rows, in no meaningful order. Owns its memory: a model may keep or change it.

    len(batch) is n, at least 1. Everything but `names` is decoded when first asked for.
    """

    __slots__ = ("_cache", "_data", "_np", "_rows", "_spec", "_strings_at")

    def __init__(self, data: bytearray, spec: Spec, np: Any) -> None:
        """`data` is PREDICT's payload, `np` numpy or None. Raises ProtocolError."""
        if len(data) < wire.PREDICT_HEAD.size:
            raise ProtocolError(f"PREDICT has {len(data)} bytes, expected 16 or more")
        n, k, t, flags = wire.PREDICT_HEAD.unpack_from(data)
        if not 1 <= n <= wire.ROWS_MAX:
            raise ProtocolError(f"PREDICT has {n} rows, expected 1 to {wire.ROWS_MAX}")
        if k != len(spec.numeric) or t != len(spec.text) or flags != int(spec.history):
            raise ProtocolError(
                f"PREDICT has {k} number columns, {t} text columns, flags {flags}; LOAD said "
                f"{len(spec.numeric)}, {len(spec.text)}, {int(spec.history)}"
            )
        pos = wire.PREDICT_HEAD.size + n * (8 * k + 12)
        strings_at = []
        for _ in range(2 + t + flags):
            strings_at.append(pos)
            pos = wire.skip_strings(data, pos, n)
        if pos != len(data):
            raise ProtocolError(f"PREDICT has {len(data)} bytes, expected {pos}")
        self._data, self._spec, self._np, self._rows = data, spec, np, n
        self._strings_at = strings_at
        self._cache: dict[Any, Any] = {}

    def __len__(self) -> int:
        return self._rows

    def __repr__(self) -> str:
        return f"<kizashi.Batch of {self._rows} rows, columns {list(self._spec.columns)}>"

    @property
    def names(self) -> tuple[str, ...]:
        """The k number columns' names, in the order of `features`."""
        return self._spec.numeric

    @property
    def text_names(self) -> tuple[str, ...]:
        """The text columns' names."""
        return self._spec.text

    @property
    def features(self):
        """The number columns: float64 ndarray (n, k), C order, NaN for NULL.

        Without NumPy a list of n lists of k floats.
        """
        value = self._cache.get("features")
        if value is None:
            value = self._cache["features"] = self._features()
        return value

    def _features(self):
        n, k, at = self._rows, len(self._spec.numeric), wire.PREDICT_HEAD.size
        if self._np is not None:
            return self._np.ndarray((n, k), "<f8", self._data, at)
        flat = struct.unpack_from(f"<{n * k}d", self._data, at)
        return [list(flat[i * k : i * k + k]) for i in range(n)]

    def column(self, name: str):
        """One column by name, of n values.

        A number column is a float64 ndarray (n,), a view of `features`, or a
        list of floats without NumPy; NaN for NULL. A text column is a list of
        str, None for NULL. KeyError for another name.
        """
        spec = self._spec
        if name in spec.numeric:
            j = spec.numeric.index(name)
            if self._np is not None:
                return self.features[:, j]
            return [row[j] for row in self.features]
        if name in spec.text:
            return self._strings(2 + spec.text.index(name))
        raise KeyError(f"no column {name!r}; there are {', '.join(spec.columns) or 'none'}")

    def frame(self):
        """A pandas.DataFrame of all columns, in the feature SQL's order; needs pandas."""
        import pandas

        return pandas.DataFrame({name: self.column(name) for name in self._spec.columns})

    def history(self, i: int) -> list:
        """Row i's raw events, oldest first: dicts as the platform's `events` table has them.

        Only for models without `features:`; LookupError for others.
        """
        if not self._spec.history:
            raise LookupError("this model has features; a model without features: gets the history")
        cached = self._cache.setdefault("history", {})
        i = range(self._rows)[i]
        if i not in cached:
            cached[i] = json.loads(self._strings(len(self._strings_at) - 1)[i])
        return cached[i]

    @property
    def user_ids(self) -> list:
        """n user ids."""
        return self._strings(0)

    @property
    def event_ids(self) -> list:
        """n ids of the events that triggered the rows."""
        return self._strings(1)

    @property
    def now(self) -> list:
        """@now of each row: n ints, milliseconds UTC. The only clock a model should use."""
        at = wire.PREDICT_HEAD.size + 8 * self._rows * len(self._spec.numeric)
        return list(struct.unpack_from(f"<{self._rows}q", self._data, at))

    @property
    def truncated(self) -> list:
        """n bools: whether `history:` in kizashi.yaml cut the row's history (@truncated)."""
        at = wire.PREDICT_HEAD.size + self._rows * (8 * len(self._spec.numeric) + 8)
        flags = struct.unpack_from(f"<{self._rows}I", self._data, at)
        return [bool(flag & wire.ROW_TRUNCATED) for flag in flags]

    def _strings(self, block: int) -> list:
        value = self._cache.get(block)
        if value is None:
            at = self._strings_at[block]
            value = self._cache[block] = wire.unpack_strings(self._data, at, self._rows)
        return value

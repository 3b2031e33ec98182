"""What a model is asked to be: LOAD's JSON, checked."""

from __future__ import annotations

import json
from typing import Any, NamedTuple, Optional

from . import _wire as wire
from ._errors import ProtocolError


class Output(NamedTuple):
    """The output kizashi.yaml declares.

    kind   none (whatever predict() returns), select, classes or embedding
    width  m that (n, m) must have (classes, embedding), or must exceed (select)
    """

    kind: str = "none"
    width: int = 0

    def accepts(self, m: int) -> bool:
        """Whether rows of m numbers are this output."""
        if self.kind == "none":
            return True
        return m > self.width if self.kind == "select" else m == self.width

    def expected(self, n: int) -> str:
        """What predict() should have returned, in words."""
        if self.kind == "none":
            return f"(n,), (n, m) or a list of n dicts, with n = {n}"
        if self.kind == "select":
            return f"(n, m) with n = {n} and m > {self.width} (output: select {self.width})"
        return f"(n, m) with n = {n} and m = {self.width} (output: {self.kind})"


class Spec(NamedTuple):
    """A model to load, and the batches it will get.

    numeric   names of the number columns, in order: the k of PREDICT
    text      names of the text columns, in order: the t of PREDICT
    columns   both, in the order of the feature SQL
    """

    path: str
    class_name: Optional[str]
    version: str
    config: dict
    columns: tuple[str, ...]
    numeric: tuple[str, ...]
    text: tuple[str, ...]
    output: Output
    allow_nan: bool
    history: bool


def unpack_load(data) -> Spec:
    """LOAD's payload, read. Raises ProtocolError. Unknown keys are left alone."""
    try:
        doc = json.loads(str(memoryview(data), "utf-8"))
    except (ValueError, RecursionError) as exc:
        raise ProtocolError(f"LOAD is not JSON: {exc}") from None
    if not isinstance(doc, dict):
        raise ProtocolError("LOAD is not a JSON object")
    columns = [_column(item) for item in _field(doc, "columns", list, [])]
    names = tuple(name for name, _ in columns)
    if len(set(names)) != len(names) or len(names) > wire.COLUMNS_MAX:
        raise ProtocolError(f"LOAD's columns repeat a name, or are more than {wire.COLUMNS_MAX}")
    return Spec(
        path=_field(doc, "path", str),
        class_name=_field(doc, "class", str, None),
        version=_field(doc, "version", str, ""),
        config=_field(doc, "config", dict, {}),
        columns=names,
        numeric=tuple(name for name, kind in columns if kind == "number"),
        text=tuple(name for name, kind in columns if kind == "text"),
        output=_output(_field(doc, "output", dict, {})),
        allow_nan=_field(doc, "allow_nan", bool, False),
        history=_field(doc, "history", bool, False),
    )


_REQUIRED: Any = object()


def _field(doc: dict, key: str, kind: type, default: Any = _REQUIRED) -> Any:
    """doc[key] of the type `kind`; absent or null gives `default`."""
    value = doc.get(key)
    if value is None and default is not _REQUIRED:
        return default
    if type(value) is not kind:
        raise ProtocolError(f'LOAD\'s "{key}" is {value!r:.80}, expected a {kind.__name__}')
    return value


def _column(item: Any) -> tuple[str, str]:
    if not isinstance(item, dict):
        raise ProtocolError(f"LOAD has a column {item!r:.80}, expected an object")
    name, kind = _field(item, "name", str), _field(item, "type", str)
    if kind not in ("number", "text"):
        raise ProtocolError(f'column "{name}" has type "{kind}", expected "number" or "text"')
    return name, kind


def _output(doc: dict) -> Output:
    kind = _field(doc, "kind", str, "none")
    if kind == "none":
        return Output()
    key = {"select": "index", "classes": "count", "embedding": "shape"}.get(kind)
    if key is None:
        raise ProtocolError(f'output kind "{kind}" is not one of none, select, classes, embedding')
    width = _field(doc, key, int)
    if not (0 if kind == "select" else 1) <= width <= wire.COLUMNS_MAX:
        raise ProtocolError(f'output "{key}" is {width}, out of range')
    return Output(kind, width)

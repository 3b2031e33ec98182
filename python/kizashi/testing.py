"""Try a model on rows, without the platform: the same batches, the same checks.

    from kizashi.testing import run

    scores = run("models/purchase", [{"views": 3, "city": "Tokyo"}], config={"threshold": 0.5})
"""

from __future__ import annotations

import json
import os
from typing import Any, Mapping, Optional, Sequence, Union

from . import _wire as wire
from ._engine import Engine
from ._errors import CODE_NAMES
from ._model import Context, Model
from ._numpy import load_numpy
from ._spec import Output, Spec

__all__ = ["Failure", "run"]


class Failure(Exception):
    """The model did not answer; on the platform these rows would be dead letters.

    code  exception, shape or nan
    rows  the rows at fault; empty where it is the whole batch
    """

    def __init__(self, code: str, message: str, rows: Sequence[int] = ()) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.rows = list(rows)


def run(
    model: Union[str, "os.PathLike[str]", type, Model],
    rows: Optional[Sequence[Mapping[str, Any]]] = None,
    *,
    history: Optional[Sequence[Sequence[Mapping[str, Any]]]] = None,
    config: Optional[Mapping[str, Any]] = None,
    output: Optional[Mapping[str, Any]] = None,
    allow_nan: bool = False,
    user_ids: Optional[Sequence[str]] = None,
    now: Optional[Sequence[int]] = None,
) -> list:
    """Loads `model`, asks it about one batch and returns its n outputs.

    model    a model's directory, a Model subclass, or an instance that is loaded
    rows     n feature rows: dicts with the same keys, of numbers, str or None
    history  n lists of events instead, for a model without `features:`
    config   `config:` of kizashi.yaml
    output   as in kizashi.yaml: {"select": 1}, {"classes": [...]}, {"embedding": {"shape": 64}}
    now      @now of each row, ms; 0 unless given

    An output is a float, a tuple of m floats or a dict. With {"select": i} it
    is the selected float. Raises Failure, LoadError or what load() raises.
    """
    if (rows is None) == (history is None):
        raise TypeError("run() takes rows or history, one of them")
    n = len(history if rows is None else rows)
    spec = _spec(model, rows or (), history is not None, config, output, allow_nan)
    payload = wire.pack_predict(
        [[row[name] for name in spec.numeric] for row in rows or ()],
        [[row[name] for row in rows or ()] for name in spec.text],
        list(now or [0] * n),
        list(user_ids or (f"user{i}" for i in range(n))),
        [f"event{i}" for i in range(n)],
        None if history is None else [json.dumps(list(events)) for events in history],
    )
    kind, answer = _engine(model, spec).predict(bytearray(payload))
    return _outputs(kind, answer, spec)


def _spec(model, rows, history, config, output, allow_nan) -> Spec:
    columns = tuple(rows[0]) if rows else ()
    for i, row in enumerate(rows):
        if set(row) != set(columns):
            raise ValueError(f"row {i} has the columns {list(row)}, row 0 has {list(columns)}")
    text = tuple(name for name in columns if any(isinstance(row[name], str) for row in rows))
    return Spec(
        path=os.fspath(model) if isinstance(model, (str, os.PathLike)) else os.getcwd(),
        class_name=None,
        version="test",
        config=dict(config or {}),
        columns=columns,
        numeric=tuple(name for name in columns if name not in text),
        text=text,
        output=_output(output),
        allow_nan=allow_nan,
        history=history,
    )


def _output(output: Optional[Mapping[str, Any]]) -> Output:
    if not output:
        return Output()
    (kind, value), *others = output.items()
    if others or kind not in ("select", "classes", "embedding"):
        raise ValueError(f"output is {dict(output)}, expected one of select, classes, embedding")
    if kind == "classes":
        return Output(kind, len(value))
    return Output(kind, int(value["shape"] if kind == "embedding" else value))


def _engine(model: Any, spec: Spec) -> Engine:
    if isinstance(model, (str, os.PathLike)):
        return Engine.load(spec, load_numpy())
    if isinstance(model, type):
        model = model()
        model.load(Context(spec.path, spec.version, spec.config))
    return Engine(model, spec, load_numpy())


def _outputs(kind: int, answer: bytes, spec: Spec) -> list:
    if kind == wire.ERROR:
        failure = wire.unpack_error(answer)
        raise Failure(CODE_NAMES[failure.code], failure.traceback or failure.message)
    result = wire.unpack_result(answer)
    if result.bad:
        code, message = next(iter(result.bad.values()))
        raise Failure(CODE_NAMES[code], message, list(result.bad))
    if result.kind == wire.KIND_DICTS:
        return [json.loads(text) for text in result.values]
    if spec.output.kind == "select" and result.kind == wire.KIND_MATRIX:
        return [row[spec.output.width] for row in result.values]
    return result.values

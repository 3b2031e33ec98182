"""One loaded model, asked by payload: what the worker and kizashi.testing share."""

from __future__ import annotations

import time
from typing import Any

from . import _wire as wire
from ._batch import Batch
from ._errors import EXCEPTION, PROTOCOL, OutputError, ProtocolError
from ._loader import explain, load_model
from ._model import Model
from ._output import encode
from ._spec import Spec

_U32_MAX = 0xFFFFFFFF


class Engine:
    """Answers PREDICT payloads with RESULT or ERROR payloads."""

    def __init__(self, model: Model, spec: Spec, np: Any) -> None:
        """`model` has been loaded; `np` is numpy or None."""
        self.model, self.spec, self.np = model, spec, np

    @classmethod
    def load(cls, spec: Spec, np: Any) -> "Engine":
        """Loads the model of `spec`. Raises LoadError, or what the model's code raises."""
        return cls(load_model(spec), spec, np)

    def predict(self, data: bytearray) -> tuple[int, bytes]:
        """(RESULT or ERROR, its payload) for one PREDICT payload. Never raises.

        BaseException, because a model's sys.exit() must not end the worker.
        """
        started = time.perf_counter_ns()
        try:
            batch = Batch(data, self.spec, self.np)
            started = time.perf_counter_ns()
            value = self.model.predict(batch)
            predict_us = _us_since(started)
            output = encode(value, len(batch), self.spec, self.np)
            payload = wire.pack_result(
                len(batch), output.kind, output.m, predict_us, output.values, output.bad
            )
            if len(payload) > wire.PAYLOAD_BYTES_MAX:
                raise OutputError(f"predict() returned {len(payload)} bytes, over the frame's limit")
            return wire.RESULT, payload
        except ProtocolError as exc:
            return wire.ERROR, wire.pack_error(PROTOCOL, _us_since(started), str(exc))
        except OutputError as exc:
            return wire.ERROR, wire.pack_error(exc.code, _us_since(started), str(exc))
        except BaseException as exc:
            return wire.ERROR, wire.pack_error(EXCEPTION, _us_since(started), *explain(exc))


def _us_since(start_ns: int) -> int:
    return min((time.perf_counter_ns() - start_ns) // 1000, _U32_MAX)

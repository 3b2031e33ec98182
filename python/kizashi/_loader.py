"""From a model directory to a loaded model, and from an exception to its traceback."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from types import ModuleType
from typing import Optional

from ._errors import LoadError
from ._model import Context, Model
from ._spec import Spec

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep


def load_model(spec: Spec) -> Model:
    """Imports model.py, finds its model and calls load().

    Raises LoadError, or whatever the model's own code raises.
    """
    path = os.path.abspath(spec.path)
    found = find_model(import_model(path), spec.class_name)
    model = found() if isinstance(found, type) else found
    model.load(Context(path, spec.version, spec.config))
    return model


def import_model(path: str) -> ModuleType:
    """Imports `path`/model.py as the module `model`, so that what was pickled as model.X is found.

    `path` goes first on sys.path: model.py may import its neighbours. No
    bytecode is written beside them, since a version is the directory's hash.
    """
    source = os.path.join(path, "model.py")
    if not os.path.isfile(source):
        raise LoadError(f'no "{source}"')
    sys.dont_write_bytecode = True
    if path not in sys.path:
        sys.path.insert(0, path)
    module_spec = importlib.util.spec_from_file_location("model", source)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules["model"] = module
    module_spec.loader.exec_module(module)
    return module


def find_model(module: ModuleType, class_name: Optional[str] = None):
    """The class `class_name`, else MODEL, else the one Model subclass the module defines.

    Returns a class, or an instance if MODEL is one. Raises LoadError.
    """
    if class_name is not None:
        found = getattr(module, class_name, None)
        if not _is_model_class(found):
            raise LoadError(f'model.py has no kizashi.Model subclass "{class_name}"')
        return found
    named = getattr(module, "MODEL", None)
    if named is not None:
        if not _is_model_class(named) and not isinstance(named, Model):
            raise LoadError("MODEL in model.py is neither a kizashi.Model subclass nor an instance")
        return named
    own = [v for v in vars(module).values() if _is_model_class(v) and v.__module__ == module.__name__]
    classes = list(dict.fromkeys(own))
    if len(classes) == 1:
        return classes[0]
    if not classes:
        raise LoadError("model.py defines no subclass of kizashi.Model, expected one (or MODEL = ...)")
    names = ", ".join(cls.__name__ for cls in classes)
    raise LoadError(f"model.py defines {len(classes)} models ({names}); say which: MODEL = ...")


def _is_model_class(value) -> bool:
    return isinstance(value, type) and issubclass(value, Model) and value is not Model


def explain(exc: BaseException) -> tuple[str, str]:
    """(one-line message, traceback) of an exception, without this package's and import's frames."""
    try:
        report = traceback.TracebackException.from_exception(exc)
        lines = list(report.format_exception_only())
        # A SyntaxError is told after its place, others before their notes.
        message = lines[-1 if isinstance(exc, SyntaxError) else 0].strip().splitlines()[0]
        _drop_our_frames(report)
        return message, "".join(report.format())
    except Exception:  # a __str__ or a __notes__ that raises, too
        return type(exc).__name__, ""


def _drop_our_frames(report: traceback.TracebackException) -> None:
    seen: set = set()
    todo = [report]
    while todo:
        item = todo.pop()
        if item is None or id(item) in seen:
            continue
        seen.add(id(item))
        kept = [f for f in item.stack if not f.filename.startswith((_OURS, "<frozen importlib"))]
        item.stack = traceback.StackSummary.from_list(kept)
        todo += [item.__cause__, item.__context__, *(getattr(item, "exceptions", None) or ())]

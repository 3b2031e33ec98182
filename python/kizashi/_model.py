"""What a model's author subclasses, and what load() is given."""

from __future__ import annotations

from typing import Any, Mapping


class Context:
    """What a model is loaded with.

    path     absolute path of the model's directory
    version  the version's name, as in predictions and `kizashi models`
    config   `config:` of kizashi.yaml, a dict
    """

    __slots__ = ("path", "version", "config")

    def __init__(self, path: str, version: str = "", config: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.version = version
        self.config = dict(config or {})

    def __repr__(self) -> str:
        return f"Context(path={self.path!r}, version={self.version!r}, config={self.config!r})"


class Model:
    """Base of every model. One instance serves one replica, one batch at a time."""

    def load(self, ctx: Context) -> None:
        """Called once for each replica, before any predict().

        Read the artefact from `ctx.path` here. An exception fails the load.
        Threads started here keep the platform from forking replicas.
        """

    def predict(self, batch):
        """Answer the n = len(batch) rows of `batch`, a kizashi.Batch.

        Returns one of
            (n,)     n numbers: an ndarray or a list
            (n, m)   n rows of m numbers: an ndarray or a list of lists
            n dicts  a list of dicts that JSON can express
        in the batch's order. Numbers become float64. Infinity is refused, NaN
        too unless the model allows it. An exception costs the batch, which the
        platform retries in halves down to the row at fault.
        """
        raise NotImplementedError(f"{type(self).__name__} has no predict(self, batch)")

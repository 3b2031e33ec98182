"""Write a model for Kizashi, the real-time prediction platform.

    import kizashi

    class Purchase(kizashi.Model):
        def load(self, ctx):
            self.threshold = ctx.config["threshold"]

        def predict(self, batch):
            return batch.column("views") > self.threshold

`kizashi.testing.run()` tries a model on rows without the platform;
`python3 -m kizashi.worker` is what the platform starts.
"""

from ._batch import Batch
from ._errors import LoadError, OutputError, ProtocolError
from ._model import Context, Model

__version__ = "0.1.0"
__all__ = ["Batch", "Context", "LoadError", "Model", "OutputError", "ProtocolError"]

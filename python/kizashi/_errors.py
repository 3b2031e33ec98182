"""What goes wrong, and the code it travels under (docs/worker-protocol.md, "Codes")."""

from __future__ import annotations

EXCEPTION = 1
SHAPE = 2
NAN = 3
PROTOCOL = 4
REFUSED = 5
MODEL = 6

CODE_NAMES = {
    EXCEPTION: "exception",
    SHAPE: "shape",
    NAN: "nan",
    PROTOCOL: "protocol",
    REFUSED: "refused",
    MODEL: "model",
}


class ProtocolError(Exception):
    """A frame that is not what docs/worker-protocol.md says."""


class BrokenStream(ProtocolError):
    """A frame header that cannot be trusted: where the next frame starts is unknown."""


class LoadError(Exception):
    """A model directory without exactly one usable model."""


class OutputError(Exception):
    """What predict() returned is not an output; `code` is SHAPE or NAN."""

    def __init__(self, message: str, code: int = SHAPE) -> None:
        super().__init__(message)
        self.code = code

"""docs/worker-protocol.md's example is what the code sends."""

from __future__ import annotations

import re
import struct
import unittest
from pathlib import Path

from kizashi import _wire as wire

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "worker-protocol.md"


def hex_blocks(text: str) -> list:
    """The bytes of each hex listing in order."""
    blocks = []
    for listing in re.findall(r"```\n(0000 .*?)```", text, re.S):
        rows = [re.match(r"[0-9a-f]{4} ((?: [0-9a-f]{2})+)", row) for row in listing.splitlines()]
        blocks.append(bytes.fromhex("".join(row[1] for row in rows if row)))
    return blocks


@unittest.skipUnless(DOCUMENT.is_file(), "not in the source tree")
class Example(unittest.TestCase):
    def test_the_hex_is_what_is_sent(self):
        nan = float("nan")
        predict = wire.pack_predict(
            [[3.0, 0.5], [1.0, None]],
            [["Oita", None]],
            [1700000000000, 1700000000001],
            ["ann", "bo"],
            ["e1", "e2"],
            truncated=[True, False],
        )
        bad = {1: (3, "predict() returned nan at [1]")}
        result = wire.pack_result(2, wire.KIND_SCALAR, 1, 42, struct.pack("<2d", 0.25, nan), bad)
        self.assertEqual(
            hex_blocks(DOCUMENT.read_text()),
            [wire.frame(wire.PREDICT, 7, predict), wire.frame(wire.RESULT, 7, result)],
        )


if __name__ == "__main__":
    unittest.main()

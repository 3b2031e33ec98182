"""kizashi.testing, as a model's author uses it."""

from __future__ import annotations

import tempfile
import textwrap
import unittest
from pathlib import Path

import kizashi
from kizashi.testing import Failure, run


class Scale(kizashi.Model):
    def load(self, ctx):
        self.by = ctx.config.get("by", 1.0)

    def predict(self, batch):
        return [float(v) * self.by for v in batch.column("views")]


class Run(unittest.TestCase):
    def test_a_class(self):
        rows = [{"views": 3, "city": "Tokyo"}, {"views": 4, "city": None}]
        self.assertEqual(run(Scale, rows, config={"by": 0.5}), [1.5, 2.0])

    def test_a_directory(self):
        with tempfile.TemporaryDirectory() as folder:
            source = """
                import kizashi
                class Both(kizashi.Model):
                    def predict(self, batch):
                        return [[1.0, float(v)] for v in batch.column("views")]
            """
            Path(folder, "model.py").write_text(textwrap.dedent(source))
            self.assertEqual(run(folder, [{"views": 3}], output={"select": 1}), [3.0])
            self.assertEqual(run(Path(folder), [{"views": 3}], output={"classes": ["a", "b"]}), [(1.0, 3.0)])

    def test_raw_history(self):
        class Count(kizashi.Model):
            def predict(self, batch):
                return [{"views": len(batch.history(i))} for i in range(len(batch))]

        self.assertEqual(run(Count, history=[[], [{"name": "view"}]]), [{"views": 0}, {"views": 1}])

    def test_failures_are_what_the_platform_would_see(self):
        with self.assertRaisesRegex(Failure, "KeyError") as caught:
            run(Scale, [{"clicks": 1}])
        self.assertEqual(caught.exception.code, "exception")
        with self.assertRaises(Failure) as caught:
            run(Scale, [{"views": 1}, {"views": None}])
        self.assertEqual((caught.exception.code, caught.exception.rows), ("nan", [1]))

    def test_rows_must_agree(self):
        with self.assertRaisesRegex(ValueError, "row 1 has the columns"):
            run(Scale, [{"views": 1}, {"clicks": 1}])

    def test_a_features_model_has_no_history(self):
        class Asks(kizashi.Model):
            def predict(self, batch):
                return [len(batch.history(0))]

        with self.assertRaisesRegex(Failure, "LookupError"):
            run(Asks, [{"views": 1}])

    def test_frame(self):
        try:
            import pandas
        except ImportError:
            self.skipTest("pandas is not installed")

        class Frame(kizashi.Model):
            def predict(self, batch):
                frame = batch.frame()
                assert isinstance(frame, pandas.DataFrame) and list(frame) == ["city", "views"]
                return frame["views"] * 2

        self.assertEqual(run(Frame, [{"city": "Tokyo", "views": 2}]), [4.0])


if __name__ == "__main__":
    unittest.main()

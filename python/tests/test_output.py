"""What predict() may return, and what is said of what it may not."""

from __future__ import annotations

import array
import json
import math
import unittest

import kizashi
from kizashi import _errors as errors
from kizashi import _wire as wire
from kizashi._numpy import load_numpy
from kizashi._output import encode
from kizashi._spec import Output, Spec

np = load_numpy()


def spec(output: Output = Output(), allow_nan: bool = False) -> Spec:
    return Spec("", None, "", {}, (), (), (), output, allow_nan, False)


def result(value, n, of=spec(), numpy=np) -> wire.Result:
    kind, m, values, bad = encode(value, n, of, numpy)
    return wire.unpack_result(wire.pack_result(n, kind, m, 0, values, bad))


class Accepted(unittest.TestCase):
    def test_numbers_with_and_without_numpy(self):
        for numpy in {np, None}:
            for value in ([0.5, 1, True], (0.5, 1, True), array.array("d", [0.5, 1, 1])):
                got = result(value, 3, numpy=numpy)
                self.assertEqual((got.kind, got.values), (wire.KIND_SCALAR, [0.5, 1.0, 1.0]))

    def test_rows_of_numbers_with_and_without_numpy(self):
        for numpy in {np, None}:
            for value in ([[1, 2], [3, 4]], [(1, 2), (3, 4)], [array.array("d", [1, 2]), [3, 4]]):
                got = result(value, 2, numpy=numpy)
                self.assertEqual((got.kind, got.m, got.values), (wire.KIND_MATRIX, 2, [(1, 2), (3, 4)]))

    def test_dicts(self):
        got = result([{"p": 0.5, "why": "\u5146"}, {}], 2)
        self.assertEqual(got.kind, wire.KIND_DICTS)
        self.assertEqual(got.values, ['{"p":0.5,"why":"\u5146"}', "{}"])

    @unittest.skipUnless(np, "NumPy is not installed")
    def test_arrays(self):
        for dtype in ("float16", "float32", ">f8", "int8", "uint64", "bool"):
            self.assertEqual(result(np.array([1, 0], dtype), 2).values, [1.0, 0.0])
        fortran = np.asfortranarray([[1.0, 2.0], [3.0, 4.0]])
        self.assertEqual(result(fortran, 2).values, [(1, 2), (3, 4)])
        self.assertEqual(result(np.arange(8.0)[::2], 4).values, [0, 2, 4, 6])
        self.assertEqual(result([np.float32(0.5), np.float32(1)], 2).values, [0.5, 1])
        got = result([{"a": np.float32(0.5), "b": np.arange(2)}], 1)
        self.assertEqual(json.loads(got.values[0]), {"a": 0.5, "b": [0, 1]})

    def test_finite_numbers_whose_sum_is_not(self):
        for numpy in {np, None}:
            self.assertEqual(result([1e308, 1e308], 2, numpy=numpy).bad, {})

    def test_declared_outputs(self):
        self.assertEqual(result([[0.1, 0.9]], 1, spec(Output("select", 1))).values, [(0.1, 0.9)])
        self.assertEqual(result([[0.1, 0.9]], 1, spec(Output("classes", 2))).m, 2)
        self.assertEqual(result([[0.1, 0.9]], 1, spec(Output("embedding", 2))).m, 2)


class Refused(unittest.TestCase):
    def refusal(self, value, n, of=spec(), numpy=np) -> str:
        with self.assertRaises(kizashi.OutputError) as caught:
            encode(value, n, of, numpy)
        self.assertEqual(caught.exception.code, errors.SHAPE)
        return str(caught.exception)

    def test_anything_else_with_and_without_numpy(self):
        odd = [None, 0.5, "ab", b"ab", {}, {"score": [1, 2]}, set(), [], [1.0], [1.0, 2.0, 3.0], ["a", "b"]]
        odd += [[1.0, None], [None, 1.0], [[1.0], [1.0, 2.0]], [[], []], [[[1.0]], [[1.0]]], [1j, 2j]]
        odd += [[10**400, 1], object(), [{}], [{}, {}, {}], iter([1.0, 2.0]), [1.0, [2.0]], [[1.0], 2.0]]
        for numpy in {np, None}:
            for value in odd:
                with self.subTest(value=value, numpy=bool(numpy)):
                    said = self.refusal(value, 2, numpy=numpy)
                    self.assertIn("expected (n,), (n, m) or a list of n dicts, with n = 2", said)

    def test_it_says_what_was_got(self):
        self.assertIn("None (is a return missing?)", self.refusal(None, 2))
        self.assertIn("a list of 3 (float)", self.refusal([1.0, 2.0, 3.0], 2))
        self.assertIn("a str 'ab'", self.refusal("ab", 2))
        self.assertIn("(list of 1, list of 2)", self.refusal([[1.0], [1.0, 2.0]], 2))

    def test_declared_outputs(self):
        said = self.refusal([[0.1, 0.9]], 1, spec(Output("classes", 3)))
        self.assertIn("expected (n, m) with n = 1 and m = 3 (output: classes)", said)
        said = self.refusal([0.1], 1, spec(Output("select", 1)))
        self.assertIn("m > 1 (output: select 1)", said)
        self.refusal([{"p": 1}], 1, spec(Output("embedding", 1)))

    @unittest.skipUnless(np, "NumPy is not installed")
    def test_arrays(self):
        said = self.refusal(np.zeros(3, "float32"), 4)
        self.assertIn("an ndarray of shape (3,), dtype float32", said)
        for value in (np.zeros((2, 2, 2)), np.zeros(()), np.zeros((2, 0)), np.zeros(2, "complex128")):
            self.refusal(value, 2)
        self.refusal(np.array(["a", "b"]), 2)
        self.refusal(np.array([1.0, None]), 2)


class NotFinite(unittest.TestCase):
    def test_rows_are_marked_with_and_without_numpy(self):
        for numpy in {np, None}:
            got = result([[1, 2], [3, math.nan], [math.inf, math.nan]], 3, numpy=numpy)
            self.assertEqual(
                got.bad,
                {
                    1: (errors.NAN, "predict() returned nan at [1, 1]"),
                    2: (errors.NAN, "predict() returned inf at [2, 0]"),
                },
            )

    def test_in_a_large_array(self):
        values = [0.5] * 1000
        values[777] = -math.inf
        self.assertEqual(list(result(values, 1000).bad), [777])

    def test_in_dicts(self):
        rows = [{"ok": 1.0}, {"deep": [{"p": math.nan}]}, {"p": math.inf}]
        got = result(rows, 3)
        self.assertEqual(list(got.bad), [1, 2])
        said = "predict() returned at [1] a dict with nan at ['deep'][0]['p']"
        self.assertEqual(got.bad[1], (errors.NAN, said))
        got = result(rows, 3, spec(allow_nan=True))
        self.assertEqual(got.values[:2], ['{"ok":1.0}', '{"deep":[{"p":null}]}'])
        self.assertEqual(list(got.bad), [2])

    def test_dicts_that_json_cannot_express_are_marked(self):
        loop: dict = {}
        loop["self"] = loop
        deep: dict = {}
        for _ in range(100_000):
            deep = {"d": deep}
        rows = [{"a": 1}, {"f": open}, loop, {"s": "\udc80"}, {(1, 2): 3}, None, deep]
        got = result(rows, len(rows))
        self.assertEqual(list(got.bad), [1, 2, 3, 4, 5, 6])
        self.assertEqual({code for code, _ in got.bad.values()}, {errors.SHAPE})
        self.assertEqual(got.values[0], '{"a":1}')


if __name__ == "__main__":
    unittest.main()

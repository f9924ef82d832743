"""The comparer itself: what means nothing must never pass."""

import subprocess
import unittest

import numpy
import torch

import support

NAN = float("nan")
INF = float("inf")


class LargestError(unittest.TestCase):
    def test_is_relative_to_the_largest_magnitude(self):
        self.assertEqual(support.largest_error([1.0, -4.0], [1.0, -4.0]), 0)
        self.assertAlmostEqual(support.largest_error([1.0, -3.0], [1.0, -4.0]), 0.25)
        self.assertAlmostEqual(support.largest_error([1.0], [2.0], scale=10), 0.1)

    def test_two_negatives_do_not_cancel(self):
        self.assertAlmostEqual(support.largest_error([-1.0, -2.0], [-2.0, -1.0]), 0.5)
        self.assertGreater(support.largest_error([-5.0], [-1.0]), 1)

    def test_nan_fails_on_either_side_and_on_both(self):
        for actual, expected in ((NAN, 1.0), (1.0, NAN), (NAN, NAN)):
            for comparer in (support.largest_error, support.rms_error):
                self.assertEqual(comparer([actual, 1.0], [expected, 1.0]), INF)
        self.assertEqual(support.largest_error([1.0], [1.0], scale=NAN), INF)

    def test_wrong_shape_fails_even_if_it_broadcasts(self):
        for comparer in (support.largest_error, support.rms_error):
            self.assertEqual(comparer(numpy.ones((2, 1)), numpy.ones((2, 2))), INF)
            self.assertEqual(comparer(1.0, [1.0]), INF)

    def test_nothing_to_compare_fails(self):
        for comparer in (support.largest_error, support.rms_error):
            self.assertEqual(comparer([], []), INF)

    def test_infinities_must_agree(self):
        self.assertEqual(support.largest_error([-INF, 1.0], [-INF, 1.0]), 0)
        self.assertEqual(support.largest_error([INF, 1.0], [-INF, 1.0]), INF)
        self.assertEqual(support.largest_error([-1e30, 1.0], [-INF, 1.0]), INF)

    def test_all_zero_reference_demands_zeros(self):
        self.assertEqual(support.largest_error([0.0], [0.0]), 0)
        self.assertEqual(support.largest_error([1e-30], [0.0]), INF)
        self.assertEqual(support.rms_error([1e-30], [0.0]), INF)

    def test_reads_torch_tensors(self):
        bf16 = torch.tensor([1.0, 2.0], dtype=torch.bfloat16, requires_grad=True)
        self.assertEqual(support.largest_error(bf16, [1.0, 2.0]), 0)
        self.assertAlmostEqual(support.rms_error(torch.tensor([3.0]), [2.0]), 0.5)


class OneLineError(support.TestCase):
    def check(self, code, stderr):
        result = subprocess.CompletedProcess([], code, "", stderr)
        self.assert_one_line_error(result, 2, "heads")

    def test_accepts_one_line_with_the_word(self):
        self.check(2, "heads 3 is not a multiple of kv_heads 2\n")

    def test_refuses_everything_else(self):
        for code, stderr in ((1, "heads"), (2, ""), (2, "heads\nmore"), (2, "other")):
            with self.assertRaises(AssertionError):
                self.check(code, stderr)


if __name__ == "__main__":
    support.main()

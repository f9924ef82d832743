"""A rank fails in the middle of ring attention: the whole job ends soon, with the cause."""

import unittest

import support

DIRECTIONS = ("forward", "backward", "backward_queries")
RANKS = 3
# Where only a time-out can tell: short, so that the job ends well within the limit of 10 s.
TIMEOUT = 3
LIMIT = 10


class RingFault(support.TestCase):
    def fail_one(self, direction, how, ranks=None, timeout=60):
        result = support.run("ring_fault_probe", direction, how, RANKS, timeout, ranks=ranks,
                             timeout=LIMIT)  # fmt: skip
        self.assertNotEqual(result.returncode, 0)
        return result.stderr

    def test_a_rank_that_throws(self):
        for ranks in (None, RANKS):
            for direction in DIRECTIONS:
                with self.subTest(direction=direction, mpi=ranks):
                    said = self.fail_one(direction, "throw", ranks)
                    self.assertIn("the first block is bad", said)

    def test_a_rank_that_stalls(self):
        for ranks in (None, RANKS):
            for direction in DIRECTIONS:
                with self.subTest(direction=direction, mpi=ranks):
                    said = self.fail_one(direction, "stall", ranks, TIMEOUT)
                    self.assertRegex(said, "waited 3 s for ")

    def test_a_process_that_is_stopped_or_killed(self):
        for direction in DIRECTIONS:
            with self.subTest(direction=direction):
                said = self.fail_one(direction, "stop", RANKS, TIMEOUT)
                self.assertRegex(said, "waited 3 s")
                said = self.fail_one(direction, "kill", RANKS)
                self.assertIn("signal 9", said)


if __name__ == "__main__":
    support.main()

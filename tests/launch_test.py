"""A rank that throws or stalls ends the whole job, once told, with threads and under mpirun."""

import support


class Faults(support.TestCase):
    def errors(self, result):
        """The program's own lines: mpirun adds its banner."""
        return [line for line in result.stderr.splitlines() if line.startswith("ringwise: ")]

    def check(self, how, code, words, ranks=None, timeout_seconds=60):
        # Far less than the time-out, and than the stalled rank's sleep.
        result = support.run("launch_probe", how, 3, timeout_seconds, ranks=ranks, timeout=30)
        self.assertEqual(result.returncode, code, result.stderr)
        lines = self.errors(result)
        self.assertEqual(len(lines), 1, result.stderr)
        for word in words:
            self.assertIn(word, lines[0])

    def test_threads(self):
        self.check("throw", 1, ["disk full"])
        self.check("agree", 1, ["every rank found this"])
        self.check("stall", 1, ["waited 1 s for rank 1"], timeout_seconds=1)
        self.check("gather", 1, ["waited 1 s for the other ranks"], timeout_seconds=1)

    def test_a_rank_that_throws_ends_the_mpi_job(self):
        self.check("throw", 1, ["rank 1: disk full"], ranks=3)
        self.check("usage", 2, ["rank 1: no such layout"], ranks=3)

    def test_an_error_of_every_rank_is_told_once(self):
        self.check("agree", 1, ["rank 0: every rank found this"], ranks=3)

    def test_a_stalled_rank_ends_the_mpi_job_after_the_time_out(self):
        self.check("stall", 1, ["waited 1 s for rank 1"], ranks=3, timeout_seconds=1)
        self.check("gather", 1, ["waited 1 s for the other ranks"], ranks=3, timeout_seconds=1)

    def test_a_mesh_that_does_not_fit(self):
        result = support.run("launch_probe", "throw", 4, ranks=2, timeout=30)
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertEqual(len(self.errors(result)), 1, result.stderr)
        self.assertIn("the job has 2 ranks", self.errors(result)[0])


if __name__ == "__main__":
    support.main()

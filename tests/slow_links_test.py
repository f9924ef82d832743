"""benchmarks/slow_links.py on its two hosts: that it measures, draws and leaves nothing behind.

Skipped where hosts cannot be made. No speed is judged: the one block is shorter than the bound's.
"""

import json
import pathlib
import subprocess
import sys
import unittest
import xml.etree.ElementTree

import support

BENCHMARKS = pathlib.Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import hosts  # noqa: E402


def why_not():
    if hosts.missing():
        return hosts.missing()
    try:
        with hosts.Hosts((0, 0)) as pair:
            pair.limit("1gbit")
    except RuntimeError as error:
        return str(error)
    return None


REASON = why_not()


class SlowLinks(support.TestCase):
    @unittest.skipIf(REASON, REASON)
    def test_measures_draws_and_tidies_up(self):
        before = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
        picture = self.folder / "plot.svg"
        result = subprocess.run(
            [
                sys.executable, str(BENCHMARKS / "slow_links.py"), "--build", str(support.BUILD),
                "--rate", "1gbit", "--cores", "0", "0", "--heads", "1", "--kv-heads", "1",
                "--multiples", "0.5", "--rounds", "1", "--min-seconds", "0", "--json",
                "--plot", str(picture),
            ],
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        self.assertIn(result.returncode, (0, 1), result.stderr)
        records = [json.loads(line) for line in result.stdout.splitlines()]
        self.assertEqual([record["mask"] for record in records], ["full", "causal zigzag"])
        for record in records:
            # A rank sends its keys and values once: of one head of 64, padded by the packing.
            least = 2 * record["block"] * 64 * 4
            self.assertGreaterEqual(record["most_sent"], least)
            self.assertLess(record["most_sent"], 2 * least)
            self.assertGreater(record["efficiency"], 0)
            self.assertGreater(record["law_block"], 0)
        texts = [element.text for element in xml.etree.ElementTree.parse(picture).iter()]
        for record in records:
            self.assertIn(f"{record['mask']}: c = {record['law_block']:.0f}", texts)
        after = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
        self.assertEqual(after, before)

    @unittest.skipIf(REASON, REASON)
    def test_a_job_that_fails_or_hangs_is_an_error(self):
        with hosts.Hosts((0, 0)) as pair:
            with self.assertRaisesRegex(RuntimeError, "exit 3"):
                pair.mpirun(["sh", "-c", "exit 3"], timeout=60)
            with self.assertRaisesRegex(RuntimeError, "no end"):
                pair.mpirun(["sleep", "100"], timeout=3)
            self.assertEqual(pair.mpirun(["echo", "yes"], timeout=60), "yes\nyes\n")


if __name__ == "__main__":
    support.main()

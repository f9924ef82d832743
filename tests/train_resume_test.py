"""`ringwise train` stopped, killed and resumed: exactly as if it had never stopped."""

import os
import pathlib
import shutil
import signal
import subprocess
import time

import support
from train_case import TrainTestCase, flags, losses, records, weights


class Resume(TrainTestCase):
    STEPS = 30

    def slow(self, name, ranks=None, **changed):
        """Starts a run in the background that takes long enough to be interrupted."""
        run = self.folder / name
        line = support.command("ringwise", "train", "--data", self.text, "--out", run,
                               *flags(**changed), ranks=ranks)
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   text=True, env=support.environment())
        return run, process

    def interrupted(self, name, number, at_step, **changed):
        """A run that got the signal after `at_step`, and how it ended."""
        run, process = self.slow(name, **changed)
        metrics = run / "metrics.jsonl"
        while process.poll() is None:
            if metrics.exists() and metrics.read_bytes().count(b"\n") >= at_step:
                process.send_signal(number)
                break
            time.sleep(0.001)
        stderr = process.communicate(timeout=60)[1]
        return run, process.returncode, stderr

    def base(self, **changed):
        return {"steps": self.STEPS, "save-every": 5, "ring": 2, "context": 403, **changed}

    def test_after_being_killed_or_asked_to_stop(self):
        whole = self.train("whole", **self.base())
        expected = losses(whole)
        for number, code in [(signal.SIGKILL, -9), (signal.SIGTERM, 143)]:
            run, returned, stderr = self.interrupted(f"cut-{code}", number, 12, **self.base())
            self.assertEqual(returned, code, stderr)
            kept = len(records(run))
            self.assertLess(kept, self.STEPS, "the run was over before the signal")
            if number == signal.SIGTERM:
                self.assertIn(f"--resume {run}", stderr)
                self.assertEqual(records(run)[-1]["stopped_by"], "SIGTERM")
                at = os.readlink(run / "checkpoints/latest")
                self.assertEqual(at, f"step-{kept}")  # nothing of the work is lost
            copies = {}
            for copy in ["ring-3", "mpi-2", "mpi-4"]:
                copies[copy] = self.folder / f"{copy}{code}"
                shutil.copytree(run, copies[copy], symlinks=True)
            self.resume(run)
            self.assertEqual(losses(run), expected)
            self.assertEqual(weights(run), weights(whole))
            self.assertTrue(records(run)[-1]["final"])
            self.resume(copies["ring-3"], "--ring", 3, "--layout", "striped")
            self.assert_losses(losses(copies["ring-3"]), expected)
            self.resume(copies["mpi-2"], ranks=2)
            self.assert_losses(losses(copies["mpi-2"]), expected)
            self.resume(copies["mpi-4"], "--ring", 4, ranks=4)
            self.assert_losses(losses(copies["mpi-4"]), expected)

    def test_signals_have_their_exit_codes(self):
        for number, code in [(signal.SIGINT, 130), (signal.SIGUSR1, 0)]:
            run, returned, stderr = self.interrupted(
                f"signal-{code}", number, 3, **self.base(steps=5000)
            )
            self.assertEqual(returned, code, stderr)
            self.assertIn(number.name, stderr)
            self.assertTrue((run / "checkpoints/latest/state.json").exists())

    def test_a_signal_to_an_mpi_job_saves_too(self):
        run, process = self.slow("mpi", ranks=2, **self.base(steps=5000))
        self.wait_for_steps(process, run, 3)
        process.send_signal(signal.SIGUSR1)  # mpirun passes it on to the ranks
        stderr = process.communicate(timeout=60)[1]
        self.assertEqual(process.returncode, 0, stderr)
        self.assertEqual(records(run)[-1]["stopped_by"], "SIGUSR1")
        self.assertTrue((run / "checkpoints/latest/state.json").exists())

    def wait_for_steps(self, process, run, steps):
        metrics = run / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if metrics.exists() and metrics.read_bytes().count(b"\n") >= steps:
                return
            time.sleep(0.005)
        self.fail(f"no {steps} steps: {process.poll()}")

    def test_a_killed_rank_ends_the_job(self):
        run, process = self.slow("killed", ranks=3, **self.base(steps=100000, ring=3))
        self.wait_for_steps(process, run, 3)
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        ranks = [
            int(pid) for pid in children.split()
            if pathlib.Path(f"/proc/{pid}/comm").read_text().strip() == "ringwise"
        ]
        self.assertEqual(len(ranks), 3)
        os.kill(ranks[1], signal.SIGKILL)
        process.communicate(timeout=10)
        self.assertNotEqual(process.returncode, 0)
        for pid in ranks:
            self.assertFalse(pathlib.Path(f"/proc/{pid}/exe").exists(), "a rank is left behind")

    def test_more_steps_than_at_first(self):
        run = self.train("more", steps=6, warmup=0, learning_rate_floor=1)
        self.assertTrue(records(run)[-1]["final"])
        self.resume(run, "--steps", 9)
        found = records(run)
        self.assertEqual(len(found), 9)
        self.assertEqual([record.get("final", False) for record in found], [False] * 8 + [True])
        whole = self.train("whole", steps=9, warmup=0, learning_rate_floor=1)
        self.assertEqual(losses(run), losses(whole))
        before = (run / "metrics.jsonl").read_bytes()
        self.resume(run)  # nothing left to do is no error, and changes nothing
        self.assertEqual((run / "metrics.jsonl").read_bytes(), before)

    def test_max_seconds_saves_and_says_how_to_go_on(self):
        run = self.train("limited", steps=1000000, max_seconds=1)
        self.assertIn(f"--resume {run}", self.result.stderr)
        self.assertIn("heldout_bits_per_byte", records(run)[-1])
        self.assertTrue((run / "checkpoints/latest/state.json").exists())


if __name__ == "__main__":
    support.main()

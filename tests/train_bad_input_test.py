"""`ringwise train` with bad input: one clear line, and nothing lost."""

import json
import os
import shutil
import subprocess

import support
from train_case import TrainTestCase, error_lines, losses, records, weights, write_text


class BadInput(TrainTestCase):
    def refuse(self, code, *words, **changed):
        run = self.train("refused", check=False, **changed)
        self.assert_error(code, *words)
        self.assertFalse((run / "config.toml").exists())

    def assert_error(self, code, *words):
        self.assertEqual(self.result.returncode, code, self.result.stderr)
        lines = error_lines(self.result)
        self.assertEqual(len(lines), 1, self.result.stderr)
        for word in words:
            self.assertIn(str(word), lines[0])

    def run_train(self, *arguments, **options):
        self.result = support.ringwise("train", *arguments, **options)

    def test_flags(self):
        self.refuse(2, "--heads", "--kv-heads", heads=5)
        self.refuse(2, "--head-dim", head_dim=7)
        self.refuse(2, "--batch", batch=0)
        self.refuse(2, "layout", "zigzga", layout="zigzga")
        self.refuse(2, "--recompute", recompute="all")
        self.refuse(2, "attention", "memory_efficient", "flash", attention="flash")
        self.refuse(2, "vanilla", "ring of 2", attention="vanilla", ring=2)
        self.refuse(2, "--context-schedule", context_schedule="64-5")
        self.refuse(2, "--max-seconds", context_schedule="64:50%,128:50%", steps=None)
        self.refuse(2, "--vocab", vocab=100)
        self.refuse(2, "--window", "0 or more, found -1", window=-1)
        self.refuse(2, "--window", "whole number", window=1.5)
        for dropout in [1, -0.1, "nan"]:
            self.refuse(2, "--dropout", "[0, 1)", dropout=dropout)
        for value in ["maybe", 3, -1]:
            self.run_train("--data", self.text, "--out", self.folder / "out",
                           f"--document-mask={value}")
            self.assert_error(2, f"--document-mask: must be true or false, found {value}")
        self.refuse(2, "--steps", "whole number", "many", steps="many")
        self.run_train("--steps", 5, "--data", self.text, "--steps=6")
        self.assert_error(2, "--steps is given twice")
        self.run_train("--data", "-- x", "--out", self.folder / "out")  # a value, not a flag
        self.assert_error(1, "-- x: cannot read")
        self.run_train("--data", "[x]", "--out", self.folder / "out")  # a path, not a list
        self.assert_error(1, "[x]: cannot read")
        self.run_train("--init", self.text, "--hidden", 64)
        self.assert_error(2, "--hidden contradicts --init")
        self.refuse(2, "--learning-rate", "did you mean", learning_rat=1)
        self.run_train("--data", self.text)
        self.assert_error(2, "--out")
        self.run_train("--out", self.folder / "out")
        self.assert_error(2, "--data")
        self.result = support.ringwise("trian")
        self.assert_error(2, "train")

    def test_configuration_files(self):
        config = self.folder / "run.toml"
        config.write_text("# comment\nsteps = 2\nlayers = 1\nhidden = 32  # small\n"
                          "context-schedule = \"32x2:3,64:1\"\n")
        run = self.train("configured", "--config", config, steps=None, layers=None, hidden=16,
                         context=None)
        self.assertEqual([r["context"] for r in records(run)], [32, 32])
        saved = json.loads((run / "checkpoints/latest/config.json").read_text())
        self.assertEqual((saved["num_hidden_layers"], saved["hidden_size"]), (1, 16))  # flags win
        for text, word in [("stesp = 2\n", "steps"), ("steps 2\n", "key = value"),
                           ("steps = \"2\n", "closed"), ("steps = two\n", "quotes"),
                           ("steps = 1\nsteps = 2\n", "twice"), ("[train]\nsteps = 2\n", "table"),
                           ("document-mask = 3\n", "true or false")]:
            config.write_text(text)
            self.refuse(2, "run.toml:", word, config=config)
        self.refuse(1, "missing.toml", config=self.folder / "missing.toml")

    def test_data(self):
        self.refuse(1, self.folder / "none", data=self.folder / "none")
        empty = self.folder / "empty"
        empty.mkdir()
        self.text = empty
        self.refuse(1, empty)
        (empty / "binary").write_bytes(b"\0" * 100)
        self.refuse(1, empty)
        (empty / "short.txt").write_bytes(b"x" * 202)  # 203 with its separator: one is missing
        self.refuse(2, "203", "204")

    def test_the_mesh_must_match_the_job(self):
        for changed in [{"ring": 3}, {"ring": 1, "data_parallel": 1}, {"data_parallel": 4}]:
            self.refuse(2, "2 ranks", ranks=2, **changed)

    def test_an_existing_run_is_not_overwritten(self):
        run = self.train("run", steps=2)
        before = weights(run)
        self.train("run", steps=2, check=False)
        self.assert_error(2, f"--resume {run}")
        self.assertEqual(weights(run), before)
        full = self.folder / "full"
        full.mkdir()
        (full / "precious").write_text("x")
        self.train("full", steps=2, check=False)
        self.assert_error(2, "not an empty folder")

    def test_checkpoints(self):
        whole = self.train("whole", steps=4)

        def spoil(name, file, change, code, *words):
            run = self.folder / name
            shutil.copytree(whole, run, symlinks=True)
            path = run / "checkpoints/step-4" / file
            change(path)
            self.resume(run, "--steps", 6, check=False)
            self.assert_error(code, *words)
            self.assertEqual(len(records(run)), 4)  # nothing is lost

        def truncate(path):
            os.truncate(path, path.stat().st_size * 2 // 3)

        def flip(path):
            content = bytearray(path.read_bytes())
            content[-100] ^= 1
            path.write_bytes(content)

        spoil("truncated", "model.safetensors", truncate, 1, "model.safetensors")
        spoil("truncated-moments", "optimizer.safetensors", truncate, 1, "optimizer.safetensors")
        spoil("corrupt", "model.safetensors", flip, 1, "corrupt")
        spoil("corrupt-moments", "optimizer.safetensors", flip, 1, "corrupt")
        spoil("state", "state.json", truncate, 1, "state.json")
        spoil("foreign", "state.json", os.remove, 1, "--init")
        spoil("no-weights", "model.safetensors", os.remove, 1, "step-4")
        self.resume(whole, "--hidden", 32, "--steps", 6, check=False)
        self.assert_error(1, "hidden")
        self.resume(whole, "--seed", 5, "--steps", 6, check=False)
        self.assert_error(2, "--seed")
        self.resume(whole, "--rope-theta", 500, "--steps", 6, check=False)
        self.assert_error(2, "--rope-theta")
        for extra in ["--out", "--init"]:
            self.resume(whole, extra, self.folder / "other", check=False)
            self.assert_error(2, extra, "--resume")
        self.resume(whole / "checkpoints/latest", check=False)
        self.assert_error(2, "is a checkpoint", f"{whole.name}")
        self.run_train("--data", self.text, "--out", self.folder / "out", "--init", whole)
        self.assert_error(2, whole / "checkpoints/latest")
        self.resume(self.folder / "nowhere", check=False)
        self.assert_error(1, "nowhere")
        write_text(self.text / "more", documents=3)
        self.resume(whole, "--steps", 6, check=False)
        self.assert_error(2, "the data changed")

    def test_init(self):
        for code, word, init in [(1, "config.json", self.text),
                                 (1, self.folder / "none", self.folder / "none")]:
            self.run_train("--data", self.text, "--out", self.folder / "out", "--init", init)
            self.assert_error(code, word)

    def test_a_loss_that_is_not_finite(self):
        for ranks in [None, 2]:
            run = self.train(f"huge-{ranks}", learning_rate=1e30, warmup=0, save_every=1, keep=9,
                             check=False, ranks=ranks)
            self.assert_error(1, "not finite", "step ", run / "checkpoints/step-")
            step = int(error_lines(self.result)[0].split("step ")[1].split(":")[0])
            self.assertEqual(len(records(run)), step - 1)
            self.assertEqual(os.readlink(run / "checkpoints/latest"), f"step-{step - 1}")

    def test_a_last_step_that_diverges_is_not_saved(self):
        run = self.train("run", learning_rate=1e-3, warmup=0, steps=1, keep=1)
        for tokens, word in [(0, "weights"), (400, "held-out loss")]:
            self.resume(run, "--steps", 2, "--learning-rate", 1e39, "--eval-tokens", tokens,
                        check=False)
            self.assert_error(1, "step 2", word, "not finite", run / "checkpoints/step-1")
            self.assertEqual(sorted(os.listdir(run / "checkpoints")), ["latest", "step-1"])

    def test_a_full_disk(self):
        disk = self.folder / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk],
                                 capture_output=True)
        if mounted.returncode != 0:
            self.skipTest("mounting a tmpfs is not permitted here")
        self.addCleanup(subprocess.run, ["umount", disk], check=True)
        run = self.train("disk/run", steps=30, save_every=5, keep=20, check=False)
        self.assert_error(1, "cannot save the checkpoint", "No space left")
        folders = sorted(os.listdir(run / "checkpoints"))
        latest = os.readlink(run / "checkpoints/latest")
        self.assertIn(latest, folders)
        self.assertFalse([name for name in folders if name.startswith(".")])
        saved = len(folders) - 1
        self.assertEqual(latest, f"step-{5 * saved}")
        # With room again, it goes on from there.
        elsewhere = self.folder / "elsewhere"
        shutil.copytree(run, elsewhere, symlinks=True)
        self.resume(elsewhere)
        self.assertEqual(losses(elsewhere), losses(self.train("whole", steps=30)))


if __name__ == "__main__":
    support.main()

"""`ringwise train` from the outside: the same losses however the work is cut, exact resuming, what a
crash, a full disk or a signal leaves behind, and one clear line for bad input."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import support

SEED = 20261122
STEPS = 20
LAYOUTS = ["contiguous", "striped", "zigzag"]

# Small, and nothing divides: context by ring, heads by ranks, feed-forward by anything.
FLAGS = {
    "hidden": 48,
    "layers": 2,
    "heads": 6,
    "kv-heads": 2,
    "head-dim": 8,
    "ffn": 100,
    "context": 203,
    "batch": 2,
    "dtype": "f32",
    "learning-rate": 1e-3,
    "warmup": 20,
    "threads": 1,
    "eval-tokens": 400,
}


def flags(**changed):
    """FLAGS with changes; None drops one, underscores are dashes."""
    merged = {**FLAGS, **{name.replace("_", "-"): value for name, value in changed.items()}}
    return [f"--{name}={value}" for name, value in merged.items() if value is not None]


def write_text(folder, documents=12, words=700):
    """Documents of a small made-up language, so that there is something to learn."""
    generator = random.Random(SEED)
    vocabulary = [
        "".join(generator.choice("etaoinshrdlu") for _ in range(generator.randint(2, 7)))
        for _ in range(60)
    ]
    folder.mkdir(parents=True)
    for index in range(documents):
        text = " ".join(generator.choice(vocabulary) for _ in range(words))
        (folder / f"{index:02}.txt").write_text(text + "\n")


def records(run):
    text = (pathlib.Path(run) / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def losses(run):
    found = records(run)
    assert [record["step"] for record in found] == list(range(1, len(found) + 1)), found
    return [record["loss"] for record in found]


def weights(run):
    return (pathlib.Path(run) / "checkpoints/latest/model.safetensors").read_bytes()


def error_lines(result):
    return [line for line in result.stderr.splitlines() if line.startswith("ringwise:")]


class TrainTestCase(support.TestCase):
    def setUp(self):
        super().setUp()
        self.text = self.folder / "text"
        write_text(self.text)

    def train(self, name, *extra, ranks=None, check=True, **changed):
        """Trains into self.folder / name and returns it."""
        run = self.folder / name
        self.result = support.ringwise(
            "train", "--data", self.text, "--out", run, *flags(**{"steps": STEPS, **changed}),
            *extra, ranks=ranks, check=check,
        )
        return run

    def resume(self, run, *extra, ranks=None, check=True):
        self.result = support.ringwise("train", "--resume", run, *extra, ranks=ranks, check=check)

    def assert_losses(self, actual, expected, bound=1e-5, message=""):
        self.assertEqual(len(actual), len(expected), message)
        for step, (a, b) in enumerate(zip(actual, expected), 1):
            self.assertLessEqual(abs(a - b), bound * abs(b), f"{message} step {step}: {a} {b}")


class SameLosses(TrainTestCase):
    def test_any_ring_layout_threads_and_mpi(self):
        one = losses(self.train("one", ring=1))
        self.assertLess(one[-1], one[0] - 0.5)
        for layout in LAYOUTS:
            for ring in [1, 2, 3, 4]:
                for ranks in [None, ring]:
                    if ring == 1 and (layout != "zigzag" or ranks):
                        continue
                    name = f"{layout}-{ring}-{ranks}"
                    run = self.train(name, ring=ring, layout=layout, ranks=ranks)
                    self.assert_losses(losses(run), one, message=name)

    def test_any_threads_and_recomputation(self):
        one = losses(self.train("one", ring=1))
        for recompute in ["none", "attention", "block"]:
            run = self.train(recompute, ring=2, threads=2, recompute=recompute)
            self.assert_losses(losses(run), one, message=recompute)

    def test_any_attention_design(self):
        one = losses(self.train("one", ring=1))
        for design in ["vanilla", "memory_efficient", "blockwise"]:
            run = self.train(design, ring=1, attention=design)
            self.assert_losses(losses(run), one, message=design)

    def test_data_parallel_and_accumulation_are_larger_batches(self):
        large = losses(self.train("large", batch=4, steps=8))
        for name, changed in {
            "data-parallel": {"data_parallel": 2, "batch": 2, "ring": 2},
            "accumulate": {"accumulate": 4, "batch": 1},
            "both": {"accumulate": 2, "data_parallel": 2, "batch": 1},
        }.items():
            self.assert_losses(losses(self.train(name, steps=8, **changed)), large, message=name)
        run = self.train("mpi", steps=8, data_parallel=2, batch=2, ranks=4)  # the ring follows
        self.assert_losses(losses(run), large, message="mpi")

    def test_the_same_command_twice_gives_the_same_bits(self):
        for ranks in [None, 2]:
            for dtype in ["f32", "bf16"]:
                first, second = (
                    self.train(f"{ranks}-{dtype}-{again}", ring=2, threads=2, layout="striped",
                               dtype=dtype, ranks=ranks)
                    for again in "ab"
                )
                self.assertEqual(losses(first), losses(second))
                self.assertEqual(weights(first), weights(second))


class Masked(TrainTestCase):
    """A window, documents that do not see each other, and dropout, on documents shorter and longer
    than either. The runs start from weights so large that attention matters from the first step."""

    SHAPES = ["hidden", "layers", "heads", "kv-heads", "head-dim", "ffn", "window"]
    MASKED = {"document-mask": "true", "dropout": 0.2, **{name: None for name in SHAPES}}

    def setUp(self):
        import torch
        import transformers

        super().setUp()
        torch.manual_seed(SEED)
        self.start = self.folder / "start"
        config = transformers.MistralConfig(
            vocab_size=257, hidden_size=48, intermediate_size=100, num_hidden_layers=2,
            num_attention_heads=6, num_key_value_heads=2, head_dim=8, sliding_window=31,
            max_position_embeddings=203, initializer_range=0.15, bos_token_id=256,
            eos_token_id=256)
        transformers.MistralForCausalLM(config).save_pretrained(self.start)
        shutil.rmtree(self.text)
        self.text.mkdir()
        generator = random.Random(SEED)
        for index in range(150):
            text = "".join(generator.choices("abc de", k=generator.choice([1, 5, 40, 90, 300])))
            (self.text / f"{index:03}.txt").write_text(text)

    def masked(self, name, *extra, **changed):
        return self.train(name, "--init", self.start, *extra, **{**self.MASKED, **changed})

    def test_the_same_losses_on_any_mesh(self):
        one = losses(self.masked("one"))
        for name, ranks, changed in [
            ("contiguous", None, {"ring": 3, "layout": "contiguous", "threads": 2}),
            ("striped", None, {"ring": 2, "layout": "striped", "recompute": "none"}),
            ("zigzag", None, {"ring": 4, "recompute": "block"}),
            ("mpi", 3, {"layout": "striped"}),
            ("data-parallel", None, {"data-parallel": 2, "batch": 1}),
            ("data-parallel-mpi", 4, {"data-parallel": 2, "batch": 1, "ring": 2}),
            ("accumulate", None, {"accumulate": 2, "batch": 1, "ring": 2}),
        ]:
            found = losses(self.masked(name, ranks=ranks, **changed))
            self.assert_losses(found, one, message=name)
        config = json.loads((self.start / "config.json").read_text())
        for name, changed in {"window": {}, "documents": {"document-mask": "false"},
                              "dropout": {"dropout": 0}}.items():
            if name == "window":
                config["sliding_window"] = None
                (self.start / "config.json").write_text(json.dumps(config))
            found = losses(self.masked(f"without-{name}", **changed))
            self.assertGreater(max(abs(a / b - 1) for a, b in zip(found, one)), 1e-3, name)
            config["sliding_window"] = 31
            (self.start / "config.json").write_text(json.dumps(config))

    def test_recomputation_changes_no_bit(self):
        # Short sequences: attention takes all heads at once in every mode.
        found = [losses(self.masked(mode, recompute=mode, ring=2))
                 for mode in ["none", "attention", "block"]]
        self.assertEqual(found[0], found[1])
        self.assertEqual(found[0], found[2])

    def test_attention_work_follows_the_mask(self):
        def work(name, **changed):
            return records(self.train(name, steps=1, ring=2, layout="contiguous", **changed))[0][
                "attention_work"]

        # 203 tokens in two parts: 102 * 103 / 2 pairs, and the rest of 203 * 204 / 2.
        self.assertAlmostEqual(work("causal"), 2 * (1 - 5253 / 20706), places=9)
        # 7 a token, but of the first: 102 * 7 - 21 and 101 * 7.
        self.assertAlmostEqual(work("window", window=7), 2 * 707 / (707 + 693), places=9)
        self.assertNotAlmostEqual(work("documents", **{"document-mask": "true"}),
                                  work("causal-again"), places=3)

    def test_resuming_goes_on_with_the_same_dropout(self):
        changed = {"steps": None, "context": None, "context_schedule": "64x6:6,128:6",
                   "save_every": 4, "keep": 9, "accumulate": 2, "ring": 2}
        whole = self.masked("whole", **changed)
        for name, extra in {"same": [], "other": ["--ring", 3, "--layout", "striped"]}.items():
            part = self.folder / name
            shutil.copytree(whole, part, symlinks=True)
            (part / "checkpoints/latest").unlink()
            (part / "checkpoints/latest").symlink_to("step-4")
            self.resume(part, *extra)
            if name == "same":
                self.assertEqual(losses(part), losses(whole))
                self.assertEqual(weights(part), weights(whole))
            self.assert_losses(losses(part), losses(whole))

    def test_the_window_is_the_models(self):
        first = self.train("first", steps=2, window=20)
        self.start = first / "checkpoints/latest"
        second = self.masked("second", steps=1, learning_rate=0, **{"document-mask": "false"})
        for run in [first, second]:
            config = json.loads((run / "checkpoints/latest/config.json").read_text())
            self.assertEqual(config["sliding_window"], 20)
        self.assertEqual(*(records(run)[-1]["heldout_loss"] for run in [first, second]))
        self.masked("third", steps=1, check=False, window=20)
        self.assertIn("--window contradicts --init", error_lines(self.result)[0])
        self.resume(first, "--window", 30, "--steps", 4, check=False)
        self.assertEqual(self.result.returncode, 1)
        self.assertIn("window is 20 there and 30 here", error_lines(self.result)[0])
        self.resume(first, "--steps", 4)
        self.assertEqual(len(records(first)), 4)

    def test_transformers_computes_the_same(self):
        import torch
        import transformers

        run = self.masked("run", steps=3, ring=2)
        folder = run / "checkpoints/latest"
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.assertEqual(type(model).__name__, "MistralForCausalLM")
        self.assertEqual(model.config.sliding_window, 31)
        self.assertEqual(model.config.attention_dropout, 0.2)

        def nats(tokens):
            with torch.no_grad():
                logits = model(torch.tensor([tokens[:-1]])).logits[0].double()
            return torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[1:]),
                                                     reduction="sum").item()

        separator = 256
        documents = [list(b"a bad cab" * 7), list(b"a dead bee" * 9)]  # in whichever order
        self.text = self.folder / "two"
        self.text.mkdir()
        for index, document in enumerate(documents):
            (self.text / f"{index}.txt").write_bytes(bytes(document))
        alone = sum(nats([*document, separator]) for document in documents)
        first_byte = nats([separator, documents[0][0]])  # the same for both
        tokens = sum(len(document) + 1 for document in documents) - 1
        for extra in [[], ["--ring", 3, "--layout", "striped"]]:
            result = support.ringwise("eval", "--model", folder, "--data", self.text, "--context",
                                      203, "--document-mask", "--dtype", "f32", "--json", *extra,
                                      check=True)
            record = json.loads(result.stdout)
            self.assertEqual(record["tokens"], tokens)
            self.assert_close(record["loss"], (alone + first_byte) / tokens, 1e-4)
        result = support.ringwise("eval", "--model", folder, "--data", self.text, "--context", 203,
                                  "--dtype", "f32", "--json", check=True)
        self.assertGreater(abs(json.loads(result.stdout)["loss"] / record["loss"] - 1), 1e-3)

    def test_the_heldout_loss_hides_documents_and_drops_nothing(self):
        run = self.masked("run", heldout=0.1, eval_tokens=1000)
        found = records(run)[-1]["heldout_loss"]
        for mask, same in [(["--document-mask"], True), ([], False)]:
            result = support.ringwise(
                "eval", "--model", run / "checkpoints/latest", "--data", self.text, "--heldout",
                0.1, "--max-tokens", 1000, "--dtype", "f32", "--json", *mask, check=True)
            self.assertEqual(json.loads(result.stdout)["loss"] == found, same)


class Resume(TrainTestCase):
    STEPS = 30

    def slow(self, name, **changed):
        """Starts a run in the background that takes long enough to be interrupted."""
        run = self.folder / name
        line = support.command(
            "ringwise", "train", "--data", self.text, "--out", run, *flags(**changed),
        )
        process = subprocess.Popen(
            line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env=support.environment(),
        )
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
        run = self.folder / "mpi"
        line = support.command("ringwise", "train", "--data", self.text, "--out", run,
                               *flags(**self.base(steps=5000)), ranks=2)
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   text=True, env=support.environment())
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
        run = self.folder / "killed"
        line = support.command("ringwise", "train", "--data", self.text, "--out", run,
                               *flags(**self.base(steps=100000, ring=3)), ranks=3)
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   text=True, env=support.environment())
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


class Schedule(TrainTestCase):
    def test_the_context_grows_and_the_rotary_base_follows(self):
        schedule = "64x6:4,128:3,300x1:3"
        run = self.train("phases", steps=None, context=None, context_schedule=schedule, ring=2)
        found = records(run)
        self.assertEqual([r["context"] for r in found], [64] * 4 + [128] * 3 + [300] * 3)
        self.assertEqual([r["tokens"] for r in found], [384] * 4 + [384] * 3 + [300] * 3)
        bases = sorted({r["rope_theta"] for r in found})
        head_dim = FLAGS["head-dim"]
        for context, base in zip([64, 128, 300], bases, strict=True):
            expected = 10000 * (context / 64) ** (head_dim / (head_dim - 2))
            self.assertAlmostEqual(base / expected, 1, places=12)
        config = json.loads((run / "checkpoints/latest/config.json").read_text())
        self.assertEqual(config["max_position_embeddings"], 300)
        self.assertAlmostEqual(config["rope_theta"] / bases[-1], 1, places=9)

    def test_resuming_inside_a_phase(self):
        schedule = "64x6:6,128:6"
        changed = {"steps": None, "context": None, "context_schedule": schedule, "save_every": 8}
        whole = self.train("whole", **changed)
        part = self.folder / "part"
        shutil.copytree(whole, part, symlinks=True)
        (part / "checkpoints/latest").unlink()
        (part / "checkpoints/latest").symlink_to("step-8")
        self.resume(part)
        self.assertEqual(losses(part), losses(whole))
        self.assertEqual(weights(part), weights(whole))

    def test_shares_of_the_time_reach_the_longest_context(self):
        run = self.train("timed", steps=None, context=None, context_schedule="64x4:50%,128:30%,"
                         "300:20%", max_seconds=2)
        found = records(run)
        self.assertEqual(sorted({r["context"] for r in found}), [64, 128, 300])
        self.assertTrue(found[-1]["final"])
        self.assertNotIn("stopped_by", found[-1])


class Export(TrainTestCase):
    def test_a_checkpoint_is_a_model_for_transformers(self):
        import torch
        import transformers

        documents = [path.read_bytes()[:305] for path in sorted(self.text.iterdir())[:2]]
        self.text = self.folder / "two"
        self.text.mkdir()
        for index, document in enumerate(documents):
            (self.text / f"{index}.txt").write_bytes(document)
        run = self.train("phases", steps=None, context=None, heldout=0.5, eval_tokens=300,
                         context_schedule="64x6:10,300x1:5", ring=2)
        folder = run / "checkpoints/latest"
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        found = records(run)[-1]["heldout_loss"]
        expected = []
        for document in documents:  # one of the two was held out
            tokens = tokenizer(document.decode(), return_tensors="pt").input_ids
            self.assertEqual(tokens.tolist(), [list(document)])
            with torch.no_grad():
                expected.append(model(tokens[:, :301], labels=tokens[:, :301]).loss.item())
        self.assertGreater(abs(expected[0] - expected[1]), 1e-3)
        self.assertLessEqual(min(abs(found / loss - 1) for loss in expected), 1e-4)

    def test_training_starts_from_a_model_folder(self):
        first = self.train("first", eval_tokens=2000)
        folder = first / "checkpoints/latest"
        shapes = {name: None for name in ["hidden", "layers", "heads", "kv-heads", "head-dim",
                                          "ffn"]}
        second = self.train("second", "--init", folder, steps=1, learning_rate=0,
                            eval_tokens=2000, **shapes)
        before, after = (records(run)[-1]["heldout_loss"] for run in [first, second])
        self.assertEqual(before, after)
        third = self.train("third", "--init", folder, steps=4, save_every=2, **shapes)
        shutil.rmtree(first)  # what it began from is not needed to go on
        expected = losses(third)
        (third / "checkpoints/latest").unlink()
        (third / "checkpoints/latest").symlink_to("step-2")
        self.resume(third)
        self.assertEqual(losses(third), expected)


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

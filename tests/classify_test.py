"""`ringwise train --task`, `eval` and `predict` of classifiers from the outside: what is learnt, the
same however the work is cut, exact resuming, figures that agree, and one clear line for bad input."""

import json
import math
import pathlib
import shutil
import tempfile

import classify_data
import support

SEED = 20261126
STEPS = 20
# Nothing divides: words by ranks, width by threads.
FLAGS = {
    "dtype": "f32",
    "threads": 1,
    "hidden": 24,
    "layers": 2,
    "heads": 3,
    "ffn": 20,
    "batch": 9,
    "learning-rate": 1e-2,
    "warmup": 5,
    "heldout": 0.1,
}
# A unit of the feed-forward that is nearly 0 is rounded to either side of its kink, which changes
# the gradient by up to 3e-4: at this rate the loss by less than 1e-5 all the same.
RATE = 1e-4
DROPOUT = {"dropout": 0.2, "sublayer-dropout": 0.1, "input-dropout": 0.1, "head-dropout": 0.1}
SYNTHETIC = {"context": 32, "features": 16, "hidden": 16, "layers": 1, "heads": 2, "batch": 32,
             "learning-rate": 3e-3}


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run):
    return [record["loss"] for record in records(run)]


def weights(run):
    return (run / "checkpoints/latest/model.safetensors").read_bytes()


class ClassifyTestCase(support.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = tempfile.TemporaryDirectory(prefix="ringwise-test-", ignore_cleanup_errors=True)
        cls.addClassCleanup(folder.cleanup)
        cls.shared = pathlib.Path(folder.name)
        cls.imdb = classify_data.write_imdb(cls.shared / "aclImdb", SEED)
        cls.reuters = classify_data.write_reuters(cls.shared / "reuters21578", SEED)

    def train(self, name, task, *extra, ranks=None, check=True, **changed):
        """Trains into self.folder / name and returns it; underscores are dashes, None drops one."""
        flags = {**FLAGS, "task": task, "steps": STEPS}
        if task != "synthetic":
            flags["data"] = getattr(self, task, self.imdb)
        flags |= {flag.replace("_", "-"): value for flag, value in changed.items()}
        run = self.folder / name
        self.result = support.ringwise(
            "train", "--out", run,
            *(f"--{flag}={value}" for flag, value in flags.items() if value is not None), *extra,
            ranks=ranks, check=check)
        return run

    def eval(self, run, *arguments, **options):
        """eval's record, in f32."""
        result = support.ringwise("eval", "--model", run / "checkpoints/latest", "--dtype", "f32",
                                  "--json", *arguments, check=True, **options)
        self.assertEqual(result.stdout.count("\n"), 1, result.stdout)
        return json.loads(result.stdout)

    def predict(self, run, *arguments, **options):
        """predict's records, in f32."""
        result = support.ringwise("predict", "--model", run / "checkpoints/latest", "--dtype", "f32",
                                  "--json", *arguments, check=True, **options)
        return [json.loads(line) for line in result.stdout.splitlines()]

    def assert_losses(self, actual, expected, message):
        self.assertEqual(len(actual), len(expected), message)
        for step, (a, b) in enumerate(zip(actual, expected), 1):
            self.assertLessEqual(abs(a - b), 1e-5 * abs(b), f"{message} step {step}: {a} {b}")


class Learns(ClassifyTestCase):
    def test_sentiment_and_topics(self):
        for task in ["imdb", "reuters"]:
            for network in ["encoder", "words_seen"]:
                run = self.train(f"{task}-{network}", task, "--test", network=network, steps=60)
                last = records(run)[-1]
                # Of 4 or 5, and about 8, validation documents; chance is 0.5 and 0.42.
                self.assertGreaterEqual(last["validation_accuracy"], 0.75, run)
                self.assertGreaterEqual(last["test_accuracy"], 0.85, run)
                self.assertTrue(last["final"])

    def test_the_sign_of_a_sum(self):
        last = records(self.train("run", "synthetic", "--test", steps=300, **SYNTHETIC))[-1]
        self.assertGreater(last["test_accuracy"], 0.95)
        self.assertEqual(last["test_documents"], 4000)

    def test_synthetic_samples_never_come_twice(self):
        # 2 epochs of 33 samples are 3 steps of 32, the last of them of two; --steps goes on.
        changed = {**SYNTHETIC, "learning_rate": 0, "samples": 33, "epochs": 2}
        epochs = records(self.train("epochs", "synthetic", **{**changed, "steps": None}))
        self.assertEqual([record["documents"] for record in epochs], [32, 32, 2])
        steps = records(self.train("steps", "synthetic", **{**changed, "steps": 6}))
        self.assertEqual([record["documents"] for record in steps], [32] * 6)
        self.assertEqual(len({record["loss"] for record in steps}), 6)

    def test_epochs_are_steps(self):
        # Of 48 reviews an epoch has 5 steps of 9 and one of 3; half an epoch has 3 steps.
        run = self.train("run", "imdb", steps=None, epochs=2.5, heldout=0)
        documents = [record["documents"] for record in records(run)]
        self.assertEqual(documents, 2 * ([9] * 5 + [3]) + [9] * 3)
        # What no machine could do is not counted step by step either.
        self.train("long", "synthetic", **{**SYNTHETIC, "steps": None}, samples=10**9, epochs=10**6,
                   max_seconds=1)

    def test_norms_over_the_document(self):
        one = losses(self.train("one", "synthetic", **SYNTHETIC, norm_over="document"))
        ring = self.train("ring", "synthetic", **SYNTHETIC, norm_over="document", ring=3)
        self.assert_losses(losses(ring), one, "ring 3")
        width = losses(self.train("width", "synthetic", **SYNTHETIC))
        self.assertGreater(abs(one[0] / width[0] - 1), 1e-3)


class SameLosses(ClassifyTestCase):
    def assert_same(self, task, **changed):
        one = losses(self.train("one", task, **changed))
        self.assertEqual(len(one), STEPS)
        self.assertTrue(all(map(math.isfinite, one)))
        for ring, layout, ranks in [
            (2, "contiguous", None), (2, "zigzag", 2), (3, "striped", None), (3, "zigzag", None),
            (3, "contiguous", 3),
        ]:
            name = f"{ring}-{layout}-{ranks}"
            run = self.train(name, task, **{**changed, "ring": ring, "layout": layout}, ranks=ranks)
            self.assert_losses(losses(run), one, name)
        return one

    def test_encoder(self):
        self.assert_same("imdb", learning_rate=RATE)

    def test_encoder_with_dropout_norms_before_and_positions(self):
        changed = {"learning_rate": RATE, "norm_place": "before", "positions": "true", **DROPOUT}
        one = self.assert_same("reuters", **changed)
        for flag in DROPOUT:
            without = losses(self.train(f"no-{flag}", "reuters", **{**changed, flag: 0}))
            self.assertGreater(max(abs(a / b - 1) for a, b in zip(without, one)), 1e-3, flag)

    def test_words_seen(self):
        self.assert_same("reuters", network="words_seen", learning_rate=RATE)

    def test_synthetic(self):
        self.assert_same("synthetic", **{**SYNTHETIC, "learning_rate": RATE, "context": 29})

    def test_threads_accumulation_and_data_parallel(self):
        one = losses(self.train("one", "imdb", batch=8, learning_rate=RATE))
        for name, ranks, changed in [
            ("threads", None, {"batch": 8, "threads": 3}),
            ("accumulate", None, {"batch": 2, "accumulate": 4, "ring": 2}),
            ("data-parallel", None, {"batch": 4, "data_parallel": 2, "ring": 2}),
            ("mpi", 2, {"batch": 4, "data_parallel": 2}),
        ]:
            run = self.train(name, "imdb", ranks=ranks, learning_rate=RATE, **changed)
            self.assert_losses(losses(run), one, name)

    def test_an_archive_is_its_folder(self):
        archive = classify_data.archive(self.imdb, self.folder / "aclImdb_v1.tar.gz", "aclImdb")
        one = losses(self.train("one", "imdb"))
        self.assertEqual(losses(self.train("archive", "imdb", data=archive)), one)

    def test_padding_is_computed(self):
        packed = records(self.train("packed", "reuters"))
        padded = records(self.train("padded", "reuters", "--pad"))
        for a, b in zip(packed, padded):
            self.assertGreater(a["documents_per_second"], 0)
            self.assertGreater(b["documents_per_second"], 0)
            self.assertEqual(a["tokens"], b["tokens"])  # the words alone
        self.assertNotEqual([r["loss"] for r in packed], [r["loss"] for r in padded])
        activations = [run[-1]["peak_bytes"]["activations"] for run in (packed, padded)]
        self.assertGreater(activations[1], 1.2 * activations[0])


class Resume(ClassifyTestCase):
    def test_the_same_bits_as_without_a_stop(self):
        # 43 documents to train on, 9 a step: resumes amid the second epoch's order.
        for task, extra in [("imdb", {}), ("synthetic", SYNTHETIC)]:
            changed = {**extra, **DROPOUT, "ring": 2, "save_every": 7, "keep": 9}
            whole = self.train(f"{task}-whole", task, **changed)
            part = self.folder / f"{task}-part"
            shutil.copytree(whole, part, symlinks=True)
            (part / "checkpoints/latest").unlink()
            (part / "checkpoints/latest").symlink_to("step-7")
            support.ringwise("train", "--resume", part, check=True)
            self.assertEqual(losses(part), losses(whole))
            self.assertEqual(weights(part), weights(whole))

    def test_other_data_are_refused(self):
        run = self.train("run", "imdb", steps=2)
        other = classify_data.write_imdb(self.folder / "other", SEED + 1)
        result = support.ringwise("train", "--resume", run, "--data", other, "--steps", 4)
        self.assert_one_line_error(result, 2, "the data changed")


class EvalAndPredict(ClassifyTestCase):
    def test_eval_agrees_with_training_and_predict_with_eval(self):
        run = self.train("run", "reuters", "--test", steps=12, network="words_seen",
                         learning_rate=4e-3)
        last = records(run)[-1]
        record = self.eval(run, "--data", self.reuters)
        self.assertEqual(record["accuracy"], last["test_accuracy"])
        self.assertEqual(record["loss"], last["test_loss"])
        self.assertEqual(record["documents"], last["test_documents"])
        self.assertLess(record["accuracy"], 1, "too easy to tell anything")
        self.assertEqual(record["classes"], ["gold", "grain", "ship"])
        confusion = record["confusion"]
        said = [sum(row[c] for row in confusion) for c in range(3)]
        for c in range(3):
            self.assertEqual(record["recall"][c], confusion[c][c] / sum(confusion[c]))
            self.assertEqual(record["precision"][c],
                             confusion[c][c] / said[c] if said[c] else None)
        self.assertEqual(sum(confusion[c][c] for c in range(3)) / record["documents"],
                         record["accuracy"])
        self.assertEqual(sum(said), record["documents"])
        train = self.eval(run, "--data", self.reuters, "--split", "train")
        self.assertEqual(train["documents"] + record["documents"], 40 + 25 + 30)

    def test_predict_says_what_eval_counts(self):
        for network in ["encoder", "words_seen"]:
            run = self.train(network, "imdb", network=network, steps=8, learning_rate=4e-3)
            record = self.eval(run, "--data", self.imdb)
            files = sorted(self.imdb.glob("test/*/*.txt"))
            found = self.predict(run, *files)
            self.assertEqual([one["name"] for one in found], [str(file) for file in files])
            confusion = [[0, 0], [0, 0]]
            nats = 0
            for file, one in zip(files, found):
                label = record["classes"].index(file.parent.name)
                confusion[label][record["classes"].index(one["label"])] += 1
                self.assertAlmostEqual(sum(one["probabilities"].values()), 1, places=12)
                self.assertEqual(one["probability"], max(one["probabilities"].values()))
                self.assertEqual(one["probability"], one["probabilities"][one["label"]])
                nats -= math.log(one["probabilities"][file.parent.name])
            self.assertEqual(confusion, record["confusion"])
            self.assertAlmostEqual(nats / len(files), record["loss"], places=5)

    def test_any_ring_and_mpi(self):
        run = self.train("run", "imdb", steps=8, positions="true")
        expected = self.eval(run, "--data", self.imdb)
        texts = "glad bara\ndull kete mora grim\nfine\n"
        said = self.predict(run, "--lines", stdin=texts)
        self.assertEqual([one["name"] for one in said], ["stdin:1", "stdin:2", "stdin:3"])
        for arguments, ranks in [(["--ring", 3, "--layout", "striped"], None),
                                 (["--ring", 2], 2),
                                 (["--data-parallel", 2, "--ring", 2], None)]:
            record = self.eval(run, "--data", self.imdb, *arguments, ranks=ranks)
            self.assertAlmostEqual(record.pop("loss"), expected["loss"], places=5)
            self.assertEqual(record, {k: v for k, v in expected.items() if k != "loss"})
            again = self.predict(run, "--lines", "-", *arguments, stdin=texts, ranks=ranks)
            for a, b in zip(again, said, strict=True):
                self.assertEqual(a["label"], b["label"])
                self.assertAlmostEqual(a["probability"], b["probability"], places=5)

    def test_fresh_synthetic_samples(self):
        run = self.train("run", "synthetic", "--test", steps=60, seed=5, **SYNTHETIC)
        last = records(run)[-1]
        record = self.eval(run, "--seed", 5)
        self.assertEqual(record["accuracy"], last["test_accuracy"])
        self.assertEqual(record["loss"], last["test_loss"])
        fresh = self.eval(run, "--samples", 100, "--seed", 6)
        self.assertEqual(fresh["documents"], 100)
        self.assertNotEqual(fresh["loss"], self.eval(run, "--samples", 100, "--seed", 5)["loss"])

    def test_for_people(self):
        run = self.train("run", "reuters", steps=8) / "checkpoints/latest"
        result = support.ringwise("eval", "--model", run, "--data", self.reuters, check=True)
        self.assertEqual(result.stdout, "")
        for words in ["accuracy ", "(reuters, test)", "precision", "recall", "is \\ said"]:
            self.assertIn(words, result.stderr)
        result = support.ringwise("predict", "--model", run, stdin="Some wheat.", check=True)
        self.assertRegex(result.stdout,
                         r"^stdin: \w+ [01]\.\d{4}, \w+ 0\.\d{4}, \w+ 0\.\d{4}\n$")


class BadInput(ClassifyTestCase):
    def refused(self, code, *words, task="imdb", extra=(), **changed):
        self.train("never", task, *extra, check=False, **changed)
        self.assert_one_line_error(self.result, code, *words)
        self.assertFalse((self.folder / "never").exists())

    def test_data(self):
        self.refused(1, "No such file", data=self.folder / "missing")
        half = self.folder / "half"
        shutil.copytree(self.imdb, half)
        for file in list((half / "train/pos").iterdir())[:5]:
            file.unlink()
        self.refused(1, half, data=half)
        shutil.rmtree(half / "test")
        self.refused(1, half, data=half)
        self.refused(1, "reut2-", task="reuters", data=self.imdb)
        newswires = self.folder / "newswires"
        shutil.copytree(self.reuters, newswires)
        (newswires / "reut2-007.sgm").unlink()
        self.refused(1, "reut2-007.sgm", task="reuters", data=newswires)
        cut = (self.reuters / "reut2-007.sgm").read_text()
        (newswires / "reut2-007.sgm").write_text(cut[:cut.rindex("<REUTERS")])
        self.refused(1, newswires, "numbers go to", task="reuters", data=newswires)
        other = classify_data.archive(self.reuters, self.folder / "other.tar.gz", "reuters21578")
        self.refused(1, other, data=other)
        other.write_bytes(other.read_bytes()[:-100])
        self.refused(1, other, task="reuters", data=other)
        rare = classify_data.write_reuters(self.folder / "rare", SEED, {"gold": 14})
        self.refused(1, "15", task="reuters", data=rare)

    def test_flags(self):
        self.refused(2, "--task", "reuters or synthetic", task="imbd")
        self.refused(2, "--norm-over document", norm_over="document")
        self.refused(2, "leave --data out", task="synthetic", data=self.imdb)
        self.refused(2, "--network words_seen", task="synthetic", network="words_seen")
        self.refused(2, "--data is needed", data=None)
        self.refused(2, "--epochs", epochs=0)
        self.refused(2, "--epochs", task="synthetic", epochs="1e300")
        self.refused(2, "heads", heads=5)
        self.refused(2, "window", window=5)
        self.refused(2, "--task", task="language", positions="true")
        self.refused(2, "--task", task="language", pad="true")
        self.refused(2, "--batch", "1048576", batch=2**63 - 1, accumulate=2)
        self.refused(2, "--batch", str(10**20), batch=10**20)
        self.refused(2, "--accumulate", accumulate=10**11)
        self.refused(2, "--context", task="synthetic", context=2**62)

    def test_flags_without_effect(self):
        words = {"network": "words_seen"}
        self.refused(2, "--positions is of --network encoder", **words, positions="true")
        self.refused(2, "--input-dropout is of --network encoder", **words, input_dropout=0.5)
        self.refused(2, "--pad is of --network encoder", **words, pad="true")
        self.refused(2, "--samples is of --task synthetic", samples=10)
        self.refused(2, "--features is of --task synthetic", features=10)
        self.refused(2, "--eval-tokens is of --task language", eval_tokens=10)
        self.refused(2, "--keep-last-words needs --max-words", keep_last_words="true")
        self.refused(2, "--max-words is of --task imdb and reuters", task="synthetic", max_words=9)
        self.refused(2, "--vocab is of --task imdb and reuters", task="synthetic", vocab=9)

    def test_eval_and_predict(self):
        run = self.train("run", "imdb", steps=1) / "checkpoints/latest"
        model = self.folder / "language"
        support.ringwise("train", "--data", self.imdb / "train/pos", "--out", model, "--steps", 1,
                         "--hidden", 16, "--layers", 1, "--heads", 1, "--context", 16, check=True)
        language = model / "checkpoints/latest"
        synthetic = self.train("synthetic", "synthetic", steps=1, **SYNTHETIC) / "checkpoints/latest"
        empty = self.folder / "empty.txt"
        empty.write_text(" ...\n")

        def refused(code, *words, arguments, stdin=None):
            self.assert_one_line_error(support.ringwise(*arguments, stdin=stdin), code, *words)

        test = ["--data", self.imdb]
        refused(2, "--context", "classifier",
                arguments=["eval", "--model", run, *test, "--context", 8])
        refused(2, "--heldout", "classifier",
                arguments=["eval", "--model", run, *test, "--heldout", 0.1])
        refused(2, "--split", "language model",
                arguments=["eval", "--model", language, *test, "--split", "test"])
        refused(2, "--samples", "language model",
                arguments=["eval", "--model", language, *test, "--samples", 8])
        refused(2, "--data is needed", arguments=["eval", "--model", run])
        refused(2, "--data is needed", arguments=["eval", "--model", language])
        refused(2, "--data", arguments=["eval", "--model", synthetic, *test])
        refused(2, "--split", arguments=["eval", "--model", run, *test, "--split", "half"])
        refused(2, "--samples", arguments=["eval", "--model", synthetic, "--samples", 0])
        refused(1, "No such file", arguments=["eval", "--model", run, "--data", self.folder / "none"])
        refused(1, "did you mean", "checkpoints/latest",
                arguments=["eval", "--model", self.folder / "run", *test])
        refused(1, "no such model folder", arguments=["predict", "--model", self.folder / "none"])
        refused(1, "not a classifier", arguments=["predict", "--model", language], stdin="a word")
        refused(2, "reads no text", arguments=["predict", "--model", synthetic], stdin="a word")
        refused(1, "missing.txt",
                arguments=["predict", "--model", run, self.folder / "missing.txt"])
        refused(1, self.folder, arguments=["predict", "--model", run, self.folder])
        refused(1, "empty.txt", "no word", arguments=["predict", "--model", run, empty])
        refused(1, "stdin", "no word", arguments=["predict", "--model", run], stdin="")
        refused(1, "stdin", "binary", arguments=["predict", "--model", run], stdin="a word\0")
        refused(1, "stdin:2", "no word", arguments=["predict", "--model", run, "--lines"],
                stdin="glad\n\ndull\n")
        refused(1, "classifier", arguments=["generate", "--model", run, "--prompt", "a"])
        result = support.ringwise("predict", "--model", run, empty, ranks=2)
        said = [line for line in result.stderr.splitlines() if line.startswith("ringwise:")]
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertEqual(len(said), 1, result.stderr)
        self.assertIn("no word", said[0])

    def test_corrupt_folders(self):
        run = self.train("run", "reuters", steps=1)
        folder = run / "checkpoints/latest"
        config = json.loads((folder / "config.json").read_text())
        for words, changed in [
            (["embedding.weight"], {"hidden_size": 48}),
            # Weights of terabytes are never made.
            (["embedding.weight"], {"hidden_size": 3 * 2**20, "num_attention_heads": 3 * 2**13}),
            (["layers"], {"num_hidden_layers": 2**40}),
            (["encoder.layers.2."], {"num_hidden_layers": 2**23}),
            (["linear1"], {"intermediate_size": 2**23}),
            (["intermediate_size", "whole"], {"intermediate_size": 1e300}),
            (["intermediate_size", "whole"], {"intermediate_size": True}),
            (["from 1 to"], {"num_attention_heads": 2**63 + 5}),
            (["norm place"], {"norm_place": "between"}),
            (["max_words"], {"max_words": -1}),
            (["names"], {"classes": ["gold", "gold", "ship"]}),
            (["names"], {"classes": ["gold", "\x1b[2J", "ship"]}),
            (["classes"], {"classes": ["gold"]}),
            (["head.weight"], {"classes": ["gold", "grain"]}),
            (["vocabulary.txt"], {"vocab_size": 7}),
            (["hidden_dropout"], {"hidden_dropout": "none"}),
            (["task"], {"task": None}),
        ]:
            bad = {key: value for key, value in {**config, **changed}.items() if value is not None}
            (folder / "config.json").write_text(json.dumps(bad))
            result = support.ringwise("predict", "--model", folder, stdin="some wheat")
            self.assert_one_line_error(result, 1, str(folder), *words)
        other = {**config, "classes": ["gold", "grain", "tin"]}
        (folder / "config.json").write_text(json.dumps(other))
        result = support.ringwise("eval", "--model", folder, "--data", self.reuters)
        self.assert_one_line_error(result, 1, "classes", self.reuters)


if __name__ == "__main__":
    support.main()

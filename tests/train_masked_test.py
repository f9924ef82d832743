"""`ringwise train` with a window, documents that do not see each other, and dropout."""

import json
import random
import shutil

import support
from train_case import SEED, TrainTestCase, error_lines, losses, records, weights


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


if __name__ == "__main__":
    support.main()

"""`ringwise train` from the outside: the same losses however the work is cut, contexts that grow, and
models that others can load."""

import json
import shutil

import support
from train_case import FLAGS, LAYOUTS, TrainTestCase, losses, records, weights


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


if __name__ == "__main__":
    support.main()

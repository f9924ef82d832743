"""`ringwise plan`: its output, its memory against what training holds, and its bad input.

The paper's tables, the law and the simulation are tested in src/planner. No time is judged: that a
measured machine's predictions hold is for benchmarks/plan_prediction.py.
"""

import json
import re

import support

SHAPE = {"hidden": 256, "layers": 8, "heads": 4, "kv_heads": 2, "ffn": 688, "vocab": 257}


def config(shape=None, **changes):
    shape = shape or SHAPE
    return {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": shape["hidden"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv_heads"],
        "intermediate_size": shape["ffn"],
        "vocab_size": shape["vocab"],
        "max_position_embeddings": 8192,
        **changes,
    }


class Plan(support.TestCase):
    def file(self, name, value):
        path = self.folder / name
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
        return path

    def plan(self, *arguments, **options):
        result = support.ringwise("plan", *arguments, "--json", check=True, **options)
        lines = result.stdout.splitlines()
        self.assertEqual(len(lines), 1, result.stdout)
        return json.loads(lines[0])

    def test_table_and_json_say_the_same(self):
        flags = ("--model", "7b", "--hardware", "a100-nvlink", "--devices", "8", "--tokens", "1e12")
        record = self.plan(*flags)
        table = support.ringwise("plan", *flags, check=True).stdout
        row = re.search(r"the paper's counting: F / B, six blocks +([0-9.]+) +([0-9.]+)", table)
        self.assertEqual(row.groups(), ("1.0", "6.2"))
        self.assertAlmostEqual(record["law"]["paper_block"], 312e12 / 300e9)
        self.assertIn(f"{record['memory']['paper']['largest_context']:,}", table)
        self.assertIn(f"context {record['context']:,}:", table)
        self.assertIn(f"take {record['days']:.4g} days", table)
        self.assertIn("limit: compute", table)

    def test_memory_is_what_training_holds(self):
        """Within a tenth by category, and a fifth with what the ring and workspace hold: threads
        keep one shard where processes keep two, and tiles are left out of the plan."""
        text = self.file("text.txt", "".join(f"line {i}\n" for i in range(20000)))
        model = self.file("config.json", config())
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in SHAPE.items()]
        for ring, dtype, recompute in ((1, "f32", "attention"), (2, "bf16", "block"),
                                       (2, "f32", "none")):  # fmt: skip
            with self.subTest(ring=ring, dtype=dtype, recompute=recompute):
                mesh = ("--dtype", dtype, "--recompute", recompute, "--context", 4096)
                out = self.folder / f"run-{ring}-{dtype}"
                support.ringwise(
                    "train", "--data", text, "--out", out, "--steps", 1, "--batch", 1, "--ring",
                    ring, "--threads", 1, "--eval-tokens", 512, *mesh, *flags, check=True,
                )  # fmt: skip
                with (out / "metrics.jsonl").open(encoding="utf-8") as file:
                    held = json.loads(file.readline())["peak_bytes"]
                hardware = self.file("hardware.json", {
                    dtype: {"products": 1e11}, "link": {"bytes_per_second": 1e9},
                    "memory_bytes": 1e10,
                })  # fmt: skip
                planned = self.plan("--model", model, "--hardware", hardware, "--devices", ring,
                                    *mesh)["memory"]["replicated"]  # fmt: skip
                for category in ("parameters", "gradients", "optimizer", "activations"):
                    self.assert_close(planned[category], held[category], 0.1, message=category)
                both = ("activations", "ring_buffers", "workspace")
                self.assert_close(
                    sum(planned[name] for name in both), sum(held[name] for name in both), 0.2
                )

    def test_measures_this_machine(self):
        model = self.file("config.json", config())
        threads = self.plan("--model", model, "--hardware", "this", "--devices", 2, "--threads", 1,
                            "--dtype", "f32", "--context", 4096)  # fmt: skip
        processes = self.plan("--model", model, "--hardware", "this", "--threads", 1, "--dtype",
                              "f32", "--context", 4096, ranks=2)  # fmt: skip
        self.assertEqual(processes["devices"], 2)
        for record in (threads, processes):
            hardware = record["hardware"]
            self.assertGreater(hardware["f32"]["products"], 1e9)
            self.assertGreater(hardware["f32"]["attention_forward"], 1e9)
            self.assertGreater(hardware["link"]["bytes_per_second"], 1e6)
            self.assertGreater(hardware["link"]["delay_seconds"], 0)
            # What was measured may be planned with again, elsewhere.
            again = self.plan("--model", model, "--hardware", self.file("h.json", hardware),
                              "--devices", 2, "--dtype", "f32", "--context", 4096)  # fmt: skip
            self.assertEqual(again["attention_call"], record["attention_call"])

    def test_bad_input_is_one_line(self):
        a100 = ("--hardware", "a100-nvlink", "--devices", "8")
        for arguments, words in (
            (("--model", "7c", *a100), ("7c", "'7b'", "30b")),
            (("--model", "7b", "--hardware", "a100-nvlnk", "--devices", 8),
             ("a100-nvlnk", "'a100-nvlink'", "tpu-v5e", "this")),
            (("--model", "7b", "--hardware", "a100-nvlink"), ("--devices",)),
            (("--model", "65b", *a100), ("sharded", "more devices")),
            (("--model", "7b", *a100, "--parameters", "replicated"), ("shard them",)),
            (("--model", "7b", *a100, "--parameters", "some"), ("replicated", "'some'")),
            (("--model", "7b", *a100, "--ring", 3), ("multiple", "3")),
            (("--model", "7b", *a100, "--context", 3), ("3 tokens",)),
            (("--model", "7b", *a100, "--context", "1e30"), ("whole number",)),
            (("--model", "7b", *a100, "--efficiency", 2), ("efficiency",)),
            (("--model", "7b", *a100, "--slowest", 0), ("slowest",)),
            (("--model", "7b", *a100, "--batch", 0), ("batch",)),
            (("--model", "7b", *a100, "--tokens", "many"), ("number",)),
            (("--model", "7b", *a100, "--layout", "spiral"), ("spiral",)),
            (("--model", "7b", "--hardware", "h100", "--devices", 8192), ("4096",)),
            (("--model", "7b", "--hardware", "h100", "--devices", -1), ("-1",)),
            (("--hardware", "h100", "--devices", 8), ("--model",)),
        ):  # fmt: skip
            with self.subTest(arguments=arguments):
                result = support.ringwise("plan", *arguments)
                self.assert_one_line_error(result, 2, *words)
                self.assertEqual(result.stdout, "")

    def test_bad_files_are_one_line(self):
        good = {"f32": {"products": 1e12}, "link": {"bytes_per_second": 1e9}, "memory_bytes": 1e10}
        model = self.file("config.json", config())
        for name, value, words in (
            ("cut.json", '{"f32"', ("not JSON",)),
            ("no_link.json", {"f32": {"products": 1}, "memory_bytes": 1}, ("link",)),
            ("slow.json", {**good, "link": {"bytes_per_second": -1}}, ("bytes_per_second",)),
            ("typo.json", {**good, "memory": 1}, ("memory_bytes",)),
        ):
            with self.subTest(name=name):
                result = support.ringwise("plan", "--model", model, "--hardware",
                                          self.file(name, value), "--devices", 2)  # fmt: skip
                self.assert_one_line_error(result, 1, name, *words)
        hardware = self.file("good.json", good)
        result = support.ringwise("plan", "--model", model, "--hardware", hardware, "--devices", 2,
                                  "--dtype", "bf16")  # fmt: skip
        self.assert_one_line_error(result, 2, "bf16")
        broken = self.file("model.json", config(num_key_value_heads=3))
        result = support.ringwise("plan", "--model", broken, "--hardware", hardware, "--devices", 2)
        self.assert_one_line_error(result, 1, "model.json", "kv_heads")


if __name__ == "__main__":
    support.main()

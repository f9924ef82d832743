"""The command line of `ringwise bench`: its cases by name, what it prints, what it refuses.

Every case of attention is run cut to a few tokens; the check against its oracle is part of that.
"""

import json

import support

FIELDS = (
    "case seq kv_seq heads kv_heads head_dim dtype causal ring layout threads direction seconds "
    "gflops peak_gflops share_of_peak spread calls"
).split()


def bench(what, *arguments, **options):
    return support.run("ringwise", "bench", what, "--min-seconds", 0, *arguments, **options)


def records(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


class Bench(support.TestCase):
    def test_list_names_the_cases(self):
        for what, name in (
            ("attention", "window-64k-128-bf16"),
            ("ring", "ring-8-causal-zigzag-64k-both-f32"),
            ("train", "512x8-8k-bf16"),
        ):
            names = bench(what, "--list", check=True).stdout.splitlines()
            self.assertIn(name, names)
            self.assertEqual(len(names), len(set(names)))

    def test_an_unknown_case_is_an_error_that_lists_the_known(self):
        for what, known in (
            ("attention", "decode-8x8-64k-64-f32"),
            ("ring", "layout-2-striped-64k-forward-f32"),
            ("train", "tiny-f32"),
        ):
            result = bench(what, "--case", "no-such-case")
            self.assert_one_line_error(result, 2, "no-such-case", known)
            result = bench(what, "--list", "--case", "no-such-case")
            self.assert_one_line_error(result, 2, "--list", "--case")

    def test_a_named_case_has_its_own_shape(self):
        result = bench("attention", "--case", "forward-full-8k-64-f32", "--seq", 100)
        self.assert_one_line_error(result, 2, "--case", "--seq")

    def test_every_attention_case(self):
        names = bench("attention", "--list", check=True).stdout.splitlines()
        result = bench(
            "attention", "--case", "*", "--max-seq", 40, "--threads", 1, "--json", check=True
        )
        found = records(result)
        self.assertEqual([record["case"] for record in found], names)
        for record in found:
            self.assertLessEqual(set(FIELDS), set(record))
            self.assertGreater(record["share_of_peak"], 0)
            self.assertAlmostEqual(
                record["share_of_sustained"] * record["sustained_gflops"],
                record["gflops"] * record["seconds"] / record["mean_seconds"],
                delta=1e-6 * record["gflops"],
            )
            self.assertEqual("speed_ratio" in record, record["case"].startswith("grouped"))

    def test_decoding_is_measured_against_reading(self):
        result = bench(
            "attention", "--case", "decode-1x1-*", "--max-seq", 2000, "--threads", 1, "--json",
            check=True,
        )
        for record in records(result):
            self.assertGreater(record["share_of_limit"], 0)

    def test_ring_cases(self):
        patterns = ("--case", "ring-*-16k-both-f32", "--case", "layout-*-16k-forward-bf16")
        result = bench("ring", *patterns, "--max-seq", 80, "--threads", 1, "--json", check=True)
        found = records(result)
        self.assertEqual(len(found), 3 * 3 + 2)
        for record in found:
            self.assertEqual(record["ring"], int(record["case"].split("-")[1]))
            self.assertEqual(record["threads"], 1)
            self.assertGreater(record["speed_ratio"], 0)
            self.assertGreater(record["bytes_sent"], 0)

    def test_processes_are_compared_with_one_rank_too(self):
        result = bench(
            "ring", "--case", "ring-2-causal-zigzag-16k-*-f32", "--max-seq", 200, "--json",
            ranks=2, check=True,
        )  # fmt: skip
        found = records(result)
        self.assertEqual([record["reference"] for record in found], ["one rank"] * 2)
        unfit = bench("ring", "--case", "ring-4-full-contiguous-16k-forward-f32", ranks=2)
        self.assertEqual(unfit.returncode, 2, unfit.stderr)
        self.assertIn("mpirun -n 4", unfit.stderr)

    def test_a_problem_of_ones_own(self):
        arguments = ("--seq", 150, "--heads", 2, "--window", "40,3", "--documents", "20,90")
        (record,) = records(bench("attention", *arguments, "--json", check=True))
        self.assertEqual((record["case"], record["seq"]), ("custom", 150))
        self.assertEqual((record["window_left"], record["window_right"]), (40, 3))
        self.assertEqual(record["documents"], [20, 90])
        (record,) = records(bench("attention", "--seq", 99, "--window", 7, "--json", check=True))
        self.assertNotIn("window_right", record)
        for wrong in (("--window", "1,2,3"), ("--documents", "5"), ("--documents", "9,5")):
            self.assertEqual(bench("attention", "--seq", 99, *wrong).returncode, 2, wrong)

    def test_an_older_cpu(self):
        if "avx2" not in support.run("ringwise", "info", check=True).stdout:
            self.skipTest("no AVX2")
        for case in ("forward-causal-8k-64-*", "both-causal-8k-64-*"):
            found = records(
                bench("attention", "--case", case, "--max-seq", 99, "--avx2", "--json", check=True)
            )
            self.assertEqual(len(found), 2)
            for record in found:
                self.assertEqual(record["vector_kernels"], "AVX2")
                self.assertFalse(record["native_bf16"])

    def test_training(self):
        result = bench("train", "--case", "tiny-*", "--json", check=True)
        for record in records(result):
            self.assertGreater(record["tokens_per_second"], 0)
            self.assertGreater(record["mfu"], 0)
        (record,) = records(bench("train", "--case", "tiny-f32", "--json", ranks=2, check=True))
        self.assertEqual(record["ring"], 2)

    def test_designs(self):
        result = bench(
            "context", "--budget", 3, "--ranks", "1,2", "--memory-context", 300,
            "--time-context", 200, "--json", check=True,
        )  # fmt: skip
        tables = {}
        for record in records(result):
            tables.setdefault(record["table"], []).append(record)
        self.assertEqual(list(tables), ["balance", "memory", "time", "largest"])
        losses = {record["design"]: record["loss"] for record in tables["time"]}
        self.assertEqual(len(losses), 7)
        self.assertGreater(abs(losses.pop("sparse") / losses["ring"] - 1), 1e-5)
        self.assertLess(max(losses.values()) / min(losses.values()) - 1, 1e-5)
        self.assertEqual(len(tables["largest"]), 3 + 4 * 2)
        for record in tables["largest"]:
            self.assertEqual(record["measured"], record["predicted"])
            self.assertLessEqual(record["measured"], 3 << 20)

    def test_designs_refuse(self):
        for wrong, words in (
            (("--budget", 0.01), ("needs", "--budget")),
            (("--design", "flash"), ("flash", "memory_efficient", "zigzag")),
            (("--table", "speed"), ("speed", "balance")),
            (("--ranks", "1,0"), ("--ranks", "above 0")),
            (("--ranks", "two"), ("--ranks", "whole number")),
        ):
            self.assert_one_line_error(bench("context", *wrong), 2, *words)
        self.assertEqual(bench("context", "--table", "balance", ranks=2).returncode, 2)

    def test_a_table_for_people(self):
        lines = bench("train", "--case", "tiny-*", check=True).stdout.splitlines()
        self.assertEqual(len(lines), 3)
        self.assertIn("tokens/s", lines[0])
        self.assertTrue(lines[1].startswith("tiny-f32"))


if __name__ == "__main__":
    support.main()

"""`--trace FILE`: valid Trace Event JSON with a row a rank and thread whose spans nest, every
transfer at both ends, as threads and under mpirun; the results are those of a run without it."""

import collections
import json
import os
import random
import signal
import subprocess
import time

import numpy
import safetensors.numpy

import support

SEED = 20261123
RING, THREADS = 3, 2
BLOCK_TAG = 0


class Trace:
    """A trace file, checked for its form as it is read."""

    def __init__(self, test, path, ranks, threads):
        self.test = test
        document = json.loads(path.read_text())
        test.assertEqual(set(document), {"displayTimeUnit", "traceEvents", "otherData"})
        test.assertEqual(document["otherData"]["dropped"], 0)
        self.uncertainty = document["otherData"]["clock_uncertainty_us"]
        self.spans = []
        self.names = collections.defaultdict(dict)  # of processes' rows
        for event in document["traceEvents"]:
            self.read(event)
        test.assertEqual(sorted(self.names), list(range(ranks)))
        for rows in self.names.values():
            shown = [rows[row] for row in sorted(rows)]
            test.assertEqual(shown[:threads], [f"thread {t}" for t in range(threads)])
            kinds = {name.split()[0] for name in shown[threads:]}
            test.assertEqual(kinds, {"send", "receive"})
        self.check_nesting()

    def read(self, event):
        test = self.test
        if event["ph"] == "M":
            if event["name"] == "thread_name":
                self.names[event["pid"]][event["tid"]] = event["args"]["name"]
            return
        test.assertEqual(event["ph"], "X")  # begin and end in one: none is left open
        test.assertIn(event["cat"], {"phase", "compute", "send", "receive", "wait"})
        test.assertGreaterEqual(event["ts"], 0)
        test.assertGreaterEqual(event["dur"], 0)
        event["end"] = event["ts"] + event["dur"]
        self.spans.append(event)

    def check_nesting(self):
        rows = collections.defaultdict(list)
        for span in self.spans:
            self.test.assertIn(span["tid"], self.names[span["pid"]])
            rows[span["pid"], span["tid"]].append(span)
        slack = 0.002  # microseconds: begin and length are rounded to a thousandth
        for spans in rows.values():
            spans.sort(key=lambda span: (span["ts"], -span["end"]))
            open_spans = []
            for span in spans:
                while open_spans and open_spans[-1]["end"] <= span["ts"] + slack:
                    open_spans.pop()
                if open_spans:
                    self.test.assertLessEqual(span["end"], open_spans[-1]["end"] + slack, span)
                open_spans.append(span)

    def of(self, rank, category, within=None):
        """The spans of a rank in the order they began; `within` a span: those that began in it."""
        return [
            span
            for span in sorted(self.spans, key=lambda span: span["ts"])
            if span["pid"] == rank and span["cat"] == category
            and (within is None or within["ts"] <= span["ts"] <= within["end"])
        ]

    def named(self, rank, name, within=None):
        phases = self.of(rank, "phase", within) + self.of(rank, "compute", within)
        return [span for span in phases if span["name"] == name and span["tid"] == 0]


class AttentionTrace(support.TestCase):
    def attend(self, name, *arguments, ranks=None, dout=True):
        """Runs `attention` on fixed tensors, nothing of which divides by the ring."""
        print(f"seed {SEED}")
        generator = numpy.random.default_rng(SEED)
        shape = (1, 400, 2, 16)
        tensors = {
            key: generator.standard_normal(shape, dtype=numpy.float32)
            for key in ("q", "k", "v", *(("dout",) if dout else ()))
        }
        inputs = self.folder / f"{name}.safetensors"
        options = self.folder / f"{name}.options.json"
        safetensors.numpy.save_file(tensors, inputs)
        options.write_text(json.dumps({"dump_stats": True}))
        out = self.folder / f"{name}.out.safetensors"
        mesh = () if ranks else ("--ring", RING)
        result = support.ringwise(
            "attention", "--inputs", inputs, "--options", options, "--out", out, *mesh,
            "--threads", THREADS, *arguments, ranks=ranks, check=True,
        )
        return out.read_bytes(), json.loads(result.stdout)

    def traced(self, name, **how):
        path = self.folder / f"{name}.json"
        results, stats = self.attend(name, "--trace", path, **how)
        self.assertEqual(results, self.attend(f"{name}-untraced", **how)[0])
        return Trace(self, path, RING, THREADS), stats

    def check_forward(self, trace):
        for rank in range(RING):
            (call,) = trace.named(rank, "attention forward")
            for step in range(RING):
                (turn,) = trace.named(rank, f"ring step {step}", call)
                block = (rank - step) % RING
                (compute,) = trace.named(rank, f"forward block {block}", turn)
                self.assertLessEqual(compute["end"], turn["end"])
                # A block is handed on, and the next one taken, while this one is computed with.
                moves = int(step + 1 < RING)
                sends = trace.of(rank, "send", turn)
                receives = trace.of(rank, "receive", turn)
                self.assertEqual((len(sends), len(receives)), (moves, moves))
                for transfer, key, peer in [
                    *((send, "to", (rank + 1) % RING) for send in sends),
                    *((receive, "from", (rank - 1) % RING) for receive in receives),
                ]:
                    self.assertEqual(transfer["args"][key], peer)
                    self.assertEqual(transfer["args"]["tag"], BLOCK_TAG)
                    self.assertLessEqual(transfer["ts"], compute["ts"])
                    self.assertLessEqual(transfer["end"], turn["end"])
            self.assertTrue(
                any(s["tid"] == 1 and s["name"].startswith("forward block")
                    for s in trace.of(rank, "compute", call)),
            )

    def check_transfers(self, trace, stats):
        """Every message has two ends that agree, and the bytes are those that were counted."""
        ends = {"send": collections.defaultdict(list), "receive": collections.defaultdict(list)}
        sent = [0] * RING
        for rank in range(RING):
            for span in trace.of(rank, "send"):
                ends["send"][rank, span["args"]["to"], span["args"]["tag"]].append(span)
                sent[rank] += span["args"]["bytes"]
            for span in trace.of(rank, "receive"):
                ends["receive"][span["args"]["from"], rank, span["args"]["tag"]].append(span)
        self.assertEqual(sent, stats["bytes_sent"])
        self.assertEqual(set(ends["send"]), set(ends["receive"]))
        for way, sends in ends["send"].items():
            receives = ends["receive"][way]
            self.assertEqual(len(sends), len(receives))
            for send, receive in zip(sends, receives):
                self.assertEqual(send["args"]["bytes"], receive["args"]["bytes"])
                self.assertLessEqual(send["ts"], receive["end"] + trace.uncertainty + 0.002)

    def test_forward_as_threads(self):
        trace, stats = self.traced("forward", dout=False)
        self.check_forward(trace)
        self.check_transfers(trace, stats)

    def test_forward_and_backward_as_threads(self):
        trace, stats = self.traced("both")
        self.check_transfers(trace, stats)
        for rank in range(RING):
            (call,) = trace.named(rank, "attention backward")
            for origin in range(RING):  # whose blocks may be several
                self.assertTrue(trace.named(rank, f"backward block {origin}", call))

    def test_under_mpirun(self):
        trace, stats = self.traced("mpi", ranks=RING, dout=False)
        self.check_forward(trace)
        self.check_transfers(trace, stats)

    def test_what_cannot_be_written_is_told_before_anything_is_read(self):
        arguments = ["attention", "--inputs", self.folder / "missing.safetensors", "--ring", 2]
        nowhere = self.folder / "nowhere/file"
        for ranks in [None, 2]:
            for flags in [("--trace", nowhere, "--out", self.folder / "out"), ("--out", nowhere)]:
                result = support.ringwise(*arguments, *flags, ranks=ranks)
                self.assertEqual(result.returncode, 1)
                lines = [x for x in result.stderr.splitlines() if x.startswith("ringwise: ")]
                self.assertEqual(len(lines), 1, result.stderr)
                self.assertIn(f"{nowhere}: cannot write", lines[0])
        self.assertEqual(list(self.folder.iterdir()), [])


class OtherTraces(support.TestCase):
    def text(self):
        generator = random.Random(SEED)
        words = [generator.choice(["sing", "a", "song", "of", "rings"]) for _ in range(4000)]
        folder = self.folder / "text"
        folder.mkdir()
        for index in range(8):
            part = words[index * 500 : (index + 1) * 500]
            (folder / f"{index}.txt").write_text(" ".join(part))
        return folder

    def test_training_that_is_asked_to_stop(self):
        run, path = self.folder / "run", self.folder / "trace.json"
        line = support.command(
            "ringwise", "train", "--data", self.text(), "--out", run, "--steps", 100000,
            "--context", 128, "--batch", 1, "--hidden", 32, "--layers", 2, "--heads", 2,
            "--ring", 2, "--threads", 1, "--trace", path,
        )
        process = subprocess.Popen(
            line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env=support.environment(),
        )
        metrics = run / "metrics.jsonl"
        while process.poll() is None:
            if metrics.exists() and metrics.read_bytes().count(b"\n") >= 2:
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.001)
        stderr = process.communicate(timeout=60)[1]
        self.assertEqual(process.returncode, 143, stderr)

        trace = Trace(self, path, ranks=2, threads=1)
        steps = len(metrics.read_text().splitlines())
        for rank in range(2):
            for number in range(1, steps + 1):
                (step,) = trace.named(rank, f"training step {number}")
                for layer in range(2):
                    for direction in ["forward", "backward"]:
                        (span,) = trace.named(rank, f"layer {direction} index {layer}", step)
                        self.assertTrue(trace.named(rank, f"attention {direction}", span))
                self.assertEqual(len(trace.named(rank, "optimizer", step)), 1)
            self.assertEqual(len(trace.named(rank, "save")), 1)

    def test_a_benchmark(self):
        path = self.folder / "trace.json"
        support.ringwise(
            "bench", "attention", "--seq", 256, "--heads", 1, "--ring", 2, "--threads", 1,
            "--min-seconds", 0, "--trace", path, check=True,
        )
        trace = Trace(self, path, ranks=2, threads=1)
        for rank in range(2):
            self.assertGreaterEqual(len(trace.named(rank, "attention backward")), 3)

    def test_named_cases_of_rings_and_of_training(self):
        for what, case, ranks, span in (
            ("ring", "ring-2-causal-zigzag-16k-both-f32", 2, "attention backward"),
            ("train", "tiny-f32", 1, "optimizer"),
        ):
            path = self.folder / f"{what}.json"
            shorter = ["--max-seq", 256] if what == "ring" else []
            support.ringwise(
                "bench", what, "--case", case, *shorter, "--threads", 1,
                "--min-seconds", 0, "--trace", path, check=True,
            )
            trace = Trace(self, path, ranks=ranks, threads=1)
            for rank in range(ranks):
                self.assertGreaterEqual(len(trace.named(rank, span)), 3, what)

    def test_a_benchmark_of_several_cases_has_no_trace(self):
        result = support.ringwise("bench", "train", "--trace", self.folder / "trace.json")
        self.assert_one_line_error(result, 2, "--trace shows one case")

    def test_a_run_folder_is_not_made_for_a_trace_that_cannot_be_written(self):
        run = self.folder / "run"
        result = support.ringwise(
            "train", "--data", self.text(), "--out", run, "--steps", 1, "--context", 64,
            "--trace", os.devnull + "/trace.json",
        )
        self.assert_one_line_error(result, 1, "/dev/null/trace.json: cannot write")
        self.assertFalse(run.exists())


if __name__ == "__main__":
    support.main()

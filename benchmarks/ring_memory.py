#!/usr/bin/env python3
"""Memory of the largest rank as the ring grows, from the meter, against the bounds we promise.

    python3 benchmarks/ring_memory.py [--context 32768]        about half an hour on two cores
    python3 benchmarks/ring_memory.py --context 16384          a quarter of that; at 8192 and less
                                                               tiles a thread weigh too much

Trains one step of hidden 128, 8 layers, 4 heads, 2 kv_heads, feed-forward 352, in f32:
  fixed     the context on rings of 1, 2, 4: the working memory (activations + ring_buffers +
            workspace) of ring 4 is at most 0.33 of ring 1; with `--recompute block` at most
            (layers + 14) x tokens of the rank x hidden x element bytes; no single allocation of
            tokens of the rank x feed-forward elements
  growing   half the context on 2 ranks, the context on 4, twice it on 8: flat within 5 %
Exits with 1 if a bound does not hold.
"""

import argparse
import json
import pathlib
import sys
import tempfile

import training_run

SHAPE = {"hidden": 128, "layers": 8, "heads": 4, "kv-heads": 2, "ffn": 352}
ELEMENT_BYTES = {"f32": 4, "bf16": 2}
WORKING = ("activations", "ring_buffers", "workspace")


class Report:
    def __init__(self, as_json):
        self.as_json = as_json
        self.good = True

    def measured(self, record):
        if self.as_json:
            print(json.dumps(record), flush=True)
            return
        parts = ", ".join(f"{name} {record[name] / 2**20:.2f}" for name in WORKING)
        print(
            f"{record['recompute']:9} ring {record['ring']}  context {record['context']:6}  "
            f"working {record['working'] / 2**20:8.2f} MiB  ({parts}; largest allocation "
            f"{record['largest_allocation'] / 2**20:.2f})",
            flush=True,
        )

    def bound(self, what, value, limit):
        holds = value <= limit
        self.good &= holds
        print(
            f"{'ok  ' if holds else 'FAIL'} {what}: {value:.3f}, at most {limit:.3f}",
            file=sys.stderr if self.as_json else sys.stdout,
            flush=True,
        )


def measure(options, data, folder, recompute, ring, context):
    last = training_run.train(
        options.build, folder / "run", data, "--steps", 1, "--batch", 1, "--context", context,
        "--ring", ring, "--recompute", recompute, "--dtype", options.dtype,
        *(word for name, value in SHAPE.items() for word in (f"--{name}", value)),
    )[-1]["peak_bytes"]  # fmt: skip
    return {
        "recompute": recompute,
        "ring": ring,
        "context": context,
        **{name: last[name] for name in WORKING},
        "working": sum(last[name] for name in WORKING),
        "largest_allocation": last["largest_allocation"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    training_run.parse_build(parser)
    parser.add_argument("--context", type=int, default=32768, metavar="TOKENS")
    parser.add_argument("--dtype", default="f32", choices=sorted(ELEMENT_BYTES))
    parser.add_argument("--only", choices=["fixed", "growing"])
    options = parser.parse_args()
    report = Report(options.json)
    element = ELEMENT_BYTES[options.dtype]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        data = training_run.write_text(folder)
        for recompute in ("attention", "block"):
            found = {}

            def run(ring, context):
                if (ring, context) not in found:
                    record = measure(options, data, folder, recompute, ring, context)
                    report.measured(record)
                    found[ring, context] = record
                return found[ring, context]

            if options.only != "growing":
                fixed = {ring: run(ring, options.context) for ring in (1, 2, 4)}
                report.bound(
                    f"{recompute}: working memory, ring 4 over ring 1",
                    fixed[4]["working"] / fixed[1]["working"],
                    0.33,
                )
                for ring, record in fixed.items():
                    tokens = -(-options.context // ring)
                    if recompute == "block":
                        unit = tokens * SHAPE["hidden"] * element
                        report.bound(
                            f"block, ring {ring}: tokens x hidden elements held",
                            record["working"] / unit,
                            SHAPE["layers"] + 14,
                        )
                    report.bound(
                        f"{recompute}, ring {ring}: largest allocation over tokens x feed-forward",
                        record["largest_allocation"] / (tokens * SHAPE["ffn"] * element),
                        1 - 1e-9,
                    )
            if options.only != "fixed":
                half = options.context // 2
                growing = [run(ring, half * ring // 2)["working"] for ring in (2, 4, 8)]
                report.bound(
                    f"{recompute}: ring and context growing together, most over least",
                    max(growing) / min(growing),
                    1.05,
                )
    sys.exit(0 if report.good else 1)


if __name__ == "__main__":
    main()

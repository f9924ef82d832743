#!/usr/bin/env python3
"""Whether the memory meter tells the truth: what the system says a process grew by, against it.

    python3 benchmarks/resident_memory.py [--context 32768] [--ring 4]

Trains two steps of hidden 128, 8 layers, 4 heads, 2 kv_heads, feed-forward 352, in f32, under mpirun.
Each rank's peak resident size less its size before the first step is within 15 % of the same
difference by the meter; reported is the rank where the two are farthest apart. Exits with 1 if it is
not. A rank's growth must be large beside the few MB that libraries take unmetered: a longer context
makes it so.
"""

import argparse
import json
import pathlib
import sys
import tempfile

import training_run

SHAPE = {"hidden": 128, "layers": 8, "heads": 4, "kv-heads": 2, "ffn": 352}
BOUND = 0.15


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    training_run.parse_build(parser)
    parser.add_argument("--context", type=int, default=32768, metavar="TOKENS")
    parser.add_argument("--ring", type=int, default=4, metavar="RANKS")
    modes = ("none", "attention", "block")
    parser.add_argument("--recompute", nargs="+", default=modes, choices=modes)
    options = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        data = training_run.write_text(folder)
        for recompute in options.recompute:
            final = training_run.train(
                options.build, folder / "run", data, "--steps", 2, "--batch", 1,
                "--context", options.context, "--ring", options.ring, "--threads", 1,
                "--recompute", recompute, "--dtype", "f32", "--warmup", 1,
                *(word for name, value in SHAPE.items() for word in (f"--{name}", value)),
                ranks=options.ring,
            )[-1]  # fmt: skip
            record = {
                "recompute": recompute,
                "ring": options.ring,
                "context": options.context,
                "resident_growth": final["resident_growth"],
                "metered_growth": final["metered_growth"],
                "ratio": final["resident_growth"] / final["metered_growth"],
            }
            record["holds"] = abs(record["ratio"] - 1) <= BOUND
            good &= record["holds"]
            if options.json:
                print(json.dumps(record), flush=True)
                continue
            print(
                f"{'ok  ' if record['holds'] else 'FAIL'} {recompute:9} ring {options.ring}, "
                f"context {options.context}: resident +{record['resident_growth'] / 2**20:.1f} MiB, "
                f"metered +{record['metered_growth'] / 2**20:.1f} MiB, ratio {record['ratio']:.3f}",
                flush=True,
            )
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

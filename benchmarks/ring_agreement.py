#!/usr/bin/env python3
"""Whether training gives the same losses on any ring: sizes, layouts, threads and mpirun.

    python3 benchmarks/ring_agreement.py [--steps 100]

f32, learning rate 1e-3, warm-up 20. Against a ring of one: losses agree to 1e-5 relative for the
first 20 steps and to 5e-4 at step 100; the same command twice gives identical bits. Exits with 1
if not.
"""

import argparse
import json
import pathlib
import sys
import tempfile

import training_run

FLAGS = (
    "--dtype", "f32", "--learning-rate", 1e-3, "--warmup", 20, "--hidden", 64, "--layers", 2,
    "--heads", 4, "--kv-heads", 2, "--ffn", 160, "--batch", 2, "--threads", 1, "--seed", 5,
)  # fmt: skip
EARLY_STEPS, EARLY_BOUND, LATE_BOUND = 20, 1e-5, 5e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    training_run.parse_build(parser)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--context", type=int, default=251, help="tokens; need not divide")
    parser.add_argument("--rings", type=int, nargs="+", default=[1, 2, 3, 4])
    options = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        data = training_run.write_text(folder, size=1 << 20)

        def losses(ring, layout, mpi):
            records = training_run.train(
                options.build, folder / "run", data, *FLAGS, "--steps", options.steps,
                "--context", options.context, "--ring", ring, "--layout", layout,
                ranks=ring if mpi else None,
            )  # fmt: skip
            return [record["loss"] for record in records]

        reference = losses(1, "contiguous", False)
        for mpi in (False, True):
            for ring in options.rings:
                for layout in ("contiguous", "striped", "zigzag"):
                    found = losses(ring, layout, mpi)
                    apart = [abs(a / b - 1) for a, b in zip(found, reference)]
                    record = {
                        "ranks": "mpirun" if mpi else "threads",
                        "ring": ring,
                        "layout": layout,
                        "early": max(apart[:EARLY_STEPS]),
                        "last": apart[-1],
                        "repeats": found == losses(ring, layout, mpi),
                    }
                    record["holds"] = (
                        len(found) == len(reference)
                        and record["early"] <= EARLY_BOUND
                        and record["last"] <= LATE_BOUND
                        and record["repeats"]
                    )
                    good &= record["holds"]
                    if options.json:
                        print(json.dumps(record), flush=True)
                        continue
                    print(
                        f"{'ok  ' if record['holds'] else 'FAIL'} {record['ranks']:7} ring {ring} "
                        f"{layout:10}  first {EARLY_STEPS} steps within {record['early']:.1e}, "
                        f"step {len(found)} within {record['last']:.1e}, twice: "
                        f"{'identical bits' if record['repeats'] else 'NOT the same'}",
                        flush=True,
                    )
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

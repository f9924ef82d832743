#!/usr/bin/env python3
"""Attention here and in its rivals: causal, the same heads and lengths, all cores, in one run.

    python3 benchmarks/compare_attention.py [--only sdpa jax ring_pytorch training]
                                            [--dtype f32 bf16] [--head-dim 128 64] [--rounds 3]

    sdpa          PyTorch's scaled_dot_product_attention; ours on one rank
    jax           JAX ringattention on 4 devices of one process; ours on a ring of 4 threads
    ring_pytorch  ring-attention-pytorch, two processes that meet by gloo; ours two MPI processes
    training      tokens a second against PyTorch + transformers: benchmarks/compare_training.py

The rivals are installed with pip, once, into virtual environments in BUILD/rivals (8 GB, PyTorch
most of it) at the versions of benchmarks/rivals/*.txt. Each first checks its results against
float64, then takes the fastest of its own ways (chunk sizes, memory layouts) for that shape; ours
is checked by `ringwise bench`. Then both sides take turns. A ratio is the rival's median seconds of
a call over ours. A table on stdout, the same as JSON in --json. Exits with 1 where a bound does not
hold or a row could not be measured. The bounds are those of 8192 tokens; other lengths have none.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys

from rival_process import HERE, Rival, Unmeasured, environment, interpreter, run, say

BOUND_SEQ = 8192
DIRECTIONS = ("forward", "forward_backward")

# The rival's program, what it is installed from, its processes, the ranks of both sides, and the
# least ratio by direction and (head_dim, dtype); what has no bound is not measured.
ROWS = {
    "sdpa": {
        "title": "PyTorch scaled_dot_product_attention",
        "program": "torch_sdpa.py",
        "packages": ("torch", ["torch.txt"]),
        "bounds": {
            "forward": {
                (128, "f32"): 2.0, (128, "bf16"): 3.8, (64, "f32"): 1.45, (64, "bf16"): 2.3,
            },
            "forward_backward": {
                (128, "f32"): 1.8, (128, "bf16"): 2.5, (64, "f32"): 1.45, (64, "bf16"): 1.8,
            },
        },
    },
    "jax": {
        "title": "JAX ringattention, 4 devices; ours a ring of 4",
        "program": "jax_ring.py",
        "packages": ("jax", ["jax.txt"]),
        "ranks": 4,
        "bounds": {
            "forward": {
                (128, "f32"): 2.3, (128, "bf16"): 4.3, (64, "f32"): 3.6, (64, "bf16"): 5.2,
            },
            "forward_backward": {
                (128, "f32"): 2.0, (128, "bf16"): 3.3, (64, "f32"): 2.6, (64, "bf16"): 4.4,
            },
        },
    },
    "ring_pytorch": {
        "title": "ring-attention-pytorch, 2 processes; ours 2 MPI processes",
        "program": "ring_pytorch.py",
        "packages": ("torch", ["torch.txt", "ring_attention_pytorch.txt"]),
        "ranks": 2,
        "processes": 2,
        "bounds": {
            "forward": {(128, "f32"): 7, (64, "f32"): 8},
            "forward_backward": {(128, "f32"): 4.5, (64, "f32"): 6},
        },
    },
}  # fmt: skip
TRAINING_PACKAGES = ("torch", ["torch.txt", "transformers.txt"])
TRAINING_TITLE = "training against PyTorch + transformers"
TRAINING_BOUNDS = {"f32": 1.45, "bf16": 1.5}


def our_seconds(row, options, head_dim, dtype, direction):
    """The median of a call of ours: the command checks itself against float64 first."""
    command = [
        options.build / "ringwise", "bench", "attention", "--causal", "--json",
        "--seq", options.seq, "--heads", options.heads, "--head-dim", head_dim, "--dtype", dtype,
        "--direction", direction, "--min-seconds", options.min_seconds,
        "--ring", row.get("ranks", 1),
    ]  # fmt: skip
    processes = row.get("processes", 1)
    threads = max(1, options.threads // row.get("ranks", 1))
    command += ["--threads", threads]
    if processes > 1:
        command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", processes, *command]
    return json.loads(run(command, "ringwise", env=environment(threads)))["seconds"]


def compare(name, python, options, head_dim, dtype):
    """A record for each direction, as they are measured."""
    row = ROWS[name]
    say(f"{row['title']}, head_dim {head_dim}, {dtype}: checking, finding its fastest way")
    with Rival(python, row, options, head_dim, dtype) as rival:
        ready = rival.answers()[0]
        for direction in DIRECTIONS:
            calls = max(1, round(options.min_seconds / ready["seconds"][direction]))
            ours, theirs, ratios = [], [], []
            for index in range(options.rounds):
                sides = [
                    lambda: ours.append(our_seconds(row, options, head_dim, dtype, direction)),
                    lambda: theirs.append(statistics.median(rival.seconds(direction, calls))),
                ]
                for side in sides if index % 2 == 0 else sides[::-1]:
                    side()
                ratios.append(theirs[-1] / ours[-1])
            ours, theirs = statistics.median(ours), statistics.median(theirs)
            record = {
                **record_of(name, options, head_dim, dtype, direction),
                "versions": ready["versions"],
                "rival_way": ready["ways"][direction],
                "seconds": ours,
                "rival_seconds": theirs,
                "ratio": theirs / ours,
                "ratios_of_rounds": ratios,
            }
            say(f"  {direction}: {record['ratio']:.2f}")
            yield record


def record_of(name, options, head_dim, dtype, direction):
    bound = ROWS[name]["bounds"][direction][head_dim, dtype]
    return {
        "row": name,
        "direction": direction,
        "head_dim": head_dim,
        "dtype": dtype,
        "seq": options.seq,
        "heads": options.heads,
        "threads": options.threads,
        "bound": bound if options.seq == BOUND_SEQ else None,
    }


def compare_attention(name, options, tried):
    records = []
    for head_dim in options.head_dim:
        for dtype in options.dtype:
            if (head_dim, dtype) not in ROWS[name]["bounds"]["forward"]:
                continue
            measured = []
            try:
                python = interpreter(options.build, ROWS[name]["packages"], tried)
                measured.extend(compare(name, python, options, head_dim, dtype))
            except Unmeasured as error:
                measured += [
                    {**record_of(name, options, head_dim, dtype, direction), "error": str(error)}
                    for direction in DIRECTIONS
                    if direction not in [record["direction"] for record in measured]
                ]
                say(f"  not measured: {error}")
            records += measured
    return records


def compare_training(options, tried):
    records = []
    for dtype in options.dtype:
        bound = TRAINING_BOUNDS[dtype] if options.seq == BOUND_SEQ else None
        record = {"row": "training", "direction": "step", "head_dim": 64, "dtype": dtype,
                  "seq": options.seq, "heads": 8, "threads": options.threads,
                  "bound": bound}  # fmt: skip
        try:
            python = interpreter(options.build, TRAINING_PACKAGES, tried)
            say(f"training, {dtype}")
            command = [
                python, HERE / "compare_training.py", "--build", options.build, "--json",
                "--dtype", dtype, "--context", options.seq, "--rounds", options.rounds,
                "--threads", options.threads,
            ]  # fmt: skip
            output = run(command, "compare_training.py", env=environment(options.threads))
            found = json.loads(output)
            record.update(
                versions={name: found[name] for name in ("torch", "transformers")},
                rival_way=found["torch_way"],
                seconds=options.seq / found["tokens_per_second"],
                rival_seconds=options.seq / found["torch_tokens_per_second"],
                ratio=found["ratio"],
                ratios_of_rounds=found["ratios_of_rounds"],
            )
            say(f"  step: {record['ratio']:.2f}")
        except Unmeasured as error:
            record["error"] = str(error)
            say(f"  not measured: {error}")
        records.append(record)
    return records


def verdict(record):
    if "error" in record:
        return "not measured"
    if record["bound"] is None:
        return ""
    return "holds" if record["ratio"] >= record["bound"] else "BELOW"


def print_table(records):
    """Of one row's records."""
    first = records[0]
    title = ROWS[first["row"]]["title"] if first["row"] in ROWS else TRAINING_TITLE
    print(f"\n{title}; {first['seq']} tokens, {first['heads']} heads, {first['threads']} cores")
    print(f"{'':18}{'head_dim':>8} {'dtype':5}{'ours s':>9}{'rival s':>9}"
          f"{'ratio':>7}{'rounds':>14}{'bound':>7}")  # fmt: skip
    for record in records:
        head = f"{record['direction']:18}{record['head_dim']:8} {record['dtype']:5}"
        if "error" in record:
            print(f"{head}  {verdict(record)}: {record['error']}")
            continue
        rounds = record["ratios_of_rounds"]
        bound = "" if record["bound"] is None else f"{record['bound']:g}"
        spread = f"{min(rounds):.2f} to {max(rounds):.2f}"
        line = (f"{head}{record['seconds']:9.3f}{record['rival_seconds']:9.3f}"
                f"{record['ratio']:7.2f}{spread:>14}{bound:>7}  {verdict(record)}")  # fmt: skip
        print(line.rstrip())
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*ROWS, "training"]
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build"), metavar="DIR")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE",
                        help="the records; default: BUILD/compare_attention.json")  # fmt: skip
    parser.add_argument("--only", nargs="+", default=names, choices=names, metavar="ROW")
    parser.add_argument("--dtype", nargs="+", default=["f32", "bf16"], choices=["f32", "bf16"])
    parser.add_argument("--head-dim", nargs="+", type=int, default=[128, 64], choices=[128, 64])
    parser.add_argument("--seq", type=int, default=BOUND_SEQ, metavar="TOKENS")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--min-seconds", type=float, default=1, help="of calls, a turn of a side")
    options = parser.parse_args()
    options.build = options.build.resolve()
    options.threads = len(os.sched_getaffinity(0))
    file = options.json or options.build / "compare_attention.json"
    tried, records = {}, []
    for name in options.only:
        if name == "training":
            found = compare_training(options, tried)
        else:
            found = compare_attention(name, options, tried)
        if not found:
            say(f"{name}: no bound, and no measurement, for these types and widths")
            continue
        print_table(found)
        records += found
        file.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    if any(verdict(record) in ("BELOW", "not measured") for record in records):
        sys.exit(1)


if __name__ == "__main__":
    main()

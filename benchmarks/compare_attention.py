#!/usr/bin/env python3
"""Attention here and in its rivals: causal, the same heads and lengths, all cores, in one run.

    python3 benchmarks/compare_attention.py [--only sdpa jax ring_pytorch training]
                                            [--dtype f32 bf16] [--head-dim 128 64] [--rounds 3]

    sdpa          PyTorch's scaled_dot_product_attention; ours on one rank
    jax           JAX ringattention on 4 devices of one process; ours on a ring of 4 threads
    ring_pytorch  ring-attention-pytorch, two processes that meet by gloo; ours two MPI processes
    training      tokens a second against PyTorch + transformers: benchmarks/compare_training.py

The rivals are installed with pip, once, into virtual environments in BUILD/rivals (8 GB, PyTorch
most of it) at the versions of benchmarks/rivals/*.txt. Each first checks its results against float64,
then takes the fastest of its own ways (chunk sizes, memory layouts) for that shape; ours is checked
by `ringwise bench`. Then both sides take turns. A ratio is the rival's median seconds of a call over
ours. A table on stdout, the same as JSON in --json. Exits with 1 where a bound does not hold or a
row could not be measured; bounds are those of 8192 tokens and not applied to other lengths.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
BOUND_SEQ = 8192
DIRECTIONS = ("forward", "forward_backward")

# Rows: the rival's program, what it is installed from, its processes and ranks, how ours runs beside
# it, and the least ratio by direction and (head_dim, dtype); what has no bound is not measured.
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
TRAINING_BOUNDS = {"f32": 1.45, "bf16": 1.5}


class Unmeasured(Exception):
    """Why a row has no figure."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def environment(threads):
    """For both sides. Forced core types slow OpenBLAS: a win must be honest."""
    forced = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "XLA_FLAGS")
    kept = {name: value for name, value in os.environ.items() if name not in forced}
    return {
        **kept,
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",  # a rival that waits for its turn leaves the cores alone
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
    }


def run(command, what, **options):
    result = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, **options
    )
    if result.returncode != 0:
        raise Unmeasured(f"{what}: {last_line(result.stderr)}")
    return result.stdout


def last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip(" -")]
    return lines[-1] if lines else "no message"


def interpreter(build, packages, tried):
    """The python of a virtual environment with these packages; each set is tried once a run."""
    name, requirements = packages
    python = build / "rivals" / name / "bin/python"
    for file in requirements:
        if (name, file) not in tried:
            try:
                install(python, HERE / "rivals" / file)
                tried[name, file] = None
            except Unmeasured as error:
                tried[name, file] = error
        if tried[name, file]:
            raise tried[name, file]
    return python


def install(python, requirements):
    check = [python, HERE.parent / "scripts/check_requirements.py", requirements]
    if python.exists() and subprocess.run(check, capture_output=True).returncode == 0:
        return
    say(f"installing {requirements.name} into {python.parent.parent}")
    what = f"{requirements.name} cannot be installed"
    if not python.exists():
        run([sys.executable, "-m", "venv", python.parent.parent], what)
    run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "-r", requirements], what)  # fmt: skip
    run(check, what)


class Rival:
    """The processes of a rival's program, ready to be timed; see rivals/worker.py."""

    def __init__(self, python, row, options, head_dim, dtype):
        processes = row.get("processes", 1)
        threads = max(1, options.threads // processes)
        self.folder = tempfile.TemporaryDirectory()
        command = [
            python, HERE / "rivals" / row["program"], "--seq", options.seq,
            "--heads", options.heads, "--head-dim", head_dim, "--dtype", dtype,
            "--threads", threads, "--ranks", row.get("ranks", 1),
            "--meet", pathlib.Path(self.folder.name) / "meet",
        ]  # fmt: skip
        self.logs = [
            open(pathlib.Path(self.folder.name) / f"log{rank}", "w+", encoding="utf-8")
            for rank in range(processes)
        ]
        self.processes = [
            subprocess.Popen(
                [*map(str, command), "--rank", str(rank)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env=environment(threads),
            )
            for rank, log in enumerate(self.logs)
        ]  # fmt: skip
        self.name = row["program"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.communicate()
        for log in self.logs:
            log.close()
        self.folder.cleanup()

    def answer(self, process, log):
        for line in process.stdout:
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                continue  # a library's own line
        process.wait()
        log.seek(0)
        raise Unmeasured(f"{self.name}: {last_line(log.read())}")

    def answers(self):
        return [self.answer(*pair) for pair in zip(self.processes, self.logs)]

    def seconds(self, direction, calls):
        """Of each call, of the slowest process."""
        for process in self.processes:
            process.stdin.write(f"{direction} {calls}\n")
            process.stdin.flush()
        return [max(call) for call in zip(*self.answers())]


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
    titles = {name: row["title"] for name, row in ROWS.items()}
    titles["training"] = "training against PyTorch + transformers"
    for name in dict.fromkeys(record["row"] for record in records):
        mine = [record for record in records if record["row"] == name]
        print(f"\n{titles[name]}; {mine[0]['seq']} tokens, {mine[0]['heads']} heads, "
              f"{mine[0]['threads']} cores")  # fmt: skip
        print(f"{'':18}{'head_dim':>8} {'dtype':5}{'ours s':>9}{'rival s':>9}"
              f"{'ratio':>7}{'rounds':>14}{'bound':>7}")  # fmt: skip
        for record in mine:
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
    tried, records = {}, []
    for name in options.only:
        if name == "training":
            records += compare_training(options, tried)
        else:
            records += compare_attention(name, options, tried)
    print_table(records)
    file = options.json or options.build / "compare_attention.json"
    file.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    if any(verdict(record) in ("BELOW", "not measured") for record in records):
        sys.exit(1)


if __name__ == "__main__":
    main()

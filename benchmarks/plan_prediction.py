#!/usr/bin/env python3
"""What `ringwise plan --hardware this` predicts of ring attention, against what is then measured.

    sudo python3 benchmarks/plan_prediction.py --records build/predictions.jsonl

    hosts   two hosts of one core (benchmarks/hosts.py) with a link of a set rate: calls over block
            sizes on both sides of the law's crossing point
    ranks   rings of 1, 2 and 4 ranks as threads of one process, one thread a rank

In each round the hardware is measured by `ringwise plan`, in the job that is to be predicted; then
for every block size the plan of that hardware is made and the call timed by `ringwise bench
attention`. Of its calls the fastest counts, as in the plan's measurement. Ranks that share a core
are predicted at their share of its speed. A table on stdout, of medians over rounds; the records
also as JSON lines, appended to --records, from which benchmarks/planner_figures.py draws. With
--rounds 0 the table is made from the records alone. Exits with 1 if a prediction is off by more
than a quarter.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import hosts

BOUND = 0.25
MASKS = {
    "full": ["--layout", "contiguous", "--causal=false"],
    "causal zigzag": ["--layout", "zigzag", "--causal=true"],
    "causal contiguous": ["--layout", "contiguous", "--causal=true"],
}
MULTIPLES = (0.25, 0.5, 1, 2, 3)  # of the law's block size
# Open MPI's rendezvous of large messages asks before it sends, and where both ranks send at once
# the answer may wait behind all the data of the other direction, or not: as the job happens to
# begin, the link is as fast both ways as one way, or half. Sending in pieces is between the two.
PARAMETERS = {"btl_tcp_flags": "1"}
RINGS = (1, 2, 4)
# What rounds have in common. `size` is the block, or on two hosts, whose law is measured anew in
# each round, how often the law's block it is to be.
KEY = ("what", "dtype", "direction", "mask", "ranks", "size")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build"), metavar="DIR")
    parser.add_argument("--what", nargs="+", choices=["hosts", "ranks"], default=["hosts", "ranks"])
    parser.add_argument("--mask", nargs="+", choices=MASKS, default=["full", "causal zigzag"])
    parser.add_argument("--direction", nargs="+", choices=["forward", "backward"],
                        default=["forward"])  # fmt: skip
    parser.add_argument("--rate", default="1gbit", help="of the link each way, as tc writes it")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--multiples", type=float, nargs="+", default=MULTIPLES, metavar="X",
                        help="block sizes on two hosts, in the law's")  # fmt: skip
    parser.add_argument("--rank-blocks", type=int, nargs="+", default=[2048, 8192],
                        metavar="TOKENS", help="block sizes of rings of threads")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--min-seconds", type=float, default=0.7, help="of calls a measurement")
    parser.add_argument("--cores", type=int, nargs=2, default=[0, 1], help="of the two hosts")
    parser.add_argument("--records", type=pathlib.Path, metavar="FILE")
    return parser.parse_args()


class Place:
    """Runs commands where the ranks are, and plans for them."""

    def __init__(self, options, folder, run):
        self.options = options
        self.program = str((options.build / "ringwise").resolve())
        self.run = run  # arguments -> stdout
        self.hardware = folder / "hardware.json"
        self.model = folder / "config.json"
        shape = {
            "architectures": ["LlamaForCausalLM"], "num_attention_heads": options.heads,
            "num_key_value_heads": options.kv_heads, "head_dim": options.head_dim,
            "hidden_size": options.heads * options.head_dim, "num_hidden_layers": 1,
            "intermediate_size": 1024, "vocab_size": 257,
        }  # fmt: skip
        self.model.write_text(json.dumps(shape), encoding="utf-8")

    def measure_hardware(self, ranks):
        plan = self.run([self.program, "plan", "--model", self.model, "--hardware", "this",
                         "--devices", ranks, "--threads", "1", "--dtype", self.options.dtype,
                         "--json"])  # fmt: skip
        self.hardware.write_text(json.dumps(json.loads(plan)["hardware"]), encoding="utf-8")
        return json.loads(plan)["hardware"]

    def plan(self, mask, ranks, block, efficiency=1.0):
        """Here, without any rank."""
        command = [
            self.program, "plan", "--model", self.model, "--hardware", self.hardware, "--devices",
            ranks, "--context", ranks * block, "--dtype", self.options.dtype, "--efficiency",
            efficiency, "--json", *MASKS[mask],
        ]  # fmt: skip
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
        return json.loads(result.stdout)

    def bench(self, mask, ranks, block, direction):
        options = self.options
        words = [word for word in MASKS[mask] if not word.startswith("--causal")]
        if "--causal=true" in MASKS[mask]:
            words.append("--causal")
        return json.loads(self.run([
            self.program, "bench", "attention", "--json", "--seq", ranks * block, "--heads",
            options.heads, "--kv-heads", options.kv_heads, "--head-dim", options.head_dim,
            "--dtype", options.dtype, "--direction", direction, "--threads", "1", "--ring", ranks,
            "--min-seconds", options.min_seconds, *words,
        ]))  # fmt: skip

    def compare(self, what, mask, ranks, block, efficiency=1.0):
        plan = self.plan(mask, ranks, block, efficiency)
        for direction in self.options.direction:
            yield {
                "what": what, "mask": mask, "direction": direction, "dtype": self.options.dtype,
                "ranks": ranks, "block": block,
                "predicted": plan["attention_call"][f"{direction}_seconds"],
                "measured": self.bench(mask, ranks, block, direction)["best_seconds"],
            }  # fmt: skip


def on_hosts(options, folder):
    with hosts.Hosts(options.cores) as pair:
        pair.limit(options.rate)
        place = Place(options, folder, lambda words: pair.mpirun(words, 600, PARAMETERS))
        hardware = place.measure_hardware(2)
        for mask in options.mask:
            law = place.plan(mask, 2, 1024)["law"]
            for multiple in options.multiples:
                block = max(64, round(multiple * law["block"] / 64) * 64)
                for record in place.compare("hosts", mask, 2, block):
                    crossing = "block" if record["direction"] == "forward" else "backward_block"
                    yield {**record, "size": multiple, "rate": options.rate,
                           "law_block": law[crossing], "hardware": hardware}  # fmt: skip


def on_ranks(options, folder):
    def run(words):
        result = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise RuntimeError(result.stderr.strip()[-2000:])
        return result.stdout

    place = Place(options, folder, run)
    cores = len(os.sched_getaffinity(0))
    hardware = place.measure_hardware(min(2, cores))
    for ranks in RINGS:
        for mask in options.mask:
            for block in options.rank_blocks:
                share = min(1.0, cores / ranks)
                for record in place.compare("ranks", mask, ranks, block, share):
                    yield {**record, "size": block, "hardware": hardware}


def measure(options, keep):
    kinds = {"hosts": on_hosts, "ranks": on_ranks}
    start = time.monotonic()
    expected = {
        "hosts": len(options.mask) * len(options.multiples) * len(options.direction),
        "ranks": len(options.mask) * len(options.rank_blocks) * len(RINGS) * len(options.direction),
    }
    total = options.rounds * sum(expected[what] for what in options.what)
    done = 0
    with tempfile.TemporaryDirectory(prefix="ringwise-plan-") as folder:
        for _ in range(options.rounds):
            for what in options.what:
                for record in kinds[what](options, pathlib.Path(folder)):
                    keep(record)
                    done += 1
                    left = (time.monotonic() - start) / done * (total - done)
                    print(f"{what}, {record['mask']}, {record['ranks']} x {record['block']}: "
                          f"{record['predicted'] / record['measured']:.3f}; {done} of {total}, "
                          f"some {left:.0f} s left", file=sys.stderr, flush=True)  # fmt: skip


def summarize(records):
    """Medians of the rounds, in the order of the first."""
    groups = {}
    for record in records:
        key = tuple(record[name] for name in KEY)
        groups.setdefault(key, []).append(record)
    rows = []
    for (what, dtype, direction, mask, ranks, _), group in groups.items():
        rows.append({
            "what": what, "dtype": dtype, "direction": direction, "mask": mask, "ranks": ranks,
            "block": round(statistics.median(record["block"] for record in group)),
            "rounds": len(group),
            "predicted": statistics.median(record["predicted"] for record in group),
            "measured": statistics.median(record["measured"] for record in group),
            "ratio": statistics.median(r["predicted"] / r["measured"] for r in group),
            "law_block": statistics.median(r.get("law_block", 0) for r in group),
        })  # fmt: skip
    order = {"hosts": 0, "ranks": 1}
    return sorted(rows, key=lambda row: (order[row["what"]], row["dtype"], row["direction"],
                                         row["mask"], row["ranks"], row["block"]))  # fmt: skip


def show(rows):
    print(f"{'':6} {'':4} {'':9} {'mask':18} {'ranks':>5} {'block':>6} {'x law':>6} "
          f"{'predicted s':>12} {'measured s':>11} {'ratio':>6} {'rounds':>6}")  # fmt: skip
    for row in rows:
        law = f"{row['block'] / row['law_block']:.2f}" if row["law_block"] > 0 else "-"
        off = "" if abs(row["ratio"] - 1) <= BOUND else f"  off by more than {BOUND}"
        print(f"{row['what']:6} {row['dtype']:4} {row['direction']:9} {row['mask']:18} "
              f"{row['ranks']:5} {row['block']:6} {law:>6} {row['predicted']:12.4f} "
              f"{row['measured']:11.4f} {row['ratio']:6.3f} {row['rounds']:6}{off}")  # fmt: skip


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main():
    options = parse()
    if "hosts" in options.what and options.rounds > 0 and hosts.missing():
        sys.exit(f"plan_prediction.py: {hosts.missing()}")
    records = read(options.records) if options.records and options.records.exists() else []

    def keep(record):
        records.append(record)
        if options.records:
            with options.records.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    try:
        measure(options, keep)
    except RuntimeError as error:
        sys.exit(f"plan_prediction.py: {error}")
    rows = summarize(records)
    show(rows)
    sys.exit(any(abs(row["ratio"] - 1) > BOUND for row in rows))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Attention around a ring of two hosts of one core each, on a slow link against one without limit.

    sudo build/venv/bin/python benchmarks/slow_links.py --rate 1gbit --plot build/slow_links.svg

Two hosts are made on this machine (benchmarks/hosts.py). For each mask, and blocks of several
sizes, `ringwise bench attention` runs on them with the link's rate limited and without, in turns.
Efficiency is the speed with the limit over that without: 1 where every transfer hides under compute.

The law. While a rank computes with one block of c tokens, the next one arrives. With a rank's
FLOP rate F and the link's bytes B a second, in forward:

    compute   4 c^2 head_dim heads / F       of it half under a causal mask, balanced by zigzag
    transfer  2 c head_dim kv_heads size / B             keys and values, `size` bytes a number

so the transfer is hidden from c = size / 2 x (kv_heads / heads) x F / B on, twice that if causal:
F / B for bf16 and a full mask. F is measured here on the unlimited link; the bytes are those that
the ranks counted. Backward moves more bytes and computes more; there the law is the same ratio of
what is counted, for the whole call.

The bound: from twice that size on, 0.92 of the unlimited speed. Exits with 1 if it does not hold.
"""

import argparse
import json
import pathlib
import re
import statistics
import sys
import time

import hosts

BOUND = 0.92
MASKS = {"full": ["--layout", "contiguous"], "causal zigzag": ["--layout", "zigzag", "--causal"]}
# Of the law's block size; the bound is for those from 2 on.
MULTIPLES = (0.25, 0.5, 1, 1.5, 2, 3, 4)
UNITS = {"bit": 1, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}


def bytes_per_second(rate):
    found = re.fullmatch(r"([0-9.]+)(bit|kbit|mbit|gbit)", rate)
    if not found:
        raise argparse.ArgumentTypeError(f"a rate such as 500mbit or 1gbit, found {rate}")
    return float(found[1]) * UNITS[found[2]] / 8


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build"), metavar="DIR")
    parser.add_argument("--rate", default="1gbit", help="of the slow link, each way")
    parser.add_argument("--mask", nargs="+", choices=MASKS, default=list(MASKS))
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--direction", default="forward",
                        choices=["forward", "backward", "forward_backward"])  # fmt: skip
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--multiples", type=float, nargs="+", default=MULTIPLES, metavar="X",
                        help="block sizes, in the law's")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3, help="turns of each link")
    parser.add_argument("--min-seconds", type=float, default=1.0, help="of calls a turn")
    parser.add_argument("--cores", type=int, nargs=2, default=[0, 1], help="of the two hosts")
    parser.add_argument("--plot", metavar="FILE", help="efficiency against block size: .svg, .png")
    parser.add_argument("--json", action="store_true", help="print JSON lines on stdout")
    options = parser.parse_args()
    bytes_per_second(options.rate)
    return options


class Bench:
    """`ringwise bench attention` on the two hosts, with the link as it is."""

    def __init__(self, options, pair):
        self._options = options
        self._pair = pair

    def __call__(self, mask, block, rate):
        options = self._options
        command = [
            str((options.build / "ringwise").resolve()), "bench", "attention", "--json",
            "--seq", str(2 * block), "--heads", str(options.heads),
            "--kv-heads", str(options.kv_heads), "--head-dim", str(options.head_dim),
            "--dtype", options.dtype, "--direction", options.direction, "--threads", "1",
            "--min-seconds", str(options.min_seconds), *MASKS[mask],
        ]  # fmt: skip
        self._pair.limit(rate)
        return json.loads(self._pair.mpirun(command, timeout=600))


def law(record, bandwidth):
    """The block size from which transfers take no longer than what hides them: of two ranks, each
    sends once and computes twice."""
    block = record["seq"] / 2
    transfer = record["bytes_sent"] / 2 / bandwidth
    compute = record["seconds"] / 2
    return block * transfer / compute


def measure(bench, mask, block, options):
    """One block size. Turns that follow each other are compared, so that what comes and goes on the
    machine touches both."""
    turns = {None: [], options.rate: []}
    for _ in range(options.rounds):
        for rate, records in turns.items():
            records.append(bench(mask, block, rate))
    free, slow = turns[None], turns[options.rate]

    ratios = [one["seconds"] / other["seconds"] for one, other in zip(free, slow)]

    def median(records):
        return statistics.median(record["seconds"] for record in records)

    return {
        "mask": mask,
        "dtype": options.dtype,
        "direction": options.direction,
        "block": block,
        "rate": options.rate,
        "bytes_sent": free[0]["bytes_sent"],
        "seconds": median(slow),
        "unlimited_seconds": median(free),
        "efficiency": statistics.median(ratios),
        "efficiencies": ratios,
        "share_of_peak": max(record["share_of_peak"] for record in free),
    }


def first_guess(bench, mask, options):
    """The law's block size for a mask, from blocks long enough to run at full speed."""
    bandwidth = bytes_per_second(options.rate)
    block = 2048
    for _ in range(2):
        record = bench(mask, block, None)
        block = max(256, round(law({**record, "seconds": record["best_seconds"]}, bandwidth)))
    return block


def measure_all(bench, options):
    bandwidth = bytes_per_second(options.rate)
    records = []
    total = len(options.mask) * len(options.multiples)
    start = time.monotonic()
    for mask in options.mask:
        crossing = first_guess(bench, mask, options)
        blocks = sorted({max(64, round(crossing * x / 64) * 64) for x in options.multiples})
        found = []
        for block in blocks:
            found.append(measure(bench, mask, block, options))
            done = len(records) + len(found)
            left = (time.monotonic() - start) / done * (total - done)
            print(f"{mask}, block {block}: {found[-1]['efficiency']:.3f}; {done} of {total}, "
                  f"some {left:.0f} s left", file=sys.stderr, flush=True)  # fmt: skip
        # By the fastest: short blocks do not reach the rank's full rate.
        largest = found[-1]
        exact = law({"seq": 2 * largest["block"], "bytes_sent": largest["bytes_sent"],
                     "seconds": largest["unlimited_seconds"]}, bandwidth)  # fmt: skip
        for record in found:
            record["law_block"] = exact
            record["law_multiple"] = record["block"] / exact
            record["holds"] = record["law_multiple"] < 2 or record["efficiency"] >= BOUND
        records += found
    return records


def show(records):
    print(f"{'mask':14} {'block':>7} {'x law':>6} {'unlimited s':>12} {'slow s':>9} "
          f"{'efficiency':>11}  of the turns")  # fmt: skip
    for record in records:
        print(
            f"{record['mask']:14} {record['block']:7} {record['law_multiple']:6.2f} "
            f"{record['unlimited_seconds']:12.4f} {record['seconds']:9.4f} "
            f"{record['efficiency']:11.3f}  "
            + " ".join(f"{ratio:.3f}" for ratio in record["efficiencies"])
            + ("" if record["holds"] else f"  below {BOUND}"),
            flush=True,
        )


def plot(records, options):
    import matplotlib  # pylint: disable=import-outside-toplevel

    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot  # pylint: disable=import-outside-toplevel

    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    for index, mask in enumerate(options.mask):
        mine = [record for record in records if record["mask"] == mask]
        colour = f"C{index}"
        axes.plot([record["block"] for record in mine], [record["efficiency"] for record in mine],
                  "o-", color=colour, label=mask)  # fmt: skip
        crossing = mine[0]["law_block"]
        axes.axvline(crossing, color=colour, linestyle="--", linewidth=1)
        axes.annotate(f"c = F/B: {crossing:.0f}", (crossing, 0.03), rotation=90, color=colour,
                      xytext=(3, 0), textcoords="offset points")  # fmt: skip
    axes.axhline(BOUND, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("block: tokens a rank")
    axes.set_ylabel(f"speed on {options.rate} / on an unlimited link")
    axes.set_title(f"Ring attention, 2 hosts of one core, {options.direction.replace('_', ' + ')}, "
                   f"{options.dtype}")  # fmt: skip
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(options.plot)


def main():
    options = parse()
    reason = hosts.missing()
    if reason:
        sys.exit(f"slow_links.py: {reason}")
    try:
        with hosts.Hosts(options.cores) as pair:
            records = measure_all(Bench(options, pair), options)
    except RuntimeError as error:
        sys.exit(f"slow_links.py: {error}")
    if options.json:
        for record in records:
            print(json.dumps(record))
    else:
        show(records)
    if options.plot:
        plot(records, options)
    sys.exit(not all(record["holds"] for record in records))


if __name__ == "__main__":
    main()

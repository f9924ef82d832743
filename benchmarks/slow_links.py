#!/usr/bin/env python3
"""Attention around a ring of two hosts of one core each, on a slow link against one without limit.

    sudo python3 benchmarks/slow_links.py --rate 1gbit --plot build/slow_links.svg

Two hosts are made on this machine (benchmarks/hosts.py). For each mask, and blocks of several
sizes, `ringwise bench attention` runs on them with the link's rate limited and without, in turns.
Efficiency is the speed with the limit over that without: 1 where every transfer hides under compute.

The law. While a rank computes with one block of c tokens, the next one arrives. With a rank's
FLOP rate F and the link's bytes B a second, in forward:

    compute   4 c^2 head_dim heads / F       of it half under a causal mask, balanced by zigzag
    transfer  2 c head_dim kv_heads size / B             keys and values, `size` bytes a number

so the transfer is hidden from c = size / 2 x (kv_heads / heads) x F / B on, twice that if causal:
F / B for bf16 and a full mask. F is measured here on the unlimited link; the bytes are those that
the busier rank counted (under the causal mask the other one sends half: nobody sees its end). Backward moves more bytes and computes more; there the law is the same ratio of
what is counted, for the whole call.

The bound: from twice that size on, 0.92 of the unlimited speed. Exits with 1 if it does not hold.
"""

import argparse
import html
import json
import math
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
    parser.add_argument("--plot", metavar="FILE", help="efficiency against block size, as SVG")
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
    """The block size from which the longer transfer takes no longer than what hides it: each of the
    two ranks sends once and computes twice."""
    block = record["seq"] / 2
    transfer = record["most_sent"] / bandwidth
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
        "most_sent": free[0]["most_sent"],
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
        exact = law({"seq": 2 * largest["block"], "most_sent": largest["most_sent"],
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


class Plot:
    """Efficiency against block size as SVG, the law's block sizes as dashed lines."""

    WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 400, 64, 20, 40, 56
    COLOURS = ("#4c78a8", "#e4572e")

    def __init__(self, records, options):
        blocks = [record["block"] for record in records] + [records[0]["law_block"]]
        self.low, self.high = math.log2(min(blocks)) - 0.2, math.log2(max(blocks)) + 0.2
        self.parts = []
        self.text(self.LEFT, 22, f"Ring attention on two hosts of one core: {options.direction}, "
                                 f"{options.dtype}, link {options.rate}", "font-weight='bold'")  # fmt: skip
        self.axes()
        for index, mask in enumerate(options.mask):
            mine = [record for record in records if record["mask"] == mask]
            self.curve(index, mask, mine)

    def x(self, block):
        share = (math.log2(block) - self.low) / (self.high - self.low)
        return self.LEFT + share * (self.WIDTH - self.LEFT - self.RIGHT)

    def y(self, efficiency):
        return self.HEIGHT - self.BOTTOM - efficiency / 1.1 * (self.HEIGHT - self.TOP - self.BOTTOM)

    def text(self, x, y, words, style=""):
        self.parts.append(f"<text x='{x:.1f}' y='{y:.1f}' {style}>{html.escape(words)}</text>")

    def line(self, x1, y1, x2, y2, style):
        self.parts.append(f"<path d='M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}' fill='none' {style}/>")

    def axes(self):
        right = self.WIDTH - self.RIGHT
        for tenth in range(0, 11, 2):
            y = self.y(tenth / 10)
            self.line(self.LEFT, y, right, y, "stroke='#ddd'")
            self.text(self.LEFT - 8, y + 4, f"{tenth / 10:.1f}", "text-anchor='end'")
        self.line(self.LEFT, self.y(BOUND), right, self.y(BOUND),
                  "stroke='#888' stroke-dasharray='2 3'")  # fmt: skip
        self.text(right, self.y(BOUND) + 14, f"{BOUND} from twice c on", "text-anchor='end'")
        for power in range(math.ceil(self.low), math.floor(self.high) + 1):
            x = self.x(2**power)
            self.line(x, self.y(0), x, self.y(0) + 5, "stroke='#555'")
            self.text(x, self.y(0) + 20, str(2**power), "text-anchor='middle'")
        self.text(right, self.HEIGHT - 14, "block size: tokens a rank", "text-anchor='end'")
        self.text(self.LEFT, 38, "speed on the slow link / on an unlimited one", "fill='#555'")

    def curve(self, index, mask, records):
        colour = self.COLOURS[index % len(self.COLOURS)]
        crossing = records[0]["law_block"]
        x = self.x(crossing)
        self.line(x, self.y(0), x, self.y(1.05), f"stroke='{colour}' stroke-dasharray='6 4'")
        self.text(x + 4, self.y(0.06 + 0.07 * index), f"{mask}: c = {crossing:.0f}",
                  f"fill='{colour}'")  # fmt: skip
        points = [(self.x(record["block"]), self.y(record["efficiency"])) for record in records]
        path = "L".join(f"{px:.1f} {py:.1f}" for px, py in points)
        self.parts.append(f"<path d='M{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        for (px, py), record in zip(points, records):
            self.parts.append(
                f"<circle cx='{px:.1f}' cy='{py:.1f}' r='4' fill='{colour}'><title>block "
                f"{record['block']}: {record['efficiency']:.3f}</title></circle>"
            )
        self.text(self.WIDTH - self.RIGHT, self.y(0.5) + 18 * index, mask,
                  f"fill='{colour}' text-anchor='end'")  # fmt: skip

    def save(self, path):
        body = "\n".join(self.parts)
        pathlib.Path(path).write_text(
            f"<svg xmlns='http://www.w3.org/2000/svg' width='{self.WIDTH}' height='{self.HEIGHT}' "
            f"font-family='sans-serif' font-size='13'>\n"
            f"<rect width='100%' height='100%' fill='white'/>\n{body}\n</svg>\n",
            encoding="utf-8",
        )


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
        Plot(records, options).save(options.plot)
    sys.exit(not all(record["holds"] for record in records))


if __name__ == "__main__":
    main()

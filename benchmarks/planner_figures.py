#!/usr/bin/env python3
"""Draws the figures of docs/planning.md, as SVG.

    python3 -m venv build/figures && build/figures/bin/pip install -r benchmarks/requirements.txt
    build/figures/bin/python benchmarks/planner_figures.py --out docs \\
        --records build/predictions.jsonl

    plan_efficiency.svg   share of the devices' time in which ring attention computes, against
                          devices and context, as `ringwise plan` simulates it
    plan_prediction.svg   predicted and measured times of ring attention, from --records, which
                          benchmarks/plan_prediction.py writes; left out without them
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

# The same figure from the same numbers, byte for byte.
matplotlib.rcParams["svg.hashsalt"] = "ringwise"
matplotlib.rcParams["font.size"] = 9

HARDWARE = {
    "a100-nvlink": "A100, NVLink: 300 GB/s",
    "a100-infiniband": "A100, InfiniBand: 12.5 GB/s",
}
MODEL = "3b"
CONTEXTS = [2**power for power in range(16, 27, 2)]
DEVICES = [2**power for power in range(13)]
COLOURS = ["#4c78a8", "#e4572e", "#59a14f", "#b07aa1", "#f0a04b", "#555555"]


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build"), metavar="DIR")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build"), metavar="DIR")
    parser.add_argument("--records", type=pathlib.Path, metavar="FILE")
    return parser.parse_args()


def plan(options, hardware, devices, context):
    """None where that cannot be: parameters that do not fit, or a device without a token."""
    command = [
        options.build / "ringwise", "plan", "--model", MODEL, "--hardware", hardware, "--devices",
        devices, "--context", context, "--json",
    ]  # fmt: skip
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    return json.loads(result.stdout) if result.returncode == 0 else None


def efficiency(record):
    """Of forward and backward together."""
    call = record["attention_call"]
    seconds = call["forward_seconds"] + call["backward_seconds"]
    return sum(
        call[f"{direction}_seconds"] * call[f"{direction}_efficiency"]
        for direction in ("forward", "backward")
    ) / seconds


def words(tokens):
    return f"{tokens // 2**20}M" if tokens >= 2**20 else f"{tokens // 2**10}K"


def save(figure, path):
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    print(path)


def draw_efficiency(options):
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.9), sharey=True, layout="constrained")
    for panel, (hardware, title) in zip(panels, HARDWARE.items()):
        print(f"{hardware}: {len(CONTEXTS) * len(DEVICES)} plans", file=sys.stderr, flush=True)
        for context, colour in zip(CONTEXTS, COLOURS):
            records = [(devices, plan(options, hardware, devices, context)) for devices in DEVICES]
            records = [(devices, record) for devices, record in records if record]
            law = records[-1][1]["law"]["block"]
            panel.plot(*zip(*[(devices, efficiency(record)) for devices, record in records]),
                       color=colour, alpha=0.35)  # fmt: skip
            fits = [(devices, efficiency(record)) for devices, record in records if record["fits"]]
            if fits:
                panel.plot(*zip(*fits), color=colour, marker="o", markersize=3, linestyle="none")
            panel.plot([], [], color=colour, marker="o", markersize=3, label=words(context))
            # From here on the blocks are shorter than the law's.
            panel.axvline(context / law, color=colour, linestyle=":", linewidth=0.8)
        panel.set_xscale("log", base=2)
        panel.set_xlim(0.8, DEVICES[-1] * 1.25)
        panel.set_ylim(0, 1.05)
        panel.set_title(title)
        panel.set_xlabel("devices in the ring")
        panel.grid(color="#dddddd")
    panels[0].set_ylabel("share of time that attention computes")
    panels[1].legend(title="context", loc="lower left")
    save(figure, options.out / "plan_efficiency.svg")


def medians(records):
    """Of the rounds: block, predicted and measured seconds."""
    by_size = {}
    for record in records:
        by_size.setdefault(record["size"], []).append(record)
    return [
        [statistics.median(r[name] for r in group) for name in ("block", "predicted", "measured")]
        for _, group in sorted(by_size.items())
    ]


def draw_prediction(options):
    lines = options.records.read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    records = [record for record in records if record["what"] == "hosts"]
    if not records:
        sys.exit(f"planner_figures.py: {options.records} has no record of two hosts")
    figure, panel = plt.subplots(figsize=(7, 4.2), layout="constrained")
    curves = sorted({(record["mask"], record["direction"], record["dtype"]) for record in records})
    for curve, colour in zip(curves, COLOURS):
        mine = [r for r in records if (r["mask"], r["direction"], r["dtype"]) == curve]
        blocks, predicted, measured = zip(*medians(mine))
        law = statistics.median(record["law_block"] for record in mine)
        name = ", ".join(curve)
        panel.plot(blocks, predicted, color=colour, label=f"{name}: predicted; c = {law:.0f}")
        panel.plot(blocks, measured, color=colour, marker="o", linestyle="none",
                   label="measured")  # fmt: skip
        # Where the prediction is off by at most a quarter.
        panel.fill_between(blocks, [x / 1.25 for x in predicted], [x / 0.75 for x in predicted],
                           color=colour, alpha=0.12, linewidth=0)  # fmt: skip
        panel.axvline(law, color=colour, linestyle="--", linewidth=1)
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xlabel("block size: tokens a rank")
    panel.set_ylabel("seconds a call")
    panel.set_title(f"Ring attention on two hosts of one core, link {records[0]['rate']}")
    panel.grid(color="#dddddd")
    panel.xaxis.set_major_formatter("{x:.0f}")
    panel.legend(loc="lower right")
    save(figure, options.out / "plan_prediction.svg")


def main():
    options = parse()
    draw_efficiency(options)
    if options.records:
        draw_prediction(options)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The figures of docs/designs.md from the records of `ringwise bench context --json`.

    build/ringwise bench context --json > build/designs.json
    python3 -m venv build/figures && build/figures/bin/pip install -r benchmarks/requirements.txt
    build/figures/bin/python benchmarks/designs_picture.py build/designs.json --out docs

Writes designs_memory, designs_largest, designs_time and designs_balance, each as .svg and .png.
Several files are read as one, so that a long run may be made in parts (--table, --design, --ranks);
a figure without records is left out, and so is a design. The dashed line of designs_memory is the
budget of the records of the largest contexts; without those there is none.
"""

import argparse
import json
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams.update(
    {
        "svg.hashsalt": "ringwise",  # the same file from the same records
        "svg.fonttype": "none",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
    }
)
import matplotlib.pyplot as plt  # noqa: E402

MIB = 2**20
COLOURS = {
    "vanilla": "#c1272d",
    "memory_efficient": "#e08214",
    "blockwise": "#7b3294",
    "ring": "#1f78b4",
    "striped": "#33a02c",
    "zigzag": "#0b4f8a",
    "sparse": "#666666",
}
LABELS = {"memory_efficient": "memory-efficient", "ring": "ring, contiguous", "sparse": "sparse ring"}


def label(design):
    return LABELS.get(design, design)


def tokens(count):
    return f"{count // 1024}K" if count % 1024 == 0 else f"{count:,}"


def read(paths):
    tables = {}
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            tables.setdefault(record["table"], []).append(record)
    if not tables:
        sys.exit("no records: write them with `ringwise bench context --json`")
    return tables


def log_axis(axis, ticks, texts):
    axis.set_ticks(ticks, texts)
    axis.set_minor_locator(matplotlib.ticker.NullLocator())


def memory(records, budget):
    figure, axes = plt.subplots(figsize=(6.4, 4.2))
    most = max((record["ranks"] for record in records if record["design"] == "zigzag"), default=1)
    lines = [("vanilla", 1), ("memory_efficient", 1), ("blockwise", 1), ("zigzag", most)]
    contexts = sorted({record["context"] for record in records})
    for design, ranks in lines:
        points = sorted(
            (record["context"], record["working"] / MIB)
            for record in records
            if record["design"] == design and record["ranks"] == ranks
        )
        if not points:
            continue
        name = f"zigzag ring of {ranks}" if ranks > 1 else label(design)
        axes.plot(*zip(*points), marker="o", markersize=4, color=COLOURS[design], label=name)
    if not axes.lines:
        return None
    if budget is not None:
        mib = budget / MIB
        axes.axhline(mib, color="black", linewidth=0.8, linestyle="--")
        axes.text(contexts[-1], mib * 1.08, f"{mib:g} MiB", fontsize=9, ha="right")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    log_axis(axes.xaxis, contexts, [tokens(context) for context in contexts])
    low, high = axes.get_ylim()
    ticks = [2**power for power in range(2, 14, 2) if low <= 2**power <= high]
    log_axis(axes.yaxis, ticks, [str(tick) for tick in ticks])
    axes.set_xlabel("context, tokens")
    axes.set_ylabel("MiB held by the rank that holds most")
    axes.legend()
    return figure


def largest(records):
    budget = records[0]["budget"]
    figure, axes = plt.subplots(figsize=(6.4, 4.2))
    found = {(record["design"], record["ranks"]): record["context"] for record in records}
    for design in ("vanilla", "memory_efficient", "blockwise"):
        if (design, 1) not in found:
            continue
        axes.plot(1, found[design, 1], "o", color=COLOURS[design])
        axes.annotate(
            f"{label(design)}, {found[design, 1]:,}", (1, found[design, 1]), fontsize=9,
            xytext=(8, -4), textcoords="offset points",
        )  # fmt: skip
    design = "zigzag"
    rings = sorted(ranks for name, ranks in found if name == design)
    contexts = [found[design, ranks] for ranks in rings]
    if rings:
        axes.plot(rings, contexts, marker="o", color=COLOURS[design], label="zigzag ring")
        axes.plot(
            rings, [contexts[0] * ranks / rings[0] for ranks in rings], "--", color="black",
            linewidth=0.8, label="in proportion to the ranks",
        )  # fmt: skip
        axes.legend(loc="upper left")
    if not axes.lines:
        return None
    for ranks, context in zip(rings, contexts):
        if ranks == 1:
            continue  # where the other designs have their names
        axes.annotate(
            f"{context:,}", (ranks, context), fontsize=9, xytext=(-8, 6),
            textcoords="offset points", ha="right",
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    ticks = sorted({1, *rings})
    log_axis(axes.xaxis, ticks, [str(ranks) for ranks in ticks])
    low, high = axes.get_ylim()
    ticks = [2**power for power in range(8, 24) if low <= 2**power <= high]
    log_axis(axes.yaxis, ticks, [tokens(tick) for tick in ticks])
    axes.set_xlabel("ranks")
    axes.set_ylabel(f"largest context within {budget / MIB:g} MiB a rank, tokens")
    return figure


def time(records):
    figure, axes = plt.subplots(figsize=(7.2, 3.8))
    contexts = sorted({record["context"] for record in records})
    designs = [design for design in COLOURS if any(r["design"] == design for r in records)]
    width = 0.8 / len(designs)
    for place, design in enumerate(designs):
        mine = [record for record in records if record["design"] == design]
        ranks = mine[0]["ranks"]
        axes.bar(
            [contexts.index(record["context"]) + (place + 0.5) * width - 0.4 for record in mine],
            [record["tokens_per_second"] for record in mine],
            width * 0.92,
            color=COLOURS[design],
            label=f"{label(design)}, {ranks} ranks" if ranks > 1 else label(design),
        )
    axes.set_xticks(range(len(contexts)), [tokens(context) for context in contexts])
    axes.grid(False, axis="x")
    axes.set_xlabel("context, tokens")
    axes.set_ylabel("tokens trained on a second")
    axes.legend(fontsize=9)
    return figure


def balance(records):
    figure, axes = plt.subplots(figsize=(6.4, 3.4))
    rings = sorted({record["ranks"] for record in records})
    designs = [design for design in COLOURS if any(r["design"] == design for r in records)]
    width = 0.8 / len(designs)
    for place, design in enumerate(designs):
        mine = [record for record in records if record["design"] == design]
        bars = axes.bar(
            [rings.index(record["ranks"]) + (place + 0.5) * width - 0.4 for record in mine],
            [record["attention_work"] for record in mine],
            width * 0.92,
            color=COLOURS[design],
            label=label(design),
        )
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(rings)), [f"{ranks} ranks" for ranks in rings])
    axes.grid(False, axis="x")
    axes.set_ylabel("work of the busiest rank\nover the mean")
    axes.set_ylim(0, 2.4)
    axes.legend(fontsize=9, ncols=4, loc="upper left")
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", type=pathlib.Path, nargs="+", metavar="FILE")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs"), metavar="DIR")
    options = parser.parse_args()
    tables = read(options.records)
    budget = tables["largest"][0]["budget"] if "largest" in tables else None
    draw = {
        "memory": lambda records: memory(records, budget),
        "largest": largest,
        "time": time,
        "balance": balance,
    }
    for name, records in tables.items():
        figure = draw[name](records)
        if figure is None:
            continue
        figure.tight_layout()
        for kind in ("svg", "png"):
            path = options.out / f"designs_{name}.{kind}"
            figure.savefig(path, dpi=120, metadata={"Date": None} if kind == "svg" else None)
            print(path)


if __name__ == "__main__":
    main()

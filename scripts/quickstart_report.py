#!/usr/bin/env python3
"""What scripts/quickstart.sh prints of a run folder.

    quickstart_report.py heldout RUN         bits per byte, beside an order-2 byte model
    quickstart_report.py prompt PATH         how the first text of PATH begins
    quickstart_report.py table RUN RING...   the run, then short runs at several ring sizes
"""

import json
import os
import pathlib
import sys

CATEGORIES = ("parameters", "gradients", "optimizer", "activations", "ring_buffers", "workspace")


def records(run):
    with open(pathlib.Path(run) / "metrics.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def heldout(run):
    final = records(run)[-1]
    print(f"{final['heldout_bits_per_byte']:.3f} bits per byte, context {final['context']}")
    print(f"{final['heldout_order_two_bits_per_byte']:.3f} an order-2 byte model of the same text")


def prompt(path):
    """The first lines, 200 to 300 bytes, of the first text in name order."""
    names = [path]
    if os.path.isdir(path):
        names = sorted(str(file) for file in pathlib.Path(path).rglob("*") if file.is_file())
    for name in names:
        try:
            with open(name, "rb") as file:
                text = file.read(8192)
        except OSError:
            continue
        if len(text) < 300 or b"\0" in text:
            continue
        cut = text.find(b"\n", 200, 300)
        sys.stdout.write(text[: cut if cut > 0 else 200].decode("utf-8", errors="ignore"))
        return
    sys.stdout.write("The ")


def share_of_common_peak(record, others):
    """The MFU over the highest peak that any of the runs saw: on a busy machine each saw another.

    tokens/s over MFU is the peak in tokens/s of this model and context.
    """
    if not record["mfu"]:
        return record["mfu"]
    peaks = [
        other["tokens_per_second"] / other["mfu"]
        for other in others
        if other["mfu"] and other["context"] == record["context"]
    ]
    return record["tokens_per_second"] / max(peaks)


def table(run, *rings):
    last = {folder: records(folder)[-1] for folder in (run, *rings)}
    rows = [("ranks", "context", "tokens/s", "MFU", *(f"{name}" for name in CATEGORIES))]
    for label, folder in (("run", run), *(("ring", ring) for ring in rings)):
        record = last[folder]
        mfu = share_of_common_peak(record, last.values())
        ranks = folder.rsplit("-ring", 1)[1] if label == "ring" else "1, trained"
        peak = record["peak_bytes"]
        rows.append(
            (
                ranks,
                str(record["context"]),
                f"{record['tokens_per_second']:.0f}",
                f"{100 * mfu:.0f} %",
                *(f"{peak[name] / 2**20:.1f}" for name in CATEGORIES),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    print(" " * (sum(widths[:4]) + 8) + "peak of a rank, MiB")
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths)))


if __name__ == "__main__":
    {"heldout": heldout, "prompt": prompt, "table": table}[sys.argv[1]](*sys.argv[2:])

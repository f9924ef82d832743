#!/usr/bin/env python3
"""The table of docs/classify.md: three classification tasks, each by the course's setting and by ours.

    python3 benchmarks/classification_table.py --imdb aclImdb_v1.tar.gz --reuters reuters21578.tar.gz

Trains every configuration of configs/ that the table names, each in a run folder below --out, and
tests it once. Stopped and started again it goes on where it was: a finished run is not repeated, an
unfinished one continues from its last checkpoint. A task whose data is not given is left out. With
`--seeds 3` every configuration is trained three times and the table has means and deviations. The
table goes to stdout as Markdown, and as table.json into --out.

The step of a configuration is split over as many data-parallel ranks as there are cores, which
changes its results by no more than rounding and the places that dropout takes.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
# task, setting, configuration, accuracy of the course's program
ROWS = [
    ("imdb", "fully connected", "imdb_words_seen", None),
    ("imdb", "reference setting", "imdb_reference", 0.8555),
    ("imdb", "best setting", "imdb", None),
    ("reuters", "fully connected", "reuters_words_seen", None),
    ("reuters", "reference setting", "reuters_reference", 0.6327),
    ("reuters", "best setting", "reuters", None),
    ("synthetic", "reference setting", "synthetic_reference", None),
    ("synthetic", "best setting", "synthetic", None),
]
PADDED = "reuters_reference"
PADDED_STEPS = 20


class Table:
    def __init__(self, options):
        self.options = options
        self.data = {"imdb": options.imdb, "reuters": options.reuters, "synthetic": None}
        self.rows = [row for row in ROWS if row[0] == "synthetic" or self.data[row[0]]]

    def command(self, task, config, out, seed, flags):
        text = (ROOT / "configs" / f"{config}.toml").read_text(encoding="utf-8")
        batch = tomllib.loads(text)["batch"]
        ranks = max(n for n in range(1, (os.cpu_count() or 1) + 1) if batch % n == 0)
        command = [
            self.options.build / "ringwise", "train",
            "--config", ROOT / "configs" / f"{config}.toml", "--out", out, "--seed", seed,
            "--data-parallel", ranks, "--batch", batch // ranks, *flags,
        ]  # fmt: skip
        if task != "synthetic":
            command += ["--data", self.data[task]]
        return [str(part) for part in command]

    def run(self, task, config, seed, name, flags=()):
        """The records of a finished run, which is made or continued first if need be."""
        out = self.options.out / name
        records = read_records(out)
        if not records or not records[-1].get("final"):
            if (out / "checkpoints/latest").exists():
                command = [str(self.options.build / "ringwise"), "train", "--resume", str(out)]
            else:
                command = self.command(task, config, out, seed, flags)
            print(f"== {name}: {' '.join(command)}", file=sys.stderr, flush=True)
            result = subprocess.run(command, check=False)
            if result.returncode != 0:
                sys.exit(f"{name}: ringwise ended with {result.returncode}; start this again to go on")
            records = read_records(out)
        return records

    def measure(self):
        table = []
        for task, setting, config, course in self.rows:
            runs = []
            for seed in range(self.options.seeds):
                records = self.run(task, config, seed, f"{config}-{seed}")
                runs.append({
                    "seed": seed,
                    "test_accuracy": records[-1]["test_accuracy"],
                    "test_loss": records[-1]["test_loss"],
                    "first_loss": records[0]["loss"],
                    "loss": statistics.fmean(r["loss"] for r in records[-5:]),
                    "steps": records[-1]["step"],
                    "documents_per_second": statistics.median(
                        r["documents_per_second"] for r in records
                    ),
                })  # fmt: skip
            table.append({"task": task, "setting": setting, "config": f"configs/{config}.toml",
                          "course_accuracy": course, "runs": runs})  # fmt: skip
        return table

    def padding(self):
        """Documents a second packed, and padded to the longest."""
        if not self.data["reuters"]:
            return None
        speeds = {}
        for name, flags in ("packed", []), ("padded", ["--pad"]):
            # Padded steps take long: no test after them, and none is saved before the last.
            flags = [*flags, "--steps", PADDED_STEPS, "--test=false", "--save-every", "0",
                     "--log-every", "1"]  # fmt: skip
            records = self.run("reuters", PADDED, 0, f"{PADDED}-{name}", flags)
            speeds[name] = statistics.median(r["documents_per_second"] for r in records[2:])
        return {**speeds, "factor": speeds["packed"] / speeds["padded"]}


def read_records(out):
    try:
        lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]


def mean_and_deviation(values):
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}"


def markdown(table, padding):
    lines = [
        "| task | setting | test accuracy | the course's | loss, first record to last | documents/s |",
        "|---|---|---|---|---|---|",
    ]
    for row in table:
        runs = row["runs"]
        course = "" if row["course_accuracy"] is None else f"{row['course_accuracy']:.4f}"
        lines.append(
            f"| {row['task']} | [{row['setting']}](../{row['config']}) | "
            f"{mean_and_deviation([run['test_accuracy'] for run in runs])} | {course} | "
            f"{runs[0]['first_loss']:.3f} to {runs[0]['loss']:.3f} | "
            f"{statistics.median(run['documents_per_second'] for run in runs):.0f} |"
        )
    if padding:
        lines += [
            "",
            f"Packed against padded, reuters, reference setting, {PADDED_STEPS} steps: "
            f"{padding['packed']:.1f} against {padding['padded']:.1f} documents a second, "
            f"{padding['factor']:.1f} times.",
        ]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--imdb", metavar="PATH", help="aclImdb's archive or folder")
    parser.add_argument("--reuters", metavar="PATH", help="reuters21578's archive or folder")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of each (1)")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build", metavar="DIR")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build/classification",
                        metavar="DIR", help="run folders and table.json (build/classification)")  # fmt: skip
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error(f"--seeds must be 1 or more, found {options.seeds}")
    for path in filter(None, (options.imdb, options.reuters)):
        if not pathlib.Path(path).exists():
            parser.error(f"{path}: no such archive or folder")
    options.out.mkdir(parents=True, exist_ok=True)
    table = Table(options)
    rows, padding = table.measure(), table.padding()
    (options.out / "table.json").write_text(
        json.dumps({"rows": rows, "padding": padding}, indent=2) + "\n", encoding="utf-8"
    )
    print(markdown(rows, padding))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The table of docs/classify.md: three classification tasks, each by the course's setting and by ours.

    python3 benchmarks/classification_table.py --imdb aclImdb_v1.tar.gz --reuters reuters21578.tar.gz

Trains every configuration of configs/ that the table names, each in a run folder below --out, and
tests it once. Stopped (Ctrl-C or SIGTERM: the run finishes its step and saves) and started again it
goes on where it was: a finished run is not repeated, an unfinished one continues from its last
checkpoint, and one made with other settings than those of configs/ is refused. A task whose data is
not given is left out. The table goes to stdout as Markdown, and as table.json into --out.

The training loss at the end is the mean of a run's last five records, so of the last batches alone.
With `--seeds 3` every configuration is trained three times: accuracies and losses are means and
deviations, and there is a column of the least and the most test accuracy. A mean accuracy then has
five decimals, so that it is not rounded up to a bound that it does not meet.

The step of a configuration is split over as many data-parallel ranks as there are cores, which
changes its results by no more than rounding and the places that dropout takes.
"""

import argparse
import json
import math
import os
import pathlib
import signal
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
# Settings whose product, the documents of a step, is what decides a run's results, and those that
# decide nothing.
STEP = ("batch", "data-parallel", "accumulate")
IDLE = ("threads", "log-every", "save-every")


class Table:
    def __init__(self, options):
        self.options = options
        self.data = {"imdb": options.imdb, "reuters": options.reuters, "synthetic": None}
        self.rows = [row for row in ROWS if row[0] == "synthetic" or self.data[row[0]]]

    def command(self, task, config, out, settings):
        batch = read_settings(config_path(config))["batch"]
        ranks = max(n for n in range(1, (os.cpu_count() or 1) + 1) if batch % n == 0)
        command = [
            self.options.build / "ringwise", "train",
            "--config", config_path(config), "--out", out,
            "--data-parallel", ranks, "--batch", batch // ranks,
            *(f"--{key}={json.dumps(value)}" for key, value in settings.items()),
        ]  # fmt: skip
        if task != "synthetic":
            command += ["--data", self.data[task]]
        return [str(part) for part in command]

    def run(self, task, config, name, settings):
        """The records of a finished run, which is made or continued first if need be.

        `settings` are those that the configuration does not have, or has otherwise.
        """
        out = self.options.out / name
        finished = is_finished(read_records(out))
        resumable = (out / "checkpoints/latest").exists()
        if finished or resumable:
            check_settings(out, {**read_settings(config_path(config)), **settings})
        if not finished:
            if resumable:
                command = [str(self.options.build / "ringwise"), "train", "--resume", str(out)]
            else:
                command = self.command(task, config, out, settings)
            print(f"== {name}: {' '.join(command)}", file=sys.stderr, flush=True)
            code, stopped = call(command)
            if code != 0 or stopped or not is_finished(read_records(out)):
                sys.exit(f"{name}: ringwise ended with {code}; start this again to go on")
        return read_records(out)

    def measure(self):
        table = []
        for task, setting, config, course in self.rows:
            runs = []
            for seed in range(self.options.seeds):
                records = self.run(task, config, f"{config}-{seed}", {"seed": seed})
                runs.append({
                    "seed": seed,
                    "test_accuracy": records[-1]["test_accuracy"],
                    "test_loss": records[-1]["test_loss"],
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
        for name in "packed", "padded":
            # Padded steps take long: no test after them, and none is saved before the last.
            settings = {"seed": 0, "pad": name == "padded", "steps": PADDED_STEPS, "test": False,
                        "save-every": 0, "log-every": 1}  # fmt: skip
            records = self.run("reuters", PADDED, f"{PADDED}-{name}", settings)
            speeds[name] = statistics.median(r["documents_per_second"] for r in records[2:])
        return {**speeds, "factor": speeds["packed"] / speeds["padded"]}


def config_path(config):
    return ROOT / "configs" / f"{config}.toml"


def read_settings(path):
    return tomllib.loads(path.read_text(encoding="utf-8"))


def deciding(settings):
    """Those of the settings that decide a run's results."""
    kept = {key: value for key, value in settings.items() if key not in STEP + IDLE}
    kept[" × ".join(STEP)] = math.prod(settings.get(key) or 1 for key in STEP)
    return kept


def check_settings(out, wanted):
    """Ends the script if the run of a folder was made with other settings than those wanted."""
    path = out / "config.toml"
    found = deciding(read_settings(path)) if path.exists() else {}
    for key, value in deciding(wanted).items():
        if key not in found or found[key] != value:
            made = json.dumps(found[key]) if key in found else "missing"
            sys.exit(
                f"{out}: made with other settings: {key} is {made} in its config.toml and "
                f"{json.dumps(value)} now; move the folder away or give another --out"
            )


def call(command):
    """Runs ringwise; its exit code, and whether this script was told to stop meanwhile.

    Then too it is waited for, since it finishes its step and saves: Ctrl-C reaches it from the
    terminal, SIGTERM is passed on.
    """
    stops = []
    with subprocess.Popen(command) as child:

        def stop(number, _):
            stops.append(number)
            if number == signal.SIGTERM:
                child.send_signal(number)

        handlers = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
        code = child.wait()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return code, bool(stops)


def read_records(out):
    try:
        lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]


def is_finished(records):
    return bool(records) and records[-1].get("final", False)


def mean_and_deviation(values, decimals=4):
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{statistics.fmean(values):.{decimals}f} ± {statistics.stdev(values):.{decimals}f}"


def markdown(table, padding):
    several = len(table[0]["runs"]) > 1
    columns = [
        "task", "setting", "test accuracy", *(["least to most"] if several else []),
        "the course's", "test loss", "training loss at the end", "documents/s",
    ]  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in table:
        of = {key: [run[key] for run in row["runs"]] for key in row["runs"][0]}
        accuracies = of["test_accuracy"]
        cells = [
            row["task"],
            f"[{row['setting']}](../{row['config']})",
            mean_and_deviation(accuracies, decimals=5),
            *([f"{min(accuracies):.4f} to {max(accuracies):.4f}"] if several else []),
            "" if row["course_accuracy"] is None else f"{row['course_accuracy']:.4f}",
            mean_and_deviation(of["test_loss"]),
            mean_and_deviation(of["loss"]),
            f"{statistics.median(of['documents_per_second']):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
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

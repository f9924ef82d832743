"""What the benchmarks here share: a text to train on, and a short `ringwise train`."""

import json
import math
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys


def parse_build(parser):
    """Adds --build, the build folder, and --json, one JSON record a line on stdout."""
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build"), metavar="DIR")
    parser.add_argument("--json", action="store_true", help="print JSON lines on stdout")


def write_text(folder, size=4 << 20, documents=16):
    """A folder of made-up text, the same every time: words of a fixed list in random order."""
    generator = random.Random(3)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(generator.choices(letters, k=generator.randint(2, 9))) for _ in range(2000)]
    folder = pathlib.Path(folder) / "text"
    folder.mkdir(parents=True, exist_ok=True)
    for document in range(documents):
        text = " ".join(generator.choices(words, k=size // documents // 6))
        (folder / f"{document:03}.txt").write_text(text, encoding="ascii")
    return folder


def train(build, out, data, *flags, ranks=None):
    """Runs `ringwise train` into the folder `out` (made anew), under mpirun if `ranks` is given;
    returns the records of its metrics.jsonl. Exits with its error if it fails."""
    shutil.rmtree(out, ignore_errors=True)
    command = [
        str(build / "ringwise"), "train", "--data", str(data), "--out", str(out),
        "--eval-tokens", "0", *map(str, flags),
    ]  # fmt: skip
    if ranks is not None:
        command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks), *command]
    environment = {
        **os.environ,
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
    }
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with {result.returncode}:\n{result.stderr[-2000:]}")
    with open(pathlib.Path(out) / "metrics.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def parameters(out):
    """The number of parameters that the run in `out` saved."""
    with open(pathlib.Path(out) / "checkpoints/latest/model.safetensors", "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name[0] != "_")

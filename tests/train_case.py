"""What the tests of `ringwise train` share: a small model that nothing divides, a made-up text to
learn, and how to train on it and look at the run."""

import json
import pathlib
import random

import support

SEED = 20261122
STEPS = 20
LAYOUTS = ["contiguous", "striped", "zigzag"]

# Small, and nothing divides: context by ring, heads by ranks, feed-forward by anything.
FLAGS = {
    "hidden": 48,
    "layers": 2,
    "heads": 6,
    "kv-heads": 2,
    "head-dim": 8,
    "ffn": 100,
    "context": 203,
    "batch": 2,
    "dtype": "f32",
    "learning-rate": 1e-3,
    "warmup": 20,
    "threads": 1,
    "eval-tokens": 400,
}


def flags(**changed):
    """FLAGS with changes; None drops one, underscores are dashes."""
    merged = {**FLAGS, **{name.replace("_", "-"): value for name, value in changed.items()}}
    return [f"--{name}={value}" for name, value in merged.items() if value is not None]


def write_text(folder, documents=12, words=700):
    """Documents of a small made-up language, so that there is something to learn."""
    generator = random.Random(SEED)
    vocabulary = [
        "".join(generator.choice("etaoinshrdlu") for _ in range(generator.randint(2, 7)))
        for _ in range(60)
    ]
    folder.mkdir(parents=True)
    for index in range(documents):
        text = " ".join(generator.choice(vocabulary) for _ in range(words))
        (folder / f"{index:02}.txt").write_text(text + "\n")


def records(run):
    text = (pathlib.Path(run) / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def losses(run):
    found = records(run)
    assert [record["step"] for record in found] == list(range(1, len(found) + 1)), found
    return [record["loss"] for record in found]


def weights(run):
    return (pathlib.Path(run) / "checkpoints/latest/model.safetensors").read_bytes()


def error_lines(result):
    return [line for line in result.stderr.splitlines() if line.startswith("ringwise:")]


class TrainTestCase(support.TestCase):
    def setUp(self):
        super().setUp()
        self.text = self.folder / "text"
        write_text(self.text)

    def train(self, name, *extra, ranks=None, check=True, **changed):
        """Trains into self.folder / name and returns it."""
        run = self.folder / name
        self.result = support.ringwise(
            "train", "--data", self.text, "--out", run, *flags(**{"steps": STEPS, **changed}),
            *extra, ranks=ranks, check=check,
        )
        return run

    def resume(self, run, *extra, ranks=None, check=True):
        self.result = support.ringwise("train", "--resume", run, *extra, ranks=ranks, check=check)

    def assert_losses(self, actual, expected, bound=1e-5, message=""):
        self.assertEqual(len(actual), len(expected), message)
        for step, (a, b) in enumerate(zip(actual, expected), 1):
            self.assertLessEqual(abs(a - b), bound * abs(b), f"{message} step {step}: {a} {b}")

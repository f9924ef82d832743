"""What the rivals' programs share: each checks its attention, finds its fastest way, and then times
calls as benchmarks/compare_attention.py asks for them.

A program defines a subclass of Rival and calls serve(). It is started once for a shape, writes one
line of JSON when it is ready:

    {"ways": {direction: what was fastest}, "seconds": {direction: of a call}, "versions": {...}}

and answers every line `DIRECTION CALLS` with the seconds of each call, a JSON list. Directions are
"forward" and "forward_backward".
"""

import argparse
import importlib.metadata
import json
import sys
import time

import numpy

DIRECTIONS = ("forward", "forward_backward")
# Of the same computation: root mean square of the difference over that of the float64 result. A
# wrong mask or scale gives 0.1 and more.
BOUNDS = {"f32": 1e-4, "bf16": 0.05}
CHECKED = 256  # tokens


class Rival:
    """Causal attention of q, k, v [tokens, heads, head_dim], of which a rank has `rows`."""

    packages = ()  # whose versions are told
    cannot = ()  # exceptions by which a way says that it does not do a shape

    def __init__(self, options):
        self.options = options

    def rows(self, tokens):
        """The slice of this process's rows."""
        return slice(0, tokens)

    def ways(self, tokens):
        """What the caller may choose, as a list of dicts; the fastest counts."""
        raise NotImplementedError

    def load(self, way, query, key, value, output_gradient):
        """Takes f32 arrays of this process's rows; the calls after it are of them."""
        raise NotImplementedError

    def forward(self):
        """One call, finished when it returns: [output]."""
        raise NotImplementedError

    def forward_backward(self):
        """Likewise: [output, dq, dk, dv]."""
        raise NotImplementedError

    def as_numpy(self, result):
        """A result as f32 [rows, heads, head_dim]."""
        raise NotImplementedError

    def barrier(self):
        """Returns when every process has called it."""

    def agreed(self, index):
        """The first process's index."""
        return index


def causal_attention(query, key, value, output_gradient):
    """(output, dq, dk, dv) in float64."""
    query, key, value, output_gradient = (
        array.astype(numpy.float64).transpose(1, 0, 2)
        for array in (query, key, value, output_gradient)
    )
    scale = query.shape[-1] ** -0.5
    scores = scale * query @ key.transpose(0, 2, 1)
    scores[:, ~numpy.tri(query.shape[1], dtype=bool)] = -numpy.inf
    probabilities = numpy.exp(scores - scores.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    dp = output_gradient @ value.transpose(0, 2, 1)
    ds = scale * probabilities * (dp - (dp * probabilities).sum(-1, keepdims=True))
    results = (
        probabilities @ value,
        ds @ key,
        ds.transpose(0, 2, 1) @ query,
        probabilities.transpose(0, 2, 1) @ output_gradient,
    )
    return [array.transpose(1, 0, 2) for array in results]


def random_inputs(tokens, heads, head_dim):
    generator = numpy.random.default_rng(5)
    shape = (tokens, heads, head_dim)
    return [generator.standard_normal(shape, dtype=numpy.float32) for _ in range(4)]


def check(rival):
    """Exits if a way's result is another computation's."""
    options = rival.options
    inputs = random_inputs(CHECKED, 2, options.head_dim)
    rows = rival.rows(CHECKED)
    expected = [array[rows] for array in causal_attention(*inputs)]
    for way in rival.ways(CHECKED):
        rival.load(way, *(array[rows] for array in inputs))
        for direction in DIRECTIONS:
            try:
                results = [rival.as_numpy(result) for result in getattr(rival, direction)()]
            except rival.cannot:
                continue  # at this length; serve() fails if no way does the one asked for
            for name, result, wanted in zip(("output", "dq", "dk", "dv"), results, expected):
                error = numpy.sqrt(((result - wanted) ** 2).mean() / (wanted**2).mean())
                if not error <= BOUNDS[options.dtype]:  # NaN fails
                    sys.exit(f"{way}: {name} is off by {error:.2g} at {CHECKED} tokens")


def timed(rival, direction):
    rival.barrier()
    begin = time.perf_counter()
    getattr(rival, direction)()
    return time.perf_counter() - begin


def serve(make):
    """Runs `make(options)`, a Rival, as told on the command line and on stdin."""
    parser = argparse.ArgumentParser()
    for flag in ("--seq", "--heads", "--head-dim", "--threads", "--ranks", "--rank"):
        parser.add_argument(flag, type=int, required=True)
    parser.add_argument("--dtype", choices=sorted(BOUNDS), required=True)
    parser.add_argument("--meet", required=True, help="a file by which the processes meet")
    options = parser.parse_args()
    rival = make(options)
    check(rival)
    rows = rival.rows(options.seq)
    inputs = [array[rows] for array in random_inputs(options.seq, options.heads, options.head_dim)]
    ways = rival.ways(options.seq)
    best, seconds = {}, {}
    for direction in DIRECTIONS:
        found = []
        for way in ways:
            rival.load(way, *inputs)
            try:
                timed(rival, direction)  # warms up, compiles
                found.append(timed(rival, direction))
            except rival.cannot as error:
                reason = error
                found.append(numpy.inf)
        index = rival.agreed(int(numpy.argmin(found)))
        if found[index] == numpy.inf:
            raise reason
        best[direction], seconds[direction] = ways[index], found[index]
    versions = {name: importlib.metadata.version(name) for name in rival.packages}
    print(json.dumps({"ways": best, "seconds": seconds, "versions": versions}), flush=True)
    for line in sys.stdin:
        direction, calls = line.split()
        rival.load(best[direction], *inputs)
        timed(rival, direction)  # warms up: the other side ran meanwhile
        print(json.dumps([timed(rival, direction) for _ in range(int(calls))]), flush=True)

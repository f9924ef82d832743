"""What the Python tests share: running the programs, and comparing with a reference.

A test is a file tests/NAME_test.py of unittest cases; ctest runs it as
`python NAME_test.py --build BUILD_DIR` (see tests/CMakeLists.txt):

    import support

    class Attention(support.TestCase):
        def test_heads_must_divide(self):
            result = support.ringwise("attention", "--inputs", path, "--out", out)
            self.assert_one_line_error(result, 2, "kv_heads")

    if __name__ == "__main__":
        support.main()

Rules: data from a fixed, printed seed; a bound is derived, never loosened; break the code once and
see the test fail; no test passes or fails by a time measured.
"""

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

import numpy

BUILD = pathlib.Path("build")


def main():
    """Reads --build and runs the file's tests; the exit code is what ctest expects."""
    global BUILD
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--build", type=pathlib.Path, required=True, help="the build folder")
    options, rest = parser.parse_known_args()
    BUILD = options.build.resolve()
    unittest.main(module="__main__", argv=sys.argv[:1] + rest, verbosity=2)


def environment(**extra):
    """The environment of a program under test: as root, with more ranks than cores."""
    return {
        **os.environ,
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
        **{name: str(value) for name, value in extra.items()},
    }


def command(program, *arguments, ranks=None):
    """The command line of a built program; under mpirun if `ranks` is given."""
    line = [str(BUILD / program), *map(str, arguments)]
    if ranks is None:
        return line
    return ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks), *line]


def run(program, *arguments, ranks=None, timeout=300, check=False, env=None, cwd=None, stdin=None):
    """Runs a built program to its end: .returncode, .stdout, .stderr (text). `stdin` is the text it
    reads there, nothing by default.

    check: fail the test with the program's stderr if it does not exit with 0. After `timeout`
    seconds the whole process group is killed and the test fails.
    """
    line = command(program, *arguments, ranks=ranks)
    process = subprocess.Popen(
        line,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment(**(env or {})),
        cwd=cwd,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
        raise AssertionError(
            f"still running after {timeout} s: {' '.join(line)}\n{stderr[-2000:]}"
        ) from None
    result = subprocess.CompletedProcess(line, process.returncode, stdout, stderr)
    if check and result.returncode != 0:
        raise AssertionError(f"exit {result.returncode}: {' '.join(line)}\n{stderr[-4000:]}")
    return result


def ringwise(*arguments, **options):
    """run() of the command line program."""
    return run("ringwise", *arguments, **options)


def _as_float64(values):
    if hasattr(values, "detach"):  # a torch tensor, bf16 included, which numpy does not know
        values = values.detach().double().cpu().numpy()
    return numpy.asarray(values, dtype=numpy.float64)


def largest_error(actual, expected, scale=None):
    """max |actual - expected| / scale; scale defaults to the largest magnitude in `expected`.

    Infinity where the comparison means nothing: NaN on either side, shapes that differ, nothing to
    compare, infinities that do not agree. A scale of zero demands equality.
    """
    actual, expected = _as_float64(actual), _as_float64(expected)
    if actual.shape != expected.shape or expected.size == 0:
        return float("inf")
    if numpy.isnan(actual).any() or numpy.isnan(expected).any():
        return float("inf")
    infinite = numpy.isinf(actual) | numpy.isinf(expected)
    if (actual[infinite] != expected[infinite]).any():
        return float("inf")
    difference = numpy.abs(actual[~infinite] - expected[~infinite])
    if difference.size == 0:
        return 0.0
    if scale is None:
        scale = numpy.abs(expected[~infinite]).max()
    if numpy.isnan(scale) or scale < 0:
        return float("inf")
    error = difference.max()
    if scale == 0:
        return 0.0 if error == 0 else float("inf")
    return float(error / scale)


def rms_error(actual, expected):
    """Root mean square of the difference over that of `expected`; infinity as largest_error."""
    actual, expected = _as_float64(actual), _as_float64(expected)
    if actual.shape != expected.shape or expected.size == 0:
        return float("inf")
    error = numpy.sqrt(numpy.mean((actual - expected) ** 2))
    size = numpy.sqrt(numpy.mean(expected**2))
    if not (numpy.isfinite(error) and numpy.isfinite(size)):
        return float("inf")
    if size == 0:
        return 0.0 if error == 0 else float("inf")
    return float(error / size)


class TestCase(unittest.TestCase):
    """unittest's, with a folder of its own (self.folder) and the checks below."""

    longMessage = True

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="ringwise-test-", ignore_cleanup_errors=True)
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def assert_close(self, actual, expected, bound, scale=None, message=""):
        """largest_error(actual, expected, scale) <= bound."""
        error = largest_error(actual, expected, scale)
        self.assertLessEqual(error, bound, message)
        return error

    def assert_one_line_error(self, result, code, *words):
        """Exit code `code`, and one line on stderr in which every one of `words` stands."""
        self.assertEqual(result.returncode, code, result.stderr[-2000:])
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        self.assertEqual(len(lines), 1, f"expected one line:\n{result.stderr[-2000:]}")
        for word in words:
            self.assertIn(str(word), lines[0])
        self.assertNotIn("terminate called", lines[0])
        return lines[0]

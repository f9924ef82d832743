"""The library from outside: what `cmake --install` writes, moved elsewhere and used by a project
that knows nothing but find_package(ringwise): examples/ring_attention."""

import os
import pathlib
import re
import subprocess

import support

EXAMPLE = pathlib.Path(__file__).resolve().parent.parent / "examples/ring_attention"
# Two f32 results, each within a few 2^-24 of the exact sums.
BOUND = 1e-6


def cache(name):
    """A variable of the build's CMakeCache.txt."""
    text = (support.BUILD / "CMakeCache.txt").read_text(encoding="utf-8")
    return re.search(rf"^{name}:\w+=(.*)$", text, re.MULTILINE)[1]


def call(*command):
    environment = {k: v for k, v in os.environ.items() if k not in ("CXXFLAGS", "CPATH")}
    result = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, env=environment, check=False
    )
    if result.returncode != 0:
        raise AssertionError(f"{command}: {result.stdout[-2000:]}{result.stderr[-4000:]}")
    return result.stdout


class Install(support.TestCase):
    def setUp(self):
        super().setUp()
        first, self.prefix = self.folder / "first", self.folder / "moved"
        call("cmake", "--install", support.BUILD, "--prefix", first)
        first.rename(self.prefix)

    def installed(self, pattern):
        found = sorted(path for path in self.prefix.rglob(pattern) if path.is_file())
        self.assertTrue(found, pattern)
        return found

    def example(self, text):
        """The ring's size and the checksum of a line that the example wrote."""
        found = re.fullmatch(
            r"ring of (\d+) (threads|processes): checksum (\S+), "
            r"relative difference from a ring of one (\S+)\n",
            text,
        )
        self.assertIsNotNone(found, text)
        self.assertLess(float(found[4]), BOUND)
        return int(found[1]), found[2], float(found[3])

    def test_example_runs_against_the_installed_copy(self):
        build = self.folder / "build"
        call(
            "cmake", "-S", EXAMPLE, "-B", build, f"-DCMAKE_PREFIX_PATH={self.prefix}",
            f"-DCMAKE_CXX_COMPILER={cache('CMAKE_CXX_COMPILER')}", "-G", cache("CMAKE_GENERATOR"),
        )  # fmt: skip
        call("cmake", "--build", build)
        program = build / "ring_attention"
        *alone, checksum = self.example(support.run(program, check=True).stdout)
        self.assertEqual(alone, [4, "threads"])
        if cache("RINGWISE_MPI") != "ON":
            return
        for ranks in (2, 3):
            result = support.run(program, ranks=ranks, check=True)
            *how, other = self.example(result.stdout)
            self.assertEqual(how, [ranks, "processes"])
            self.assertAlmostEqual(other / checksum, 1, delta=BOUND)

    def test_public_headers_include_only_themselves_and_the_standard_library(self):
        headers = self.installed("include/**/*")
        self.assertEqual({path.parent for path in headers}, {self.prefix / "include/ringwise"})
        for path in headers:
            for name in re.findall(r'#include (["<].*?[">])', path.read_text(encoding="utf-8")):
                self.assertRegex(name, r'^("ringwise/\w+\.h"|<\w+>)$', path.name)
        source = self.folder / "all.cc"
        source.write_text("".join(f'#include "ringwise/{path.name}"\n' for path in headers))
        call(cache("CMAKE_CXX_COMPILER"), "-std=c++20", "-Wall", "-Wextra", "-Werror",
             "-fsyntax-only", "-I", self.prefix / "include", source)  # fmt: skip

    def test_nothing_names_a_folder_of_the_build(self):
        paths = support.BUILD, EXAMPLE.parent.parent, self.folder
        folders = [str(path).encode() for path in paths]
        for path in self.installed("*"):
            if path.suffix == ".a" or path.parent.name == "bin":
                continue  # an assertion may name its source
            for folder in folders:
                self.assertNotIn(folder, path.read_bytes(), path)

    def test_the_program_runs(self):
        (program,) = self.installed("bin/*")
        self.assertIn("onednn ", support.run(program, "info", check=True).stdout)


if __name__ == "__main__":
    support.main()

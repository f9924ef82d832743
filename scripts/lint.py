#!/usr/bin/env python3
"""Style and lint.

    scripts/lint.py format       clang-format over all our C++ (--fix: rewrites the files)
    scripts/lint.py scripts      shellcheck and a Python syntax check
    scripts/lint.py tidy BUILD   clang-tidy over src/, with the compile commands of BUILD. Not the
                                 tests: GoogleTest's macros cost ten times the time of a source.
                                 What passed is remembered in BUILD/lint by the content of the file
                                 and of all headers it includes: a second run checks only changes.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("include", "src", "tests", "benchmarks", "examples")


def files(*suffixes):
    found = (path for folder in FOLDERS + ("scripts", ".ci") for path in ROOT.glob(f"{folder}/**/*"))
    return sorted(path for path in found if path.suffix in suffixes and path.is_file())


def check_format(fix):
    sources = files(".cc", ".h")
    mode = ["-i"] if fix else ["--dry-run", "-Werror"]
    return subprocess.run(["clang-format", *mode, *sources], check=False).returncode == 0


def check_scripts():
    good = True
    shell = [*files(".sh"), ROOT / ".ci/run", ROOT / "scripts/hooks/pre-commit"]
    if subprocess.run(["shellcheck", "-x", *shell], cwd=ROOT, check=False).returncode != 0:
        good = False
    for path in files(".py"):
        try:
            compile(path.read_text(encoding="utf-8"), path, "exec")
        except SyntaxError as error:
            print(error)
            good = False
    return good


def dependencies(build):
    """Object file -> our files it was compiled from, from ninja's record."""
    record = subprocess.run(["ninja", "-C", build, "-t", "deps"], capture_output=True, text=True)
    found = {}
    target = None
    for line in record.stdout.splitlines():
        if line and not line.startswith(" "):
            target = line.split(":")[0]
            found[target] = []
        elif line.strip():
            path = (build / line.strip()).resolve()
            if path.is_relative_to(ROOT):
                found[target].append(path)
    return found


def check_tidy(build):
    config = (ROOT / ".clang-tidy").read_bytes()
    passed = build / "lint"
    passed.mkdir(exist_ok=True)
    by_object = dependencies(build)
    commands = json.loads((build / "compile_commands.json").read_text(encoding="utf-8"))
    work = []
    for command in commands:
        source = pathlib.Path(command["file"])
        if not source.is_relative_to(ROOT / "src") or source.name.endswith("_test.cc"):
            continue
        output = re.search(r" -o (\S+)", command["command"])
        key = hashlib.sha256(config + command["command"].encode())
        for path in sorted(by_object.get(output[1] if output else "", [])) or [source]:
            key.update(path.read_bytes())
        stamp = passed / key.hexdigest()
        if not stamp.exists():
            work.append((source, stamp))

    def lint(item):
        source, stamp = item
        # Pragmas meant for GCC.
        known = ("--extra-arg=-Wno-unknown-pragmas", "--extra-arg=-Wno-unknown-warning-option")
        result = subprocess.run(
            ["clang-tidy", "--quiet", "-p", build, *known, source], capture_output=True, text=True
        )
        if result.returncode == 0:
            stamp.touch()
            return True
        print(f"{source.relative_to(ROOT)}:\n{result.stdout}{result.stderr}", flush=True)
        return False

    jobs = len(os.sched_getaffinity(0))
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        good = all(list(pool.map(lint, work)))
    print(f"clang-tidy: {len(work)} files checked; the others have not changed")
    return good


def main():
    arguments = sys.argv[1:]
    if arguments and arguments[0] == "format":
        good = check_format("--fix" in arguments)
    elif arguments == ["scripts"]:
        good = check_scripts()
    elif len(arguments) == 2 and arguments[0] == "tidy":
        good = check_tidy(pathlib.Path(arguments[1]).resolve())
    else:
        sys.exit(__doc__)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

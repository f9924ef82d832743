"""The rivals of compare_attention.py: installed into virtual environments, started, and asked."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent


class Unmeasured(Exception):
    """Why a row has no figure."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def environment(threads):
    """For both sides. Forced core types slow OpenBLAS: a win must be honest."""
    forced = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "XLA_FLAGS")
    kept = {name: value for name, value in os.environ.items() if name not in forced}
    return {
        **kept,
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",  # a rival that waits for its turn leaves the cores alone
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
    }


def run(command, what, **options):
    result = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, **options
    )
    if result.returncode != 0:
        raise Unmeasured(f"{what}: {last_line(result.stderr)}")
    return result.stdout


def last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip(" -")]
    return lines[-1] if lines else "no message"


def interpreter(build, packages, tried):
    """The python of a virtual environment with these packages; each set is tried once a run."""
    name, requirements = packages
    python = build / "rivals" / name / "bin/python"
    for file in requirements:
        if (name, file) not in tried:
            try:
                install(python, HERE / "rivals" / file)
                tried[name, file] = None
            except Unmeasured as error:
                tried[name, file] = error
        if tried[name, file]:
            raise tried[name, file]
    return python


def install(python, requirements):
    check = [python, HERE.parent / "scripts/check_requirements.py", requirements]
    if python.exists() and subprocess.run(check, capture_output=True).returncode == 0:
        return
    say(f"installing {requirements.name} into {python.parent.parent}")
    what = f"{requirements.name} cannot be installed"
    if not python.exists():
        run([sys.executable, "-m", "venv", python.parent.parent], what)
    run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "-r", requirements], what)  # fmt: skip
    run(check, what)


class Rival:
    """The processes of a rival's program, ready to be timed; see rivals/worker.py."""

    def __init__(self, python, row, options, head_dim, dtype):
        processes = row.get("processes", 1)
        threads = max(1, options.threads // processes)
        self.folder = tempfile.TemporaryDirectory()
        command = [
            python, HERE / "rivals" / row["program"], "--seq", options.seq,
            "--heads", options.heads, "--head-dim", head_dim, "--dtype", dtype,
            "--threads", threads, "--ranks", row.get("ranks", 1),
            "--meet", pathlib.Path(self.folder.name) / "meet",
        ]  # fmt: skip
        self.logs = [
            open(pathlib.Path(self.folder.name) / f"log{rank}", "w+", encoding="utf-8")
            for rank in range(processes)
        ]
        self.processes = [
            subprocess.Popen(
                [*map(str, command), "--rank", str(rank)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env=environment(threads),
            )
            for rank, log in enumerate(self.logs)
        ]  # fmt: skip
        self.name = row["program"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.communicate()
        for log in self.logs:
            log.close()
        self.folder.cleanup()

    def answer(self, process, log):
        for line in process.stdout:
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                continue  # a library's own line
        process.wait()
        log.seek(0)
        raise Unmeasured(f"{self.name}: {last_line(log.read())}")

    def answers(self):
        return [self.answer(*pair) for pair in zip(self.processes, self.logs)]

    def seconds(self, direction, calls):
        """Of each call, of the slowest process."""
        for process in self.processes:
            process.stdin.write(f"{direction} {calls}\n")
            process.stdin.flush()
        return [max(call) for call in zip(*self.answers())]

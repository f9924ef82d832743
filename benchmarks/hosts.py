#!/usr/bin/env python3
"""Two hosts on one machine for one Open MPI job: network namespaces with a link of a set bandwidth.

    sudo python3 benchmarks/hosts.py --rate 1gbit -- build/ringwise bench attention --seq 8192

A host is a network namespace with its own addresses; what runs there also has a host name and
shared memory of its own, so that Open MPI takes it for another machine and talks TCP. The link is a
pair of virtual interfaces, each with a token bucket on what leaves it. Needs root, iproute2,
util-linux and Open MPI.

and from Python:

    with hosts.Hosts(cores=(0, 1)) as pair:
        pair.limit("1gbit")
        text = pair.mpirun([program, argument], timeout=60)

Everything is removed at the end, whatever happens; only processes in these namespaces are ended.
"""

import argparse
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile

NETWORK = "10.213.0"

# What the remote shell of mpirun is here: `agent HOST COMMAND...`, the command being shell text.
AGENT = """#!/bin/sh
host=$1; shift
case $host in
{cores}
esac
exec taskset -c "$core" ip netns exec "$host" unshare --uts --ipc --mount --propagation private \\
  sh -c 'hostname "$1" && mount -t tmpfs shm /dev/shm && shift && exec sh -c "$*"' sh "$host" "$@"
"""

PARAMETERS = {
    "plm": "rsh",
    "plm_rsh_no_tree_spawn": "1",
    "oob_tcp_if_include": f"{NETWORK}.0/24",
    "pml": "ob1",
    "btl": "tcp,self,vader",
    "btl_tcp_if_include": f"{NETWORK}.0/24",
    # A pair of ranks that sends both ways at once needs a socket for each way: in a single one the
    # acknowledgements of what arrives wait behind what leaves.
    "btl_tcp_links": "2",
}

SETTINGS = {
    # Some systems choose BBR, which takes the pauses between blocks for a slow link. Reno may be
    # chosen everywhere.
    "net.ipv4.tcp_congestion_control": "reno",
    "net.ipv4.tcp_slow_start_after_idle": "0",
}


def missing():
    """Why hosts cannot be made here, or None."""
    if os.geteuid() != 0:
        return "making network namespaces needs root: run it with sudo"
    packages = {
        "ip": "iproute2", "tc": "iproute2", "unshare": "util-linux", "taskset": "util-linux",
        "mpirun": "openmpi-bin",
    }  # fmt: skip
    for program, package in packages.items():
        if shutil.which(program) is None:
            return f"{program} is not installed: it is in the package {package}"
    return None


def _call(*words):
    result = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {result.stderr.strip()}")
    return result.stdout


class Hosts:
    """A context manager; `cores` are those that the ranks of the hosts run on."""

    def __init__(self, cores):
        self._names = [f"ringwise{os.getpid()}-{index}" for index in range(len(cores))]
        self._cores = cores
        self._folder = None
        self._handlers = {}

    def __enter__(self):
        # So that a signal unwinds and removes everything.
        for number in (signal.SIGTERM, signal.SIGHUP):
            self._handlers[number] = signal.signal(number, lambda *_: sys.exit(1))
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _kill(self):
        """Ends what runs in the namespaces."""
        for name in self._names:
            listed = subprocess.run(
                ["ip", "netns", "pids", name], capture_output=True, text=True, check=False
            )
            for pid in listed.stdout.split():
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    pass  # it ended by itself

    def __exit__(self, *_):
        self._kill()
        for name in self._names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
            shutil.rmtree(f"/etc/netns/{name}", ignore_errors=True)
            for session in pathlib.Path(tempfile.gettempdir()).glob(f"ompi.{name}.*"):
                shutil.rmtree(session, ignore_errors=True)
        try:
            pathlib.Path("/etc/netns").rmdir()  # only if it is empty
        except OSError:
            pass
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _make(self):
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="ringwise-hosts-"))
        places = [f"{NETWORK}.{index + 1} {name}" for index, name in enumerate(self._names)]
        for name in self._names:
            _call("ip", "netns", "add", name)
            known = pathlib.Path("/etc/netns", name)  # replaces files of /etc inside
            known.mkdir(parents=True)
            (known / "hosts").write_text("\n".join(["127.0.0.1 localhost", *places, ""]))
            (known / "resolv.conf").write_text("")
            _call("ip", "-n", name, "link", "set", "lo", "up")
            for setting, value in SETTINGS.items():
                _call("ip", "netns", "exec", name, "sysctl", "-qw", f"{setting}={value}")
        first, second = self._names
        _call(
            "ip", "link", "add", "eth0", "netns", first, "type", "veth",
            "peer", "name", "eth0", "netns", second,
        )  # fmt: skip
        for index, name in enumerate(self._names):
            _call("ip", "-n", name, "addr", "add", f"{NETWORK}.{index + 1}/24", "dev", "eth0")
            _call("ip", "-n", name, "link", "set", "eth0", "up")
        cores = "\n".join(f"{name}) core={core} ;;" for name, core in zip(self._names, self._cores))
        agent = self._folder / "agent"
        agent.write_text(AGENT.format(cores=cores))
        agent.chmod(0o700)

    def limit(self, rate):
        """Sets the bandwidth of the link each way, as tc writes it ("1gbit"); None: no limit."""
        for name in self._names:
            subprocess.run(
                ["tc", "-n", name, "qdisc", "del", "dev", "eth0", "root"],
                capture_output=True, check=False,
            )  # fmt: skip
            if rate is None:
                continue
            # A bucket that holds a whole segment of 64 KiB: smaller ones cut each into packets, and
            # the kernel then takes the cores.
            _call(
                "tc", "-n", name, "qdisc", "add", "dev", "eth0", "root", "tbf",
                "rate", rate, "burst", "128kb", "latency", "50ms",
            )  # fmt: skip

    def mpirun(self, command, timeout, parameters=None):
        """Runs one rank a host to its end and returns what it wrote to stdout; `parameters` are
        more of Open MPI's. Raises RuntimeError with its stderr if it fails or takes longer than
        `timeout` seconds."""
        agent = str(self._folder / "agent")
        words = ["mpirun", "-n", str(len(self._names)), "--bind-to", "none"]
        words += ["-H", ",".join(f"{name}:1" for name in self._names), "--map-by", "ppr:1:node"]
        chosen = {**PARAMETERS, "plm_rsh_agent": agent, **(parameters or {})}
        for key, value in chosen.items():
            words += ["--mca", key, value]
        environment = {
            **os.environ,
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        }
        with subprocess.Popen(
            [agent, self._names[0], "exec " + shlex.join([*words, *map(str, command)])],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment,
        ) as process:  # fmt: skip
            try:
                output, errors = process.communicate(timeout=timeout)
            except BaseException as error:
                self._kill()
                if isinstance(error, subprocess.TimeoutExpired):
                    raise RuntimeError(f"no end after {timeout} s: {shlex.join(command)}") from error
                raise
        if process.returncode != 0:
            raise RuntimeError(f"{shlex.join(command)}: exit {process.returncode}\n{errors[-2000:]}")
        return output


def main():
    parser = argparse.ArgumentParser(description="Runs a program as two MPI ranks on two hosts.")
    parser.add_argument("--rate", help="of the link each way, such as 500mbit; default: no limit")
    parser.add_argument("--cores", type=int, nargs=2, default=[0, 1], help="of the two hosts")
    parser.add_argument("--timeout", type=float, default=600, metavar="SECONDS")
    parser.add_argument("program", nargs="+", help="after --, with its arguments")
    options = parser.parse_args()
    reason = missing()
    if reason:
        sys.exit(f"hosts.py: {reason}")
    try:
        with Hosts(options.cores) as pair:
            pair.limit(options.rate)
            print(pair.mpirun(options.program, options.timeout), end="")
    except RuntimeError as error:
        sys.exit(f"hosts.py: {error}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""A real Slurm cluster on this machine, to try and to test everything that talks to Slurm.

    python slurm/local-cluster/cluster.py up [--nodes 2] [--directory DIR]
    python slurm/local-cluster/cluster.py status
    python slurm/local-cluster/cluster.py down

``up`` starts munge, MariaDB, slurmdbd, slurmctld and one slurmd per node in a scratch directory, on loopback, with
random passwords and free ports, and prints the ``SLURM_CONF`` to export. Run again, it starts whatever has died
meanwhile. ``down`` cancels the jobs, stops exactly the processes that ``up`` started and removes the directory. Nothing
outside the directory is touched: a munge or Slurm installed on the system goes on undisturbed. Python's standard
library suffices.
"""

import argparse
import contextlib
import fcntl
import getpass
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import processes
import settings
from processes import Daemon

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "munged": "munge",
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "sbatch": "slurm-wlm",
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
}
LONGEST_SOCKET_PATH = 100


class ClusterError(Exception):
    """What went wrong, with the end of the log that tells why."""

    exit_code = 1


class Unavailable(ClusterError):
    """Slurm is not installed here and cannot be."""

    exit_code = 3


@dataclass
class State:
    """What ``up`` has made; kept as ``state.json`` in the directory so that any later ``down`` knows what is ours."""

    directory: str
    boot: str
    nodes: int
    ports: dict[str, int]
    daemons: dict[str, Daemon]

    @property
    def slurm_conf(self) -> str:
        return str(Path(self.directory) / "slurm.conf")

    def save(self) -> None:
        path = Path(self.directory) / "state.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self) | {"slurm_conf": self.slurm_conf}, indent=1))
        temporary.replace(path)

    @classmethod
    def load(cls, directory: Path) -> "State | None":
        try:
            fields = json.loads((directory / "state.json").read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ClusterError(f"{directory / 'state.json'} is damaged ({error}); stop its daemons by hand") from error
        daemons = {name: Daemon(**daemon) for name, daemon in fields["daemons"].items()}
        return cls(fields["directory"], fields["boot"], fields["nodes"], fields["ports"], daemons)

    def alive(self, name: str) -> bool:
        daemon = self.daemons.get(name)
        return daemon is not None and self.boot == processes.boot_id() and daemon.alive()


def up(directory: Path, nodes: int, cpus: int, timeout_s: float) -> State:
    """Start the cluster, or whatever part of it is not running; returns once every node is idle or at work.

    Raises:
        ClusterError: a daemon did not come up, or the directory is not usable.
    """
    state = State.load(directory)
    if state is None:
        state = _create(directory, nodes, cpus)
    elif state.nodes != nodes:
        raise ClusterError(f"{directory} holds a cluster of {state.nodes} nodes; take it down first")
    if state.boot != processes.boot_id():
        state.boot, state.daemons = processes.boot_id(), {}
    _start_all(state, time.monotonic() + timeout_s)
    return state


def _create(directory: Path, nodes: int, cpus: int) -> State:
    if len(str(directory / "mariadb.sock")) > LONGEST_SOCKET_PATH:
        raise ClusterError(f"{directory} is too long a path for a Unix socket; choose a shorter --directory")
    leftovers = [path for path in directory.iterdir() if path.name != "lock"] if directory.exists() else []
    if leftovers:
        raise ClusterError(f"{directory} is not empty and holds no cluster of ours; choose another --directory")
    directory.mkdir(parents=True, exist_ok=True)
    ports = settings.choose_ports(["mariadbd", "slurmdbd", "slurmctld", *settings.node_names(nodes)])
    state = State(str(directory), processes.boot_id(), nodes, ports, {})
    try:
        settings.write(directory, nodes, cpus, ports)
        _install_database(directory / "mariadb")
        state.save()
    except BaseException:
        shutil.rmtree(directory)
        raise
    return state


def _start_all(state: State, deadline: float) -> None:
    directory = Path(state.directory)

    def start(name: str, command: list[str], ready: Callable[[], bool]) -> bool:
        if state.alive(name):
            return False
        environment = os.environ | {"SLURM_CONF": state.slurm_conf}
        state.daemons[name] = processes.start(command, directory / f"{name}.out", environment)
        state.save()
        _wait(f"{name} to answer", ready, deadline, directory, {name: state.daemons[name]})
        return True

    munge = str(directory / "munge.sock")
    files = {"key-file": "munge.key", "socket": "munge.sock", "log-file": "munged.log", "pid-file": "munged.pid"}
    options = [f"--{option}={directory / file}" for option, file in (files | {"seed-file": "munged.seed"}).items()]
    # --force: the checks of who owns the parent directories do not matter for a throw-away key.
    start("munged", ["munged", "--foreground", "--force", *options], lambda: _succeeds("munge", "-n", "-S", munge))
    start("mariadbd", _mariadbd(state), lambda: _listens("127.0.0.1", state.ports["mariadbd"]))
    address = settings.local_address()[0]
    if start("slurmdbd", ["slurmdbd", "-D"], lambda: _listens(address, state.ports["slurmdbd"])):
        _register_cluster(state, deadline)
    start("slurmctld", ["slurmctld", "-D", "-f", state.slurm_conf], lambda: _controller_answers(state))
    names = settings.node_names(state.nodes)
    for name in names:
        command = ["slurmd", "-D", "-N", name, "-f", state.slurm_conf]
        start(name, command, lambda port=state.ports[name]: _listens(address, port))
    nodes = {name: state.daemons[name] for name in names}
    _wait("the nodes to be idle", lambda: _nodes_usable(state), deadline, directory, nodes)


def _mariadbd(state: State) -> list[str]:
    files = {"datadir": "mariadb", "socket": "mariadb.sock", "pid-file": "mariadbd.pid", "init-file": "init.sql"}
    options = {
        "user": getpass.getuser(),
        "bind-address": "127.0.0.1",
        "port": state.ports["mariadbd"],
        "innodb-log-file-size": "8M",
        "innodb-buffer-pool-size": "64M",
        "innodb-flush-log-at-trx-commit": 2,
    } | {option: f"{state.directory}/{file}" for option, file in files.items()}
    flags = ["--no-defaults", "--skip-name-resolve", "--skip-log-bin"]
    return ["mariadbd", *flags, *(f"--{option}={value}" for option, value in options.items())]


def _install_database(data: Path) -> None:
    options = [f"--datadir={data}", f"--user={getpass.getuser()}", "--skip-test-db", "--skip-name-resolve"]
    size = ["--innodb-log-file-size=8M"]
    done = _run("mariadb-install-db", "--no-defaults", *options, "--auth-root-authentication-method=socket", *size)
    if done.returncode:
        raise ClusterError(f"mariadb-install-db failed:\n{_tail(done.stdout + done.stderr)}")


def _register_cluster(state: State, deadline: float) -> None:
    """Accounting knows the cluster, an account ``local`` and its only user, so that bad accounts are refused."""
    user = getpass.getuser()
    manager = ("sacctmgr", "-i", "add")

    def succeeded() -> bool:
        commands = (["cluster", "local"], ["account", "local", "cluster=local"], ["user", user, "account=local"])
        results = [_run(*manager, *command, conf=state.slurm_conf) for command in commands]
        return all(done.returncode == 0 or "Nothing new added" in done.stdout + done.stderr for done in results)

    _wait("the accounting database", succeeded, deadline, Path(state.directory), state.daemons)


def _controller_answers(state: State) -> bool:
    return "is UP" in _run("scontrol", "ping", conf=state.slurm_conf).stdout


def _nodes_usable(state: State) -> bool:
    shown = _run("sinfo", "-h", "-N", "-p", "main", "-o", "%T", conf=state.slurm_conf).stdout.split()
    return len(shown) == state.nodes and all(word in ("idle", "mixed", "allocated", "completing") for word in shown)


def down(directory: Path, timeout_s: float) -> bool:
    """Cancel all jobs, stop what :func:`up` started, remove the directory; False if there was nothing.

    A process id that meanwhile belongs to something else is left alone: start times and the boot are compared.
    """
    state = State.load(directory)
    if state is None:
        return False
    deadline = time.monotonic() + timeout_s
    if state.alive("slurmctld"):
        _run("scancel", "--full", "--signal=KILL", "--user", getpass.getuser(), conf=state.slurm_conf)
        _run("scancel", "--user", getpass.getuser(), conf=state.slurm_conf)
        with contextlib.suppress(ClusterError):
            _wait("jobs to end", lambda: not _jobs(state), min(deadline, time.monotonic() + 5), directory, {})
    order = [*reversed(settings.node_names(state.nodes)), "slurmctld", "slurmdbd", "mariadbd", "munged"]
    for names in (order[: state.nodes], *([name] for name in order[state.nodes :])):
        processes.stop([state.daemons[name] for name in names if state.alive(name)])
    processes.stop(processes.job_processes(state.directory, state.slurm_conf), patience_s=0.5)
    shutil.rmtree(directory)
    return True


def _jobs(state: State) -> str:
    return _run("squeue", "-h", conf=state.slurm_conf).stdout.strip()


def install(allowed: bool) -> None:
    """Install with apt what is missing, if this is root on a Debian-like system.

    Raises:
        Unavailable: something is missing and is not to be installed or cannot be; the message names the packages.
        ClusterError: apt failed.
    """
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = sorted({package for binary, package in PACKAGES.items() if shutil.which(binary) is None})
    if not missing:
        return
    if not allowed or os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Unavailable(f"Slurm is not complete here; missing packages: {' '.join(missing)}")
    print(f"installing {' '.join(missing)}", file=sys.stderr)
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", *missing]):
        done = subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True, timeout=900)
        if done.returncode:
            raise ClusterError(f"{shlex.join(command)} failed:\n{_tail(done.stdout + done.stderr)}")


def _wait(what: str, ready: Callable[[], bool], deadline: float, directory: Path, watched: dict[str, Daemon]) -> None:
    while not ready():
        dead = [name for name, daemon in watched.items() if not daemon.alive()]
        if dead or time.monotonic() > deadline:
            problem = f"{dead[0]} stopped" if dead else "timed out"
            logs = "\n".join(_log(directory, name) for name in (dead or watched))
            raise ClusterError(f"waiting for {what}: {problem}\n{logs}".rstrip())
        time.sleep(0.05)


def _log(directory: Path, name: str) -> str:
    path = directory / f"{name}.out"
    return f"--- {path}\n{_tail(path.read_text(errors='replace'))}" if path.exists() else ""


def _tail(text: str, lines: int = 12) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])


def _run(*command: str, conf: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"SLURM_CONF": conf} if conf else {})
    try:
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"{shlex.join(command)} took longer than 60 s")


def _succeeds(*command: str) -> bool:
    return _run(*command).returncode == 0


def _listens(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, port)) == 0


@contextlib.contextmanager
def _exclusive(directory: Path) -> Iterator[None]:
    """One ``up`` or ``down`` at a time for a directory; the lock lies beside it because ``down`` removes it."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    path = directory.with_name(f".{directory.name}.lock")
    while True:
        with path.open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            # Whoever held it may have removed the file that we were waiting for.
            if not path.exists() or not os.path.samestat(path.stat(), os.fstat(stream.fileno())):
                continue
            yield
            if not directory.exists():
                path.unlink()
            return


def describe(directory: Path) -> dict[str, Any]:
    """What ``status`` reports."""
    state = State.load(directory)
    if state is None:
        return {"directory": str(directory), "running": False}
    daemons = {name: {"pid": daemon.pid, "alive": state.alive(name)} for name, daemon in state.daemons.items()}
    running = bool(daemons) and all(daemon["alive"] for daemon in daemons.values())
    return {"directory": str(directory), "running": running, "slurm_conf": state.slurm_conf, "daemons": daemons}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["up", "down", "status"])
    parser.add_argument("--nodes", type=int, default=2, help="number of slurmd daemons (default 2)")
    parser.add_argument("--cpus", type=int, default=max(2, os.cpu_count() or 1), help="CPUs that each node claims")
    parser.add_argument("--directory", type=Path, default=ROOT / "outputs" / "slurm-cluster", help="scratch directory")
    parser.add_argument("--no-install", action="store_true", help="exit with 3 rather than install missing packages")
    parser.add_argument("--timeout", type=float, default=90, help="seconds to wait at most (default 90)")
    options = parser.parse_args(arguments)
    directory = options.directory.absolute()
    try:
        if options.action == "status":
            print(json.dumps(describe(directory), indent=1))
            return 0
        with _exclusive(directory):
            if options.action == "down":
                print("stopped" if down(directory, options.timeout) else f"no cluster in {directory}")
                return 0
            install(allowed=not options.no_install)
            state = up(directory, options.nodes, options.cpus, options.timeout)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(_run("sinfo", conf=state.slurm_conf).stdout, file=sys.stderr, end="")
    print(f"export SLURM_CONF={shlex.quote(state.slurm_conf)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Starting and stopping processes that outlive the one that starts them, without ever hitting a stranger."""

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Daemon:
    """A process of ours.

    Attributes:
        pid: its process id.
        started: its start time in clock ticks since boot; with the boot id it tells it from a later process of that id.
    """

    pid: int
    started: int

    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        return _started(self.pid) == self.started


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _started(pid: int) -> int | None:
    try:
        # The second field, the name, may hold spaces and parentheses; what follows the last one is regular.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def start(command: list[str], output: Path, environment: dict[str, str]) -> Daemon:
    """Start ``command`` in a session of its own, its output appended to ``output``."""
    with output.open("ab") as stream:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=output.parent,
            start_new_session=True,
        )
    return Daemon(process.pid, _started(process.pid) or -1)


def stop(daemons: list[Daemon], patience_s: float = 8.0) -> None:
    """Ask the processes to end, insist after ``patience_s`` seconds."""
    for number, patience in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 5.0)):
        for daemon in daemons:
            if daemon.alive():
                os.kill(daemon.pid, number)
        deadline = time.monotonic() + patience
        while any(daemon.alive() for daemon in daemons) and time.monotonic() < deadline:
            time.sleep(0.02)


def job_processes(directory: str, slurm_conf: str) -> list[Daemon]:
    """What runs on behalf of the nodes of one cluster: every slurmstepd, and the tasks of jobs.

    Args:
        directory: working directory of the cluster's slurmd daemons, which a slurmstepd inherits.
        slurm_conf: what the cluster's jobs have in ``SLURM_CONF``.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            is_step = (entry / "comm").read_text().startswith("slurmstepd")
            is_step = is_step and str((entry / "cwd").readlink()) == directory
        except OSError:
            continue
        has_job = any(item.startswith(b"SLURM_JOB_ID=") for item in environment)
        is_task = has_job and f"SLURM_CONF={slurm_conf}".encode() in environment
        started = _started(int(entry.name))
        if (is_step or is_task) and started is not None:
            found.append(Daemon(int(entry.name), started))
    return found

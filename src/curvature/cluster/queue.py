"""What SLURM says about the jobs of a sweep: one question for all of them."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL"})
"""States from which a job does not come back by itself."""

USUALLY_REQUEUED = frozenset({"PREEMPTED", "NODE_FAIL"})
"""States that SLURM follows by a new start, unless the partition says otherwise."""

NOTHING = frozenset({"None", "None assigned", "(null)"})


@dataclass(frozen=True)
class JobState:
    """One job as SLURM sees it.

    Attributes:
        state: SLURM's word, e.g. ``"RUNNING"``.
        node: node list, empty before the start.
        elapsed: run time of this stretch, ``[DD-]HH:MM:SS``.
        reason: why it is pending, in SLURM's word, e.g. ``"Resources"``.
    """

    state: str = "PENDING"
    node: str = ""
    elapsed: str = ""
    reason: str = ""


class Queue:
    """Asks sacct, or squeue on clusters without accounting, about whole arrays at once.

    Args:
        arrays: job ids as sbatch returned them.

    Attributes:
        calls: how many times SLURM was asked.
        forgets: whether a job that is not mentioned has ended some time ago (squeue), rather than not started (sacct).
    """

    def __init__(self, arrays: Sequence[str]) -> None:
        self.arrays = list(arrays)
        self.calls = 0
        self.forgets = False

    def states(self) -> dict[str, JobState] | None:
        """Jobs by id (``123_4`` for a task of an array); None if SLURM does not answer: controllers get restarted."""
        self.calls += 1
        if not self.forgets:
            done = self._ask("sacct", "-X", "-n", "-P", "-o", "JobID,State,NodeList,Elapsed,Reason", "-j")
            if done is not None and done.returncode == 0:
                return parse(done.stdout)
            if done is not None and "accounting storage is disabled" not in done.stderr.lower():
                return None
            self.forgets = done is not None or shutil.which("sacct") is None
        done = self._ask("squeue", "-h", "-t", "all", "-o", "%i|%T|%N|%M|%r", "-j")
        if done is not None and "Invalid job id" in done.stderr:
            return {}
        return parse(done.stdout) if done is not None and done.returncode == 0 else None

    def _ask(self, *command: str) -> "subprocess.CompletedProcess[str] | None":
        # Without this SLURM abbreviates the list of an array's pending tasks.
        environment = os.environ | {"SLURM_BITSTR_LEN": "0"}
        try:
            return subprocess.run(
                [*command, ",".join(self.arrays)], env=environment, capture_output=True, text=True, timeout=60
            )
        except (OSError, subprocess.TimeoutExpired):
            return None


def parse(text: str) -> dict[str, JobState]:
    """Lines ``id|state|nodes|elapsed|reason`` to states by single job id; ``123_[0-2,7%4]`` stands for four jobs."""
    states: dict[str, JobState] = {}
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) != 5 or "." in fields[0]:
            continue
        # "CANCELLED by 1000"
        state = (fields[1].split() or ["PENDING"])[0]
        node, reason = ("" if word in NOTHING else word for word in (fields[2], fields[4]))
        for job in expand(fields[0]):
            states[job] = JobState(state, node, fields[3], reason if state == "PENDING" else "")
    return states


def expand(job: str) -> Iterator[str]:
    """Single job ids meant by ``job``, e.g. ``12_[1-3,5%2]`` to ``12_1``, ``12_2``, ``12_3``, ``12_5``."""
    match = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", job)
    if match is None:
        yield job
        return
    array, ranges = match.groups()
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        for index in range(int(first), int(last or first) + 1):
            yield f"{array}_{index}"


def details(job: str) -> dict[str, str]:
    """What ``scontrol show job`` knows about one job; empty if it cannot be asked."""
    try:
        done = subprocess.run(
            ["scontrol", "--oneliner", "show", "job", job], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(re.findall(r"(\S+?)=(\S*)", done.stdout)) if done.returncode == 0 else {}

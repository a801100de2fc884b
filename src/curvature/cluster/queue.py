"""What SLURM says about the jobs of a sweep: one question for all of them."""

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL"})
"""States from which a job does not come back by itself."""

USUALLY_REQUEUED = frozenset({"PREEMPTED", "NODE_FAIL"})
"""States that SLURM follows by a new start, unless the partition says otherwise."""


@dataclass(frozen=True)
class JobState:
    """One job as SLURM sees it.

    Attributes:
        state: SLURM's word, e.g. ``"RUNNING"``.
        node: node list, empty before the start.
        elapsed: run time of this stretch, ``[DD-]HH:MM:SS``.
    """

    state: str = "PENDING"
    node: str = ""
    elapsed: str = ""


class Queue:
    """Asks sacct, or squeue on clusters without accounting, about whole arrays at once.

    Args:
        arrays: job ids as sbatch returned them.

    Attributes:
        calls: how many times SLURM was asked.
    """

    def __init__(self, arrays: Sequence[str]) -> None:
        self.arrays = list(arrays)
        self.calls = 0
        self._accounting = True

    def states(self) -> dict[str, JobState]:
        """Jobs by id (``123_4`` for a task of an array). Jobs that SLURM does not mention are left out.

        A SLURM that does not answer yields an empty result: controllers are restarted now and then.
        """
        self.calls += 1
        if self._accounting:
            done = self._ask("sacct", "-X", "-n", "-P", "-o", "JobID,State,NodeList,Elapsed", "-j")
            if done is not None and done.returncode == 0:
                return parse(done.stdout)
            if done is None or "accounting" not in done.stderr.lower() or "disabled" not in done.stderr.lower():
                return {}
            self._accounting = False
        done = self._ask("squeue", "-h", "-t", "all", "-o", "%i|%T|%N|%M", "-j")
        return parse(done.stdout) if done is not None and done.returncode == 0 else {}

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
    """Lines ``id|state|nodes|elapsed`` to states by single job id; ``123_[0-2,7%4]`` stands for four jobs."""
    states: dict[str, JobState] = {}
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) != 4 or "." in fields[0]:
            continue
        # "CANCELLED by 1000"
        words = fields[1].split()
        node = "" if fields[2] in ("None assigned", "(null)") else fields[2]
        for job in expand(fields[0]):
            states[job] = JobState(words[0] if words else "PENDING", node, fields[3])
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

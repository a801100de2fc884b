"""How a job ended: what it returned, or why not."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curvature.cluster.queue import JobState
from curvature.cluster.submission import SubmittedJob
from curvature.errors import CurvatureError

EXPLANATIONS = {
    "TIMEOUT": "it was still saving when its time limit came; raise slurm.signal_delay_s or slurm.timeout_min",
    "OUT_OF_MEMORY": "it needed more memory than slurm.mem_gb",
    "CANCELLED": "it was cancelled",
    "NODE_FAIL": "its node failed and the partition does not requeue",
    "PREEMPTED": "it was preempted and the partition does not requeue",
    "DEADLINE": "it could not run before its deadline",
    "BOOT_FAIL": "its node did not start",
}


class JobFailed(CurvatureError):
    """A job of a sweep did not finish; the message names it, the reason and its log."""


@dataclass(frozen=True)
class Submitted:
    """What stands for the result of a job that nobody waits for.

    Attributes:
        job_id: SLURM's id of it.
        log: where its standard error goes.
    """

    job_id: str
    log: Path


def outcome(job: SubmittedJob, state: JobState) -> Any:
    """What the first process of ``job`` returned; a :class:`JobFailed` (not raised) if it did not finish.

    Args:
        job: a job that has ended.
        state: SLURM's last word on it.
    """
    kind, value = _read(job.result)
    if kind == "success":
        return value
    if state.state in EXPLANATIONS:
        reason = EXPLANATIONS[state.state]
    elif kind == "error" and "timed-out too many times" in str(value):
        reason = "it used up its time limit slurm.max_num_timeout + 1 times; the same command continues it"
    elif kind == "error":
        reason = last_line(str(value))
    else:
        reason = last_line(_tail(job.log)) or last_line(_tail(job.output)) or "it left no result"
    return JobFailed(f"job {job.job_id} ({job.label}) ended as {_word(state)}: {reason}\n  log: {job.log}")


def _word(state: JobState) -> str:
    return "FAILED" if state.state == "COMPLETED" else state.state


def _read(path: Path) -> tuple[str, Any]:
    try:
        with path.open("rb") as stream:
            kind, value = pickle.load(stream)
    except FileNotFoundError:
        return "none", None
    except Exception as error:
        return "error", f"its result in {path} cannot be read: {error}"
    return kind, value


def last_line(text: str) -> str:
    """The last line of a traceback or log that says something, without the exception's module."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith((" ", "\t"))]
    lines = [line for line in lines if not line.startswith(("srun: ", "slurmstepd: "))] or lines
    if not lines:
        return ""
    name, colon, rest = lines[-1].partition(":")
    return f"{name.rpartition('.')[2]}:{rest}" if colon and " " not in name else lines[-1]


def _tail(path: Path, size: int = 4096) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - size))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""

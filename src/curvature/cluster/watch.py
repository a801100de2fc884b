"""Waiting for the jobs of a sweep: a live table, and the choice to leave or to cancel on Ctrl-C."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from curvature.cluster.outcome import JobFailed, Submitted, outcome
from curvature.cluster.queue import ENDED, USUALLY_REQUEUED, JobState, Queue
from curvature.cluster.submission import SubmittedJob
from curvature.errors import CurvatureError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

FIRST_PAUSE_S = 1.0
RESULT_PATIENCE_S = 30.0
"""How long a result may take to show up on a shared file system after SLURM has called the job completed."""
REQUEUE_PATIENCE_S = 60.0
"""How long a preempted job or one whose node failed may take to be pending again."""
LISTED = 20
NOTICEABLY_SILENT = 5
WAITING = frozenset({"PENDING", "REQUEUED", "CONFIGURING", "SUSPENDED"}) | USUALLY_REQUEUED
GROUPS = ("pending", "running", "done", "failed")


class Cancelled(CurvatureError):
    """The user cancelled the jobs; what they had saved stays, and the same command continues from it."""


class Watch:
    """Follows the jobs of one launch until all have ended.

    Args:
        jobs: what was submitted.
        poll_seconds: the longest pause between two questions to SLURM.
        console: where to show the table; lines are printed instead where it is not a terminal.
    """

    def __init__(self, jobs: Sequence[SubmittedJob], poll_seconds: float, console: "Console") -> None:
        self.jobs = {job.job_id: job for job in jobs}
        self.arrays = sorted({job.array for job in jobs})
        self.queue = Queue(self.arrays)
        self.poll_seconds = poll_seconds
        self.console = console
        self.states = {job_id: JobState() for job_id in self.jobs}
        self.outcomes: dict[str, Any] = {}
        self._restarts = dict.fromkeys(self.jobs, 0)
        self._ended_since: dict[str, float] = {}
        self._unanswered = 0
        self._said = ""

    def wait(self) -> list[Any]:
        """What each job returned, in order; a :class:`JobFailed`, or a :class:`Submitted` if it was left, in its place.

        Raises:
            Cancelled: the user chose so.
        """
        while True:
            try:
                self._follow()
                break
            except KeyboardInterrupt:
                choice = self._ask()
                if choice == "cancel":
                    self.cancel()
                    raise Cancelled(
                        f"cancelled {len(self.jobs) - len(self.outcomes)} jobs; the same command continues them"
                    ) from None
                if choice == "leave":
                    break
        return [self.outcomes.get(job.job_id, Submitted(job.job_id, job.log)) for job in self.jobs.values()]

    def cancel(self) -> None:
        """Cancel all jobs that have not ended."""
        subprocess.run(["scancel", *self.arrays], capture_output=True, timeout=60)

    def _follow(self) -> None:
        pause = FIRST_PAUSE_S
        with self._display() as display:
            while True:
                changed = self.poll()
                self._show(display)
                if len(self.outcomes) == len(self.jobs):
                    return
                pause = FIRST_PAUSE_S if changed else min(1.3 * pause, self.poll_seconds)
                time.sleep(min(pause, self.poll_seconds))

    def poll(self) -> bool:
        """Ask SLURM once about everything; True if any job changed its state. Costs one call and O(jobs)."""
        answer = self.queue.states()
        self._unanswered = 0 if answer is not None else self._unanswered + 1
        if answer is None:
            return False
        changed = False
        for job in self.jobs.values():
            if job.job_id in self.outcomes:
                continue
            state = answer.get(job.job_id)
            if state is None and self.queue.forgets:
                state = JobState("COMPLETED" if job.result.exists() else "FAILED", self.states[job.job_id].node)
            if state is not None:
                changed |= self._note(job, state)
        return changed

    def _note(self, job: SubmittedJob, state: JobState) -> bool:
        before = self.states[job.job_id].state
        self.states[job.job_id] = state
        if state.state != before:
            self._ended_since.pop(job.job_id, None)
            self._restarts[job.job_id] += before not in WAITING and state.state in WAITING
        if state.state in ENDED | USUALLY_REQUEUED:
            now = time.monotonic()
            since = self._ended_since.setdefault(job.job_id, now)
            if self._is_final(job, state.state, now - since):
                self.outcomes[job.job_id] = outcome(job, state)
        return state.state != before

    def _is_final(self, job: SubmittedJob, state: str, waited_s: float) -> bool:
        if state in USUALLY_REQUEUED:
            return waited_s > REQUEUE_PATIENCE_S
        return state != "COMPLETED" or job.result.exists() or waited_s > RESULT_PATIENCE_S

    def group(self, job_id: str) -> str:
        """``pending``, ``running``, ``done`` or ``failed``."""
        if job_id in self.outcomes:
            return "failed" if isinstance(self.outcomes[job_id], JobFailed) else "done"
        return "pending" if self.states[job_id].state in WAITING else "running"

    def counts(self) -> dict[str, int]:
        """Number of jobs by group."""
        found = dict.fromkeys(GROUPS, 0)
        for job_id in self.jobs:
            found[self.group(job_id)] += 1
        return found

    def _headline(self) -> str:
        numbers = ", ".join(f"{number} {name}" for name, number in self.counts().items())
        silent = " (SLURM does not answer)" if self._unanswered >= NOTICEABLY_SILENT else ""
        return f"SLURM {' '.join(self.arrays)}: {numbers}{silent}"

    @contextlib.contextmanager
    def _display(self) -> "Iterator[Live | None]":
        if not self.console.is_terminal:
            yield None
            return
        from rich.live import Live

        with Live(console=self.console, auto_refresh=False, transient=False) as live:
            yield live

    def _show(self, display: "Live | None") -> None:
        if display is not None:
            display.update(self.table(), refresh=True)
            return
        headline = self._headline()
        if headline != self._said:
            self.console.print(headline, soft_wrap=True, highlight=False)
            self._said = headline

    def table(self) -> "Table":
        """Failed and running jobs first; at most 20 rows."""
        from rich.table import Table

        order = {name: rank for rank, name in enumerate(("failed", "running", "pending", "done"))}
        ranked = sorted(self.jobs.values(), key=lambda job: order[self.group(job.job_id)])
        table = Table(title=self._headline(), title_justify="left")
        for column in ("job", "arm and seed", "state", "where", "time", "restarts"):
            table.add_column(column)
        for job in ranked[:LISTED]:
            state = self.states[job.job_id]
            restarts = str(self._restarts[job.job_id] or "")
            where = state.node or state.reason
            table.add_row(job.job_id, job.label, self.group(job.job_id), where, state.elapsed, restarts)
        if len(ranked) > LISTED:
            table.caption = f"and {len(ranked) - LISTED} more"
        return table

    def _ask(self) -> str:
        """What to do after Ctrl-C: ``leave``, ``cancel`` or ``wait``; a second Ctrl-C, or nobody, means leave."""
        answer = "l"
        if sys.stdin.isatty():
            with contextlib.suppress(KeyboardInterrupt, EOFError):
                answer = input("\n[l]eave the jobs in the queue, [c]ancel them, or [w]ait on? ").strip().lower()[:1]
        return {"c": "cancel", "w": "wait"}.get(answer, "leave")

"""On the node: being told to stop, saving, and going back into the queue with the same arguments.

SLURM tells a job that its time is nearly up, or that it is preempted, by the signal that submitit asks for (USR2 unless
``SUBMITIT_PREEMPT_SIGNAL`` says otherwise), and that it ends right now by SIGTERM. Both only set the flag of
:mod:`curvature.callbacks.interrupt`, on every process of the job; the training loop saves at its next batch boundary
and raises ``Interrupted``; only then does the first process requeue the job. Nothing happens inside a signal handler,
so a second signal cannot tear a save.
"""

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from omegaconf import DictConfig, OmegaConf

from curvature.callbacks import interrupt
from curvature.cluster import environment, queue
from curvature.cluster.submission import CONTROLLER_PATIENCE_S, CONTROLLER_PAUSE_S
from curvature.fingerprint import fingerprint
from curvature.rundir import KILLED, RunDirectory, RunLocked

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from submitit.core.job_environment import SignalHandler

log = logging.getLogger(__name__)

LOCK_PATIENCE_S = 900.0
LOCK_POLL_S = 5.0
EARLY_S = 90
"""SLURM looks at time limits every 30 s and may send the warning up to a minute early."""


def listen() -> "SignalHandler":
    """Point submitit's signal and SIGTERM at the request to stop; returns submitit's handler, for :func:`go_back`.

    Raises:
        RuntimeError: this process was not started by submitit.
    """
    from submitit.core.job_environment import JobEnvironment, SignalHandler

    number = JobEnvironment._usr_sig()
    handler = getattr(signal.getsignal(number), "__self__", None)
    if not isinstance(handler, SignalHandler):
        raise RuntimeError("only a job that submitit started can be requeued by it")
    signal.signal(number, _request_stop)
    signal.signal(signal.SIGTERM, _request_stop)
    return handler


def _request_stop(number: int, frame: FrameType | None) -> None:
    interrupt.request_stop(signal.Signals(number).name)


def patiently(
    attempt: Callable[[], "JobReturn"], patience_s: float = LOCK_PATIENCE_S, poll_s: float = LOCK_POLL_S
) -> "JobReturn":
    """Run ``attempt``, again and again as long as a restarted job finds its run locked.

    A node whose slurmd died is given up by SLURM although its processes may live on; the restarted job then waits for
    them to end, or to finish the run.
    """
    deadline = time.monotonic() + patience_s
    while True:
        result = attempt()
        locked = isinstance(result._return_value, RunLocked)
        if (
            not (locked and environment.restarted() and time.monotonic() < deadline)
            or interrupt.stop_requested() is not None
        ):
            return result
        log.warning("%s; waiting", result._return_value)
        time.sleep(poll_s)


def go_back(handler: "SignalHandler", signal_delay_s: int) -> NoReturn:
    """End this process after its run was saved; the first process requeues the job unless SLURM is ending it anyway.

    Args:
        handler: what :func:`listen` returned.
        signal_delay_s: how long before its time limit a job is warned.

    Raises:
        submitit.core.utils.UncompletedJobError: the run has used up its time limit too often.
    """
    if handler.env.global_rank != 0:
        sys.exit(0)
    job = queue.details(handler.env.job_id)
    state = job.get("JobState", "unknown")
    # A job that is being cancelled must not come back; one that SLURM requeues comes back by itself.
    if state not in ("RUNNING", "unknown"):
        log.warning("saved; SLURM is ending this job (%s)", state)
        sys.exit(0)
    _requeue(handler, timed_out=is_timed_out(job, signal_delay_s))


def give_up(cfg: DictConfig, max_num_timeout: int) -> None:
    """Note in the run's record why a saved run is not requeued any more; its status stays KILLED: it can go on.

    Args:
        cfg: the config of the run, with or without its ``hydra`` node.
        max_num_timeout: how many times it could be requeued.
    """
    run = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    directory = RunDirectory(run.outputs, run.paper, fingerprint(run))
    if directory.path.exists():
        reason = f"time limit reached {max_num_timeout + 1} times (slurm.max_num_timeout={max_num_timeout})"
        directory.update(status=KILLED, reason=f"{reason}; the same command continues")


def is_timed_out(job: dict[str, str], signal_delay_s: int, now: float | None = None) -> bool:
    """Whether a job is stopped because its time limit is near, rather than preempted or signalled by hand.

    Args:
        job: fields of ``scontrol show job``.
        signal_delay_s: how long before its time limit a job is warned.
        now: seconds since the epoch.
    """
    if job.get("PreemptTime", "None") != "None":
        return False
    try:
        end = time.mktime(time.strptime(job["EndTime"], "%Y-%m-%dT%H:%M:%S"))
    except (KeyError, ValueError):
        return False
    return end - (time.time() if now is None else now) <= signal_delay_s + EARLY_S


def _requeue(handler: "SignalHandler", timed_out: bool) -> NoReturn:
    from submitit.core.job_environment import SignalHandler

    class Requeue(SignalHandler):
        """submitit's requeue; it guesses from the run time whether the limit was reached, SLURM knows."""

        def has_timed_out(self) -> bool:
            return timed_out

    requeue = Requeue(handler.env, handler._job_paths, handler._delayed)
    deadline = time.monotonic() + CONTROLLER_PATIENCE_S
    while True:
        try:
            requeue.checkpoint_and_try_requeue(handler.env._usr_sig())
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            if time.monotonic() > deadline:
                raise
            log.warning("SLURM does not take this job back yet (%s); asking again", error)
            time.sleep(CONTROLLER_PAUSE_S)


def rename(job: str, name: str, comment: str) -> None:
    """Give a task of an array its own name and comment in ``squeue``; no harm if the cluster does not allow it."""
    command = ["scontrol", "update", f"JobId={job}", f"JobName={name}", f"Comment={comment}"]
    try:
        subprocess.run(command, capture_output=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.info("job not renamed: %s", error)

"""What a run has to know of the SLURM job that it is part of."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curvature.errors import CurvatureError
from curvature.rundir import FINISHED, RunDirectory

FIRST_PATIENCE_S = 1200.0
"""Longer than a restarted job waits for the lock of its run."""


def plugins(configured: Any) -> Any:
    """``trainer.plugins`` for this process: as configured, else, in a SLURM job, an environment that never requeues.

    Lightning would requeue the job as well, without knowing of our checkpoints. This is no part of the config, because
    the fingerprint of a run must not depend on where it runs.

    Raises:
        CurvatureError: the job was started in a way in which its processes cannot find each other.
    """
    from pytorch_lightning.plugins.environments import SLURMEnvironment

    if configured is not None:
        return configured
    try:
        return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None
    except RuntimeError as error:
        raise CurvatureError(str(error)) from error


def restarted() -> bool:
    """Whether SLURM has started this job before."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or "0") > 0


def has_started_over(record: Mapping[str, Any]) -> bool:
    """Whether an earlier stretch of this job has done what ``force=true`` asks for, so that this one has to go on.

    Args:
        record: contents of ``run.json``.
    """
    return restarted() and record.get("status") != FINISHED


def stretch() -> str | None:
    """Names this start of the processes of a job: the same for all of them, another one after a requeue.

    None where no cluster has started them; Lightning then starts the others itself, once the first one trains.
    """
    job, step = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_STEP_ID")
    if job is None or step is None or "SLURM_PROCID" not in os.environ:
        return None
    return f"{job}.{step} start {os.environ.get('SLURM_RESTART_COUNT') or 0}"


def wait_for_first(
    directory: RunDirectory, force: bool, patience_s: float = FIRST_PATIENCE_S, poll_s: float = 0.2
) -> dict[str, Any]:
    """The run's record once the first process of this job trains, or has found the run finished.

    Until then it may wait for a lock, move an earlier run aside or decide that there is nothing to do. Whoever went
    on to meet it would hang, or start from another checkpoint.

    Args:
        directory: of the run; on a file system that the processes share.
        force: whether a finished run is to start over.
        patience_s: longest wait.
        poll_s: pause between two looks.

    Raises:
        CurvatureError: the first process does neither.
    """
    own, deadline = stretch(), time.monotonic() + patience_s
    while True:
        record = directory.read()
        if own is None or record.get("stretch") == own or (record.get("status") == FINISHED and not force):
            return record
        if time.monotonic() > deadline:
            raise CurvatureError(f"the first process of this job has not begun to train within {patience_s:.0f} s")
        time.sleep(poll_s)


def link_logs(directory: Path) -> None:
    """In a job of submitit, link standard output and error into ``<directory>/slurm/``.

    The logs themselves begin before the run is known, and several starts of a job share one.
    """
    if "SUBMITIT_FOLDER" not in os.environ or "SLURM_JOB_ID" not in os.environ:
        return
    from submitit.core.job_environment import JobEnvironment

    links, paths = (directory / "slurm").resolve(), JobEnvironment().paths
    links.mkdir(parents=True, exist_ok=True)
    for target in (paths.stdout, paths.stderr):
        if not (link := links / target.name).is_symlink():
            link.symlink_to(os.path.relpath(target.resolve(), links))

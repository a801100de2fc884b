"""What a run has to know of the SLURM job that it is part of."""

import os
from collections.abc import Mapping
from typing import Any

from curvature.errors import CurvatureError
from curvature.rundir import FINISHED


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

"""Names of jobs: what a person sees in ``squeue``."""

import re
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

LONGEST_COMMENT = 200


def paper_name(cfg: DictConfig) -> str:
    """The paper of a sweep, or the name of the Hydra job where a config knows no papers."""
    return str(OmegaConf.select(cfg, "paper") or OmegaConf.select(cfg, "hydra.job.name") or "job")


def labels(cfg: DictConfig, job_overrides: Sequence[Sequence[str]]) -> list[str]:
    """``<arm>-s<seed>`` for each job of a sweep.

    The arm is ``arm`` if it is set, else what distinguishes the job from the others. Nothing is composed here: that
    would take longer than the submission.

    Args:
        cfg: the config of the whole sweep.
        job_overrides: the override strings of each job.
    """
    jobs = [_as_dictionary(overrides) for overrides in job_overrides]
    common = set.intersection(*(set(job.items()) for job in jobs)) if len(jobs) > 1 else set()
    return [_label(cfg, job, common) for job in jobs]


def _as_dictionary(overrides: Sequence[str]) -> dict[str, str]:
    pairs = (override.lstrip("+").partition("=") for override in overrides)
    return {key: value for key, _, value in pairs}


def _label(cfg: DictConfig, job: dict[str, str], common: set[tuple[str, str]]) -> str:
    arm = job.get("arm") or OmegaConf.select(cfg, "arm")
    seed = job.get("seed") or OmegaConf.select(cfg, "seed")
    if arm is None:
        skipped = ("seed", "claim", "experiment", "hydra/launcher", "hydra/sweeper", "slurm")
        own = {k: v for k, v in job.items() if (k, v) not in common and k not in skipped and not k.startswith("slurm.")}
        arm = "-".join(v if "/" in k or k in ("model", "optimizer", "data") else f"{k}={v}" for k, v in own.items())
    label = f"{arm}-s{seed}" if seed is not None else str(arm)
    return clean(label.strip("-"))


def clean(name: str) -> str:
    """``name`` with everything that a shell, SLURM or a file name could trip over replaced by ``_``."""
    return re.sub(r"[^\w.=+-]+", "_", name).strip("_") or "job"


def comment(paper: str, job_labels: Sequence[str]) -> str:
    """What the jobs of an array are about, in at most 200 characters."""
    text = f"{paper}: {' '.join(job_labels)}"
    return text if len(text) <= LONGEST_COMMENT else text[: LONGEST_COMMENT - 3] + "..."

"""A sweep on SLURM from the launcher's side: leave out what is finished, submit the rest, wait, collect."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from curvature.cluster import names
from curvature.cluster.composer import Composer
from curvature.cluster.options import SlurmOptions, read_options
from curvature.cluster.outcome import JobFailed, Submitted
from curvature.cluster.submission import SubmittedJob, submit
from curvature.cluster.watch import Watch
from curvature.fingerprint import fingerprint
from curvature.rundir import FINISHED, RunDirectory

if TYPE_CHECKING:
    from rich.console import Console

    from hydra_plugins.curvature_slurm.launcher import SlurmLauncher

log = logging.getLogger(__name__)


def launch(launcher: "SlurmLauncher", job_overrides: Sequence[Sequence[str]], first_number: int) -> list[JobReturn]:
    """Run every job of a sweep on SLURM.

    Returns:
        One :class:`JobReturn` per job. The return value of a job that is only submitted, or left in the queue by
        Ctrl-C, is a :class:`curvature.cluster.outcome.Submitted`.

    Raises:
        ConfigError: a resource that cannot be had, before or at submission.
        curvature.cluster.watch.Cancelled: the user cancelled the jobs.
    """
    from rich.console import Console

    cfg = launcher.config
    assert cfg is not None
    console = Console()
    options = read_options(cfg)
    paper = names.paper_name(cfg)
    labels = names.labels(cfg, job_overrides)
    returns: dict[int, JobReturn] = finished_jobs(launcher, job_overrides)
    todo = [index for index in range(len(job_overrides)) if index not in returns]
    if returns:
        console.print(f"{len(returns)} of {len(job_overrides)} runs have finished before and are not submitted")
    if todo:
        warn_about_sqlite(cfg, options, len(todo))
        state = Singleton.get_state()
        arguments = [
            (list(job_overrides[i]), "hydra.sweep.dir", first_number + i, str(first_number + i), state, labels[i])
            for i in todo
        ]
        folder = Path(str(cfg.hydra.sweep.dir)) / "slurm"
        jobs = submit(launcher, arguments, [labels[i] for i in todo], paper, options, folder)
        _announce(console, jobs, options)
        left = [Submitted(job.job_id, job.log) for job in jobs]
        results = left if options.submit_only else Watch(jobs, options.poll_seconds, console).wait()
        for index, result in zip(todo, results, strict=True):
            returns[index] = _as_return(result, list(job_overrides[index]))
        _farewell(console, results)
    return [returns[index] for index in range(len(job_overrides))]


def _as_return(result: Any, overrides: list[str]) -> JobReturn:
    if isinstance(result, JobReturn):
        return result
    failed = isinstance(result, JobFailed)
    status = JobStatus.FAILED if failed else JobStatus.COMPLETED
    return JobReturn(overrides=overrides, status=status, _return_value=result)


def _announce(console: "Console", jobs: Sequence[SubmittedJob], options: SlurmOptions) -> None:
    arrays = " ".join(sorted({job.array for job in jobs}))
    console.print(f"submitted {len(jobs)} job(s) to SLURM: {arrays}", soft_wrap=True, highlight=False)
    console.print(f"logs           {os.path.relpath(jobs[0].folder)}", soft_wrap=True, highlight=False)
    if options.submit_only:
        console.print(f"not waiting    squeue -j {arrays.replace(' ', ',')}; afterwards: python report.py")


def _farewell(console: "Console", results: Sequence[Any]) -> None:
    failures = [result for result in results if isinstance(result, JobFailed)]
    for failure in failures[:10]:
        console.print(f"[red]failed[/red]: {failure}", soft_wrap=True, highlight=False)
    if len(failures) > 10:
        console.print(f"and {len(failures) - 10} more failed jobs")


def finished_jobs(launcher: "SlurmLauncher", job_overrides: Sequence[Sequence[str]]) -> dict[int, JobReturn]:
    """Results, by position, of the jobs whose run has finished already.

    Only those are looked at that could be finished: a run of the same seed must be. The claims sweeper has done this
    before, with what it knows.
    """
    cfg, context = launcher.config, launcher.hydra_context
    assert cfg is not None
    assert context is not None
    claims = "claims" in str(OmegaConf.select(cfg, "hydra.sweeper._target_")).lower()
    if claims or OmegaConf.select(cfg, "force") or not OmegaConf.select(cfg, "paper"):
        return {}
    seeds = _finished_seeds(Path(str(cfg.outputs)) / "runs")
    composer = Composer(context.config_loader, cfg)
    found: dict[int, JobReturn] = {}
    for index, overrides in enumerate(job_overrides if seeds else ()):
        own = dict(item.lstrip("+").partition("=")[::2] for item in overrides)
        if own.get("seed", str(OmegaConf.select(cfg, "seed"))) not in seeds:
            continue
        result = _finished(composer.compose(list(overrides)), list(overrides))
        if result is not None:
            found[index] = result
    return found


def _finished_seeds(runs: Path) -> set[str]:
    seeds = set()
    for path in runs.glob("*/*/run.json"):
        try:
            record = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if record.get("status") == FINISHED:
            seeds.add(str(record.get("seed")))
    return seeds


def _finished(cfg: DictConfig, overrides: list[str]) -> JobReturn | None:
    if cfg.get("force"):
        return None
    record = RunDirectory(cfg.outputs, cfg.paper, fingerprint(cfg)).read()
    if record.get("status") != FINISHED:
        return None
    value = record.get("metrics", {}).get(cfg.get("objective"))
    return JobReturn(overrides=overrides, cfg=cfg, status=JobStatus.COMPLETED, _return_value=value)


def warn_about_sqlite(cfg: DictConfig, options: SlurmOptions, jobs: int) -> None:
    """Say what to do where many nodes would write one SQLite file, which network file systems do not lock reliably."""
    if OmegaConf.select(cfg, "tracking") is None or (jobs == 1 and options.nodes == 1):
        return
    uri = OmegaConf.select(cfg, "tracking.uri") or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:"
    if str(uri).startswith("sqlite:"):
        log.warning(
            "MLflow's SQLite file would be written from several nodes; on a network file system that locks or breaks. "
            "Start a server (`mlflow server`, see slurm/README.md) and set MLFLOW_TRACKING_URI=http://<host>:<port>. "
            "Metrics are safe either way: each run directory has them in metrics.jsonl."
        )

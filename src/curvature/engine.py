"""From a resolved config to a finished run: validate, seed, instantiate, fit, test, summarise; resume by default.

The engine knows no paper by name. What a config must hold is in :mod:`curvature.validation`; where a run writes is in
:mod:`curvature.rundir`.
"""

import contextlib
import logging
import math
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from curvature import console
from curvature.arguments import check_arguments
from curvature.callbacks import interrupt
from curvature.cluster import environment
from curvature.errors import CurvatureError
from curvature.fingerprint import fingerprint, processes
from curvature.rundir import FAILED, FINISHED, KILLED, RUNNING, RunDirectory, write_atomically
from curvature.validation import check_limits, validate

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from curvature.data.stream import StreamedDataModule
    from curvature.tracking import NullTracker, Tracker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """What one call of :func:`run` came to.

    Attributes:
        fingerprint: content address of the run.
        directory: where it wrote.
        status: FINISHED; on processes other than the first RUNNING, or KILLED after a stop.
        metrics: final metrics by name.
        mlflow_run_id: None while no tracking server could be reached.
        trained: False when the run had finished before.
    """

    fingerprint: str
    directory: Path
    status: str
    metrics: dict[str, float] = field(default_factory=dict)
    mlflow_run_id: str | None = None
    trained: bool = True


def run(cfg: DictConfig) -> RunResult:
    """Carry out the run that ``cfg`` describes, or recognise that it has been done.

    Raises:
        ConfigError: the config cannot work; nothing was spent and nothing remote was started.
        curvature.rundir.RunLocked: another process is training this run.
        curvature.callbacks.interrupt.Interrupted: stopped by a signal; the same call continues.
        curvature.callbacks.divergence.Diverged: the loss became NaN or infinite.
    """
    validate(cfg)
    # Processes that a cluster has started together stop together, at a batch boundary: one alone would be waited for.
    together = processes(cfg) > 1 and environment.stretch() is not None
    if not together and (reason := interrupt.stop_requested()) is not None:
        raise interrupt.Interrupted(reason)
    address = fingerprint(cfg)
    directory = RunDirectory(cfg.outputs, cfg.paper, address)
    if global_rank() != 0:
        return _follow(cfg, directory)
    with directory.locked(), interrupt.handled():
        record = directory.read()
        if record.get("status") == FINISHED and not cfg.force:
            console.already_finished(directory.path, record, _tracking_uri(cfg))
            metrics, run_id = record.get("metrics", {}), record.get("mlflow_run_id")
            return RunResult(address, directory.path, FINISHED, metrics, run_id, trained=False)
        return _lead(cfg, directory)


def global_rank() -> int:
    """Rank of this process among those of the run, from the launcher's environment; 0 if there is only one."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        return int(os.environ["SLURM_PROCID"])
    return int(os.environ.get("NODE_RANK", "0")) * 1_000_000 + int(os.environ.get("LOCAL_RANK", "0"))


@dataclass
class _Parts:
    """Everything instantiated from one config."""

    datamodule: "StreamedDataModule"
    module: "pl.LightningModule"
    callbacks: list[Any]


def _lead(cfg: DictConfig, directory: RunDirectory) -> RunResult:
    from curvature.tracking import Tracker

    parts = _build(cfg)
    arm = console.arm_name(cfg)
    resolved = OmegaConf.to_container(cfg, resolve=True)
    tracker = Tracker(
        directory.path,
        _tracking_uri(cfg),
        experiment=cfg.paper,
        run_name=f"{arm}-s{cfg.seed}",
        tags=_tags(cfg, arm, directory.fingerprint),
        params=_flatten(resolved),
        flush_seconds=cfg.tracking.flush_seconds,
    )
    trainer = _trainer(cfg, parts, directory, tracker)
    if cfg.force and directory.path.exists() and not environment.has_started_over(directory.read()):
        _supersede(cfg, directory)
    attempt = int(directory.read().get("attempt", 0)) + 1
    write_atomically(directory.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(resolved)))
    directory.update(
        paper=cfg.paper,
        arm=arm,
        seed=cfg.seed,
        scale=cfg.scale,
        fingerprint=directory.fingerprint,
        status=RUNNING,
        attempt=attempt,
        reason=None,
        stretch=environment.stretch(),
    )
    started = time.monotonic()
    try:
        environment.link_logs(directory.path)
        console.plan(cfg, arm, directory.path, parts.module, parts.datamodule, resuming=attempt > 1)
        tracker.start()
        tracker.log_artifact(directory.path / "config.yaml")
        metrics = _train_and_test(cfg, parts, trainer, directory, tracker)
        for path in sorted(directory.artifacts.rglob("*")):
            if path.is_file():
                tracker.log_artifact(path, str(path.parent.relative_to(directory.artifacts)).strip("."))
    except BaseException as error:
        status = KILLED if isinstance(error, interrupt.Interrupted | KeyboardInterrupt) else FAILED
        reason = str(error) or type(error).__name__
        try:
            directory.update(status=status, reason=reason)
        except OSError as unwritable:
            log.error("%s cannot be written: %s", directory.path, unwritable)
            raise error from None
        tracker.finish(status, timeout_s=cfg.tracking.finish_seconds)
        directory.update(mlflow_run_id=tracker.run_id)
        console.stopped(status, reason, directory.path, tracker.uri)
        raise
    directory.update(status=FINISHED, metrics=metrics, seconds=time.monotonic() - started)
    delivered = tracker.finish(FINISHED, timeout_s=cfg.tracking.finish_seconds)
    directory.update(mlflow_run_id=tracker.run_id)
    console.summary(cfg, arm, metrics, directory.path, tracker.run_id, tracker.uri, delivered)
    return RunResult(directory.fingerprint, directory.path, FINISHED, metrics, tracker.run_id)


def _tracking_uri(cfg: DictConfig) -> str:
    from curvature.tracking import default_uri

    return str(cfg.tracking.uri or default_uri(Path(cfg.outputs)))


def _follow(cfg: DictConfig, directory: RunDirectory) -> RunResult:
    from curvature.tracking import NullTracker

    with interrupt.handled():
        parts, tracker = _build(cfg), NullTracker()
        record = environment.wait_for_first(directory, cfg.force)
        if record.get("status") == FINISHED and not cfg.force:
            # The first process will not train either: nobody would answer.
            return RunResult(directory.fingerprint, directory.path, FINISHED, record.get("metrics", {}), trained=False)
        try:
            _train_and_test(cfg, parts, _trainer(cfg, parts, directory, tracker), directory, tracker)
        except interrupt.Interrupted:
            # The first process says so; a failure here would end it before it has written everything down.
            return RunResult(directory.fingerprint, directory.path, KILLED)
    return RunResult(directory.fingerprint, directory.path, RUNNING)


def _build(cfg: DictConfig) -> _Parts:
    """Seed, then instantiate data, module and callbacks, in this order, so that the seed alone decides the weights."""
    import pytorch_lightning as pl
    import torch
    from hydra.utils import instantiate

    _quieten()
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    if cfg.matmul_precision is not None:
        torch.set_float32_matmul_precision(cfg.matmul_precision)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    with _config_errors():
        for part in ("data", "module", "callbacks"):
            check_arguments(cfg[part], part)
        datamodule = instantiate(cfg.data)
        datamodule.prepare_data()
        datamodule.setup("fit")
        pl.seed_everything(cfg.seed, workers=True, verbose=False)
        module = instantiate(cfg.module)
        callbacks = [instantiate(item) for item in (cfg.callbacks or {}).values() if item is not None]
        check = getattr(module, "check_data", None)
        if check is not None:
            _call(check, datamodule, processes(cfg))
        check_limits(cfg, datamodule)
    return _Parts(datamodule, module, callbacks)


def _call(check: Callable[..., None], *arguments: Any) -> None:
    """A module's own check; whatever it trips over is a config that cannot work."""
    try:
        check(*arguments)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CurvatureError(f"module and data of this config do not fit together: {reason}") from error


def _trainer(cfg: DictConfig, parts: _Parts, directory: RunDirectory, tracker: "Tracker | NullTracker") -> "pl.Trainer":
    import pytorch_lightning as pl

    from curvature.callbacks.checkpoint import ResumableCheckpoint
    from curvature.callbacks.divergence import StopOnDivergence, check_weights
    from curvature.callbacks.progress import ProgressBar
    from curvature.tracking.lightning import RunLogger

    divergence = StopOnDivergence()

    def before_save() -> None:
        divergence.check()
        check_weights(parts.module, parts.module.global_step)
        tracker.sync()

    checkpoint = ResumableCheckpoint(directory.checkpoints, cfg.checkpoint.every_n_steps, before_save)
    own: list[Any] = [divergence, checkpoint]
    options = OmegaConf.to_container(cfg.trainer, resolve=True)
    assert isinstance(options, dict)
    options["plugins"] = environment.plugins(options.get("plugins"))
    if options.get("enable_progress_bar", True):
        own.append(ProgressBar())
    with _config_errors():
        try:
            return pl.Trainer(
                **_trainer_options(options),
                max_epochs=1,
                logger=RunLogger(tracker),
                callbacks=[*own, *parts.callbacks],
                enable_checkpointing=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,
                default_root_dir=str(directory.path),
            )
        except (ValueError, TypeError, RuntimeError) as error:
            raise CurvatureError(f"trainer: {error}") from error


def _train_and_test(
    cfg: DictConfig,
    parts: _Parts,
    trainer: "pl.Trainer",
    directory: RunDirectory,
    tracker: "Tracker | NullTracker",
) -> dict[str, float]:
    from curvature.callbacks.checkpoint import ResumableCheckpoint, latest_intact
    from curvature.callbacks.divergence import Diverged

    resume_from, damaged = latest_intact(directory.checkpoints)
    for path in damaged:
        fallback = f"continuing from {resume_from.name}" if resume_from else "starting from the beginning"
        log.warning("checkpoint %s is damaged; %s", path, fallback)
    done = _batches_done(resume_from) if resume_from is not None else 0
    parts.datamodule.stream(cfg.max_steps, done)
    # Lightning would convert it only after loading, and round float64 weights to float32 on the way.
    trainer.precision_plugin.convert_module(parts.module)
    with _config_errors():
        trainer.fit(
            parts.module,
            datamodule=parts.datamodule,
            ckpt_path=str(resume_from) if resume_from else None,
            weights_only=True if resume_from else None,
        )
    (checkpoint,) = (item for item in trainer.callbacks if isinstance(item, ResumableCheckpoint))  # type: ignore[attr-defined]
    metrics = checkpoint.metrics | _as_floats(trainer.callback_metrics)
    if getattr(parts.module, "test_step", None) is not None and cfg.test:
        with _config_errors():
            trainer.test(parts.module, datamodule=parts.datamodule, verbose=False)
        metrics |= _as_floats(trainer.callback_metrics)
    for callback in parts.callbacks:
        metrics |= _as_floats(getattr(callback, "results", {}))
    metrics |= _as_floats(getattr(parts.module, "results", {}))
    tracker.log_metrics(metrics, trainer.global_step)
    for name in ("val/loss", "test/loss"):
        if not math.isfinite(metrics.get(name, 0.0)):
            raise Diverged(trainer.global_step, name)
    if trainer.is_global_zero:
        directory.checkpoints.mkdir(parents=True, exist_ok=True)
        _save_weights(parts.module, directory.checkpoints / "weights.pt")
    return metrics


def _trainer_options(options: dict[Any, Any]) -> dict[str, Any]:
    """Trainer keyword arguments; plugins and strategies given as ``_target_`` are instantiated."""
    from hydra.utils import instantiate

    return {
        str(key): instantiate(value) if isinstance(value, dict | list) and "_target_" in str(value) else value
        for key, value in options.items()
        if key != "_target_"
    }


def _batches_done(checkpoint: Path) -> int:
    import torch

    return int(torch.load(checkpoint, weights_only=True, map_location="cpu")["curvature"]["batches"])


def _save_weights(module: "pl.LightningModule", path: Path) -> None:
    import torch

    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as stream:
            torch.save(module.state_dict(), stream)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _as_floats(metrics: Any) -> dict[str, float]:
    return {str(name): float(value) for name, value in metrics.items()}


def _supersede(cfg: DictConfig, directory: RunDirectory) -> None:
    from curvature.tracking import deliver, supersede

    supersede(directory.path)
    try:
        deliver(directory.set_aside(), cfg.tracking.uri)
    except Exception as error:
        log.warning("MLflow does not know yet that the earlier run is superseded (%s); report.py will tell it", error)


def _tags(cfg: DictConfig, arm: str, address: str) -> dict[str, str]:
    from curvature.tracking.provenance import provenance

    tags = {"paper": cfg.paper, "arm": arm, "seed": str(cfg.seed), "scale": cfg.scale, "fingerprint": address}
    return tags | provenance()


def _flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix[:-1]: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flatten(value, f"{prefix}{key}.")
    return flat


@contextlib.contextmanager
def _config_errors() -> Any:
    """Turn what Hydra and Lightning say of unusable arguments into one error for the user."""
    from hydra.errors import InstantiationException

    try:
        yield
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, CurvatureError):
            raise cause from None
        if isinstance(cause, TypeError | ValueError | ImportError | AttributeError | ArithmeticError):
            part = str(error).splitlines()[-1].strip().removeprefix("full_key: ") or "config"
            raise CurvatureError(f"{part} cannot be built: {cause}") from cause
        raise
    except Exception as error:
        if type(error).__name__ == "MisconfigurationException":
            raise CurvatureError(f"trainer: {error}") from error
        if type(error).__name__ in ("_LinAlgError", "ArpackError"):
            raise CurvatureError(f"a decomposition failed, as it does when weights diverge: {error}") from error
        raise


def _quieten() -> None:
    """Silence library chatter that a user can do nothing about."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*dataloader is not.*resumable.*",
        ".*`srun` command is available.*",
        ".*isinstance.treespec, LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", message=message)

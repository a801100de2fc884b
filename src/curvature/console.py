"""What a run says to the person who started it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from curvature.fingerprint import processes

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from rich.console import Console

ACCURACIES = ("accuracy", "active", "fraction")


def arm_name(cfg: DictConfig) -> str:
    """The arm's label: ``arm`` if set, else the choices of model and optimiser of the Hydra job, else ``run``."""
    from hydra.core.hydra_config import HydraConfig

    if cfg.arm:
        return str(cfg.arm)
    if not HydraConfig.initialized():
        return "run"
    choices = HydraConfig.get().runtime.choices
    named = [str(choices[group]) for group in ("model", "optimizer") if choices.get(group)]
    return "-".join(named) or "run"


def plan(
    cfg: DictConfig,
    arm: str,
    directory: Path,
    module: "pl.LightningModule",
    datamodule: "pl.LightningDataModule",
    resuming: bool,
) -> None:
    """Print what is about to happen."""
    parameters = sum(p.numel() for p in module.parameters())
    data = _target(cfg.data)
    sizes = [f"{name} {getattr(datamodule, name)}" for name in ("train_size", "val_size", "test_size")]
    rows = {
        "paper": f"{cfg.paper} ({cfg.scale} scale)",
        "arm": f"{arm}, seed {cfg.seed}",
        "data": f"{data} ({', '.join(sizes)})" if hasattr(datamodule, "train_size") else data,
        "model": f"{_target(cfg.get('model') or cfg.module)}, {parameters:,} parameters",
        "training": _training(cfg),
        "device": _device(cfg),
        "expected": cfg.cost or "unknown",
        "directory": _relative(directory),
    }
    if resuming:
        rows["resuming"] = "from the last checkpoint of this run"
    _table("run", rows)


def summary(
    cfg: DictConfig,
    arm: str,
    metrics: Mapping[str, float],
    directory: Path,
    run_id: str | None,
    uri: str,
    delivered: bool,
) -> None:
    """Print the final table and where to look next."""
    _metrics_table(f"{cfg.paper}: {arm}, seed {cfg.seed}", metrics)
    console = _console()
    console.print(f"training       {_training(cfg)}", soft_wrap=True, highlight=False)
    console.print(f"run directory  {_relative(directory)}", soft_wrap=True)
    console.print(f"MLflow run     {run_id or 'not delivered yet'}", soft_wrap=True)
    if not delivered:
        console.print("[yellow]part of the log is still on disk: the next run or report.py delivers it[/yellow]")
    _browse(console, uri)


def _browse(console: "Console", uri: str) -> None:
    from curvature.tracking import ui_command

    console.print(f"browse         {ui_command(uri)}", soft_wrap=True)


def already_finished(directory: Path, record: Mapping[str, Any], uri: str) -> None:
    """Print the results of a run that needs no repeat."""
    title = f"{record.get('paper')}: {record.get('arm')}, seed {record.get('seed')}: already finished"
    _metrics_table(title, record.get("metrics", {}))
    console = _console()
    console.print(f"run directory  {_relative(directory)}", soft_wrap=True)
    console.print(f"MLflow run     {record.get('mlflow_run_id')}", soft_wrap=True)
    _browse(console, uri)
    console.print("nothing was trained; force=true starts over")


def stopped(status: str, reason: str, directory: Path, uri: str) -> None:
    """Print how an unfinished run ended."""
    console = _console()
    console.print(f"[yellow]{status}[/yellow]: {reason}\nrun directory  {_relative(directory)}", soft_wrap=True)
    _browse(console, uri)


def _metrics_table(title: str, metrics: Mapping[str, float]) -> None:
    from rich.table import Table

    table = Table("metric")
    table.add_column("value", justify="right")
    for name in sorted(metrics):
        table.add_row(name, f"{metrics[name]:.4g}")
    console = _console()
    console.print(title, style="italic", soft_wrap=True)
    console.print(table)


def _table(title: str, rows: Mapping[str, str]) -> None:
    from rich.table import Table

    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, value)
    _console().print(table)


def _console() -> "Console":
    from rich.console import Console

    return Console()


def _target(node: Any) -> str:
    return str(node.get("name") or node["_target_"].rsplit(".", 1)[-1])


def _training(cfg: DictConfig) -> str:
    return f"{cfg.max_steps} steps{_batches(cfg)}"


def _batches(cfg: DictConfig) -> str:
    size, count = cfg.data.get("batch_size"), processes(cfg)
    rate = f", learning rate {cfg.lr:g}"
    if not size:
        return rate
    if count == 1:
        return f", global batch {size}{rate}"
    return f", effective batch {size} ({count} processes x {size // count}){rate} (not scaled with processes)"


def _device(cfg: DictConfig) -> str:
    import torch

    trainer = cfg.trainer
    if trainer.accelerator == "cpu" or not torch.cuda.is_available():
        name = f"CPU, {torch.get_num_threads()} thread(s)"
    else:
        name = torch.cuda.get_device_name()
    processes = f"{trainer.num_nodes} node(s) x {trainer.devices} device(s)"
    return f"{name}; {processes}"


def _relative(path: Path) -> str:
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else str(path)

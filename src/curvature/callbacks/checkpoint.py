"""Checkpoints from which a run continues bit for bit."""

import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from curvature.callbacks import interrupt

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


class ResumableCheckpoint(pl.Callback):
    """Saves at batch boundaries: periodically, and at once when a stop is requested.

    A checkpoint is taken at the start of a batch, before it is used, so that everything the batch before it caused
    (optimiser step, schedule, validation) is inside and nothing else is. Generator states are restored right before
    the first batch of the resumed run; the number of batches used goes to ``datamodule.stream``.

    Args:
        directory: where ``last.ckpt`` and ``previous.ckpt`` are written.
        every_n_steps: period in optimiser steps; at least 1.
        before_save: called right before each save, e.g. to force the metrics written so far to disk.
        agree_every_n_steps: with several processes, how often they agree on whether to stop; the first time at once.

    Attributes:
        metrics: what had been reported when the checkpoint was taken from which this process started; the last
            validation may lie before it.
    """

    def __init__(
        self, directory: Path, every_n_steps: int, before_save: Any = None, agree_every_n_steps: int = 8
    ) -> None:
        self.directory = directory
        self.every_n_steps = every_n_steps
        self.before_save = before_save
        self.agree_every_n_steps = agree_every_n_steps
        self.metrics: dict[str, float] = {}
        self._saved_step = self._first_step = -1
        self._generators: dict[str, Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        interrupt.install()
        self._saved_step = self._first_step = trainer.global_step

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        if self._generators is not None:
            restore_generators(self._generators)
            self._generators = None
        step = trainer.global_step
        reason = self._stop_reason(trainer, step)
        due = step % self.every_n_steps == 0 and step > self._saved_step
        if due or (reason is not None and step > self._saved_step):
            self._save(trainer, step)
        if reason is not None:
            raise interrupt.Interrupted(reason, step)

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int, dataloader_idx: int = 0
    ) -> None:
        if trainer.world_size == 1 and (reason := interrupt.stop_requested()) is not None:
            raise interrupt.Interrupted(reason, self._saved_step)

    def _stop_reason(self, trainer: pl.Trainer, step: int) -> str | None:
        reason = interrupt.stop_requested()
        if trainer.world_size == 1:
            return reason
        if step % self.agree_every_n_steps and step != self._first_step:
            return None
        stop = trainer.strategy.reduce_boolean_decision(reason is not None, all=False)
        return (reason or "another process") if stop else None

    def _save(self, trainer: pl.Trainer, step: int) -> None:
        if self.before_save is not None:
            self.before_save()
        if trainer.is_global_zero:
            self.directory.mkdir(parents=True, exist_ok=True)
        temporary = self.directory / f"{LAST}.tmp"
        try:
            trainer.save_checkpoint(temporary)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            # The name in the error is that of a file Lightning writes elsewhere first.
            raise OSError(error.errno, error.strerror or str(error), str(temporary)) from error
        self._saved_step = step
        if not trainer.is_global_zero:
            return
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        last = self.directory / LAST
        if last.exists():
            last.replace(self.directory / PREVIOUS)
        temporary.replace(last)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.completed
        # The batch about to begin has been counted as ready; in the checkpoint nothing of it must remain.
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts["ready"] = counts["completed"]
        checkpoint["curvature"] = {
            "batches": batches,
            "generators": generator_states(),
            "metrics": self.metrics | {name: float(value) for name, value in trainer.callback_metrics.items()},
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._generators = checkpoint["curvature"]["generators"]
        self.metrics = checkpoint["curvature"].get("metrics", {})


def generator_states() -> dict[str, Any]:
    """States of the python, numpy, torch and (if initialised) CUDA generators, as tensors, numbers and containers."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_generators(states: dict[str, Any]) -> None:
    """Inverse of :func:`generator_states`."""
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, numbers, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, numbers.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def is_intact(path: Path) -> bool:
    """Whether ``path`` is a complete checkpoint of ours: every stored checksum holds, and it says where the data is."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return False
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return isinstance(content["curvature"]["batches"], int)
    except (OSError, zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError):
        return False


def latest_intact(directory: Path) -> tuple[Path | None, list[Path]]:
    """The newest usable checkpoint of ``directory`` (None if there is none) and the damaged ones passed over."""
    damaged: list[Path] = []
    for path in (directory / LAST, directory / PREVIOUS):
        if not path.exists():
            continue
        if is_intact(path):
            return path, damaged
        damaged.append(path)
    return None, damaged

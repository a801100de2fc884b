"""How long an optimiser step takes, and against the plain step of the same model in the same run."""

import copy
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch

from curvature.errors import ConfigError


class StepTime(pl.Callback):
    """Sets ``results["time/step_ms"]``, the mean wall time of a training step (first to last batch, with
    validation and checkpoints in between), at the end of training.

    With ``compare`` and an optimiser that wraps a base optimiser (its factory has ``base_optimizer``), also
    ``results[name]``: the median ratio of a wrapped step to a plain base-optimiser step, from interleaved repetitions
    on copies of the trained model, in the trainer's precision and without communication of gradients, on the images of
    one perturbation: the batch of one device, or ``pl_module.m`` of them if that is less.

    Args:
        compare: measure the ratio.
        repetitions: number of interleaved pairs; the first fifth is warm-up.
        name: metric name of the ratio.

    Raises:
        ConfigError: ``repetitions`` below 1.
    """

    def __init__(self, compare: bool = True, repetitions: int = 40, name: str = "time/sam_over_plain") -> None:
        if repetitions < 1:
            raise ConfigError("callbacks.step_time.repetitions", repetitions, "an integer >= 1")
        self.compare = compare
        self.repetitions = repetitions
        self.name = name
        self.results: dict[str, float] = {}
        self._started: tuple[float, int] | None = None
        self._last: tuple[float, int] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = self._last = time.perf_counter(), trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # What other callbacks measure at the end of training is not part of a step.
        self._last = time.perf_counter(), trainer.global_step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._started is not None and self._last is not None and self._last[1] > self._started[1]:
            seconds, steps = self._last[0] - self._started[0], self._last[1] - self._started[1]
            self.results["time/step_ms"] = 1000.0 * seconds / steps
        factory: Any = getattr(pl_module, "optimizer_factory", None)
        wrapped = isinstance(factory, partial) and "base_optimizer" in factory.keywords
        if self.compare and wrapped:  # on every process: an optimiser that averages would wait for the others
            self.results[self.name] = self._ratio(trainer, pl_module, factory)

    def _ratio(self, trainer: pl.Trainer, pl_module: Any, factory: Any) -> float:
        local = trainer.datamodule.batch_size // trainer.world_size  # type: ignore[attr-defined]
        size = min(local, getattr(pl_module, "m", None) or local)
        inputs, labels = trainer.datamodule.measurement_batches(size, "train", size)[0]  # type: ignore[attr-defined]
        inputs, labels = inputs.to(pl_module.device), labels.to(pl_module.device)
        base = factory.keywords["base_optimizer"]
        with torch.random.fork_rng(enabled=True):
            steps = [self._stepper(trainer, pl_module, make, inputs, labels) for make in (base, factory)]
            times = [[_timed(step) for step in steps] for _ in range(self.repetitions)]
        kept = times[self.repetitions // 5 :]
        return statistics.median(wrapped / plain for plain, wrapped in kept)

    @staticmethod
    def _stepper(
        trainer: pl.Trainer, pl_module: Any, make: Callable[..., Any], inputs: torch.Tensor, labels: torch.Tensor
    ) -> Callable[[], None]:
        model = copy.deepcopy(pl_module.model).train()
        optimizer = make(list(model.named_parameters()))

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            with trainer.precision_plugin.forward_context():
                loss: torch.Tensor = pl_module.criterion(model(inputs), labels)
            loss.backward()
            return loss

        def step() -> None:
            with torch.enable_grad():
                optimizer.step(closure)

        return step


def _timed(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start

"""Supervised training with manual optimisation, whatever the task and its metrics are."""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from curvature.errors import ConfigError, CurvatureError


class Supervised(pl.LightningModule):
    """Training of ``model`` on batches (inputs, targets); subclasses validate and test.

    Args:
        model: maps inputs to what ``criterion`` compares with targets.
        optimizer: factory taking named parameters.
        schedule: factory taking the optimiser and ``max_steps``; it is stepped after every optimiser step.
        criterion: mean loss of (outputs, targets).
        max_steps: optimiser steps of the whole run.
        max_grad_norm: clip the global gradient norm to this value; None does not clip.

    Raises:
        ConfigError: ``optimizer`` or ``schedule`` is not a factory.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[..., Optimizer],
        schedule: Callable[..., LRScheduler],
        criterion: nn.Module,
        max_steps: int,
        max_grad_norm: float | None = None,
    ) -> None:
        super().__init__()
        for name, factory in (("optimizer", optimizer), ("schedule", schedule)):
            if not callable(factory):
                raise ConfigError(f"module.{name}", factory, "a factory; its config needs _target_ and _partial_: true")
        self.automatic_optimization = False
        self.model = model
        self.optimizer_factory = optimizer
        self.schedule_factory = schedule
        self.criterion = criterion
        self.max_steps = max_steps
        self.max_grad_norm = max_grad_norm

    def forward(self, inputs: Any) -> Any:
        return self.model(inputs)

    def check_data(self, datamodule: Any, processes: int = 1) -> None:
        """Raises ConfigError if the model does not fit the data, or optimiser or schedule cannot be built.

        Args:
            datamodule: its ``batch_size`` is the global batch.
            processes: devices the batch is divided among.
        """
        try:
            self.configure_optimizers()
        except (TypeError, ValueError) as error:
            raise CurvatureError(f"optimizer cannot be built with its schedule: {error}") from error
        self._check_model(datamodule)

    @torch.no_grad()
    def _check_model(self, datamodule: Any) -> None:
        inputs, targets = datamodule.measurement_batches(1, "train", 1)[0]
        example = inputs if inputs.dtype == torch.int64 else inputs.to(next(self.model.parameters()).dtype)
        training = self.model.training
        try:
            outputs = self.model.eval()(example)
        except (RuntimeError, ValueError, AssertionError) as error:
            name = type(self.model).__name__
            raise ConfigError("model", name, f"a network for inputs of shape {tuple(inputs.shape[1:])}") from error
        finally:
            self.model.train(training)
        self.check_outputs(outputs, targets, datamodule)

    def check_outputs(self, outputs: Any, targets: Any, datamodule: Any) -> None:
        """Raises ConfigError if what the model returns for one example does not fit the data.

        Args:
            outputs: of the model, for a batch of one.
            targets: of that batch.
            datamodule: where it is from.
        """
        raise NotImplementedError

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer_factory(self.model.named_parameters())
        return [optimizer], [self.schedule_factory(optimizer, max_steps=self.max_steps)]

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = self.optimizer_step(*batch)
        self.lr_schedulers().step()  # type: ignore[union-attr]
        self.log_step({"train/loss": loss})
        return loss

    def optimizer_step(self, inputs: Any, targets: Any) -> torch.Tensor:  # type: ignore[override]
        """One update of the weights on one batch; returns the detached mean loss at the weights before it."""
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        loss = self.training_loss(inputs, targets)
        self.manual_backward(loss)
        if self.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm, foreach=True)
        self.update(optimizer, loss.detach())
        return loss.detach()

    def update(self, optimizer: Any, loss: torch.Tensor) -> None:
        """The optimiser's step, once gradients are there; ``loss`` is that of the batch."""
        optimizer.step()

    def training_loss(self, inputs: Any, targets: Any) -> torch.Tensor:
        """Mean loss of a training batch."""
        loss: torch.Tensor = self.criterion(self(inputs), targets)
        return loss

    def log_step(self, values: dict[str, torch.Tensor]) -> None:
        """Log scalars of this optimiser step, every ``trainer.log_every_n_steps`` steps: the only host sync."""
        step = self.trainer.global_step
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step % every or self.logger is None:
            return
        metrics = {name: float(value) for name, value in values.items()}
        metrics["train/lr"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.logger.log_metrics(metrics, step)

    def report(self, metrics: dict[str, torch.Tensor]) -> None:
        """Hand the metrics of a validation or test to Lightning and to the logger."""
        self.log_dict(metrics, logger=False)
        if self.logger is not None:
            self.logger.log_metrics({name: float(value) for name, value in metrics.items()}, self.trainer.global_step)

"""Supervised classification with manual optimisation: what the image papers share."""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric

from curvature.errors import ConfigError, CurvatureError


class Classifier(pl.LightningModule):
    """Cross-entropy training of ``model``; validation and test report accuracy and loss.

    The first test loader of the data module is the clean test split; the names of the further ones are in
    ``datamodule.test_names``. The accuracy on those in ``datamodule.corruption_names`` is ``test/corrupted/<name>``,
    their mean ``test/corrupted_accuracy``; on any other set it is ``test/shifted/<name>``.

    Args:
        model: maps inputs (B, ...) to logits (B, num_classes).
        optimizer: factory taking named parameters.
        schedule: factory taking the optimiser and ``max_steps``; it is stepped after every optimiser step.
        num_classes: number of classes.
        max_steps: optimiser steps of the whole run.
        max_grad_norm: clip the global gradient norm to this value; None does not clip.
        criterion: mean loss of (logits, labels); default cross-entropy.
        evaluation_criterion: loss of validation, test and measures; default ``criterion``.

    Raises:
        ConfigError: ``optimizer`` or ``schedule`` is not a factory.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[..., Optimizer],
        schedule: Callable[..., LRScheduler],
        num_classes: int,
        max_steps: int,
        max_grad_norm: float | None = None,
        criterion: nn.Module | None = None,
        evaluation_criterion: nn.Module | None = None,
    ) -> None:
        super().__init__()
        for name, factory in (("optimizer", optimizer), ("schedule", schedule)):
            if not callable(factory):
                raise ConfigError(f"module.{name}", factory, "a factory; its config needs _target_ and _partial_: true")
        self.automatic_optimization = False
        self.model = model
        self.optimizer_factory = optimizer
        self.schedule_factory = schedule
        self.max_steps = max_steps
        self.max_grad_norm = max_grad_norm
        self.criterion = criterion if criterion is not None else nn.CrossEntropyLoss()
        self.evaluation_criterion = evaluation_criterion if evaluation_criterion is not None else self.criterion
        self.num_classes = num_classes
        self._metrics = nn.ModuleDict()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(inputs)
        return logits

    def check_data(self, datamodule: Any, processes: int = 1) -> None:
        """Raises ConfigError if the model does not fit the data, or optimiser or schedule cannot be built.

        Args:
            datamodule: its ``batch_size`` is the global batch.
            processes: devices the batch is divided among.
        """
        try:
            self.configure_optimizers()
        except (TypeError, ValueError) as error:
            raise CurvatureError(f"no optimizer with its schedule can be built of this config: {error}") from error
        self._check_model(datamodule)

    @torch.no_grad()
    def _check_model(self, datamodule: Any) -> None:
        inputs = datamodule.measurement_batches(1, "train", 1)[0][0]
        example = inputs if inputs.dtype == torch.int64 else inputs.to(next(self.model.parameters()).dtype)
        training = self.model.training
        try:
            width = self.model.eval()(example).shape[-1]
        except (RuntimeError, ValueError, AssertionError) as error:
            name = type(self.model).__name__
            raise ConfigError("model", name, f"a network for inputs of shape {tuple(inputs.shape[1:])}") from error
        finally:
            self.model.train(training)
        if width < datamodule.num_classes:
            raise ConfigError("model.num_classes", width, f"at least {datamodule.num_classes}, the classes of the data")

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer_factory(self.model.named_parameters())
        return [optimizer], [self.schedule_factory(optimizer, max_steps=self.max_steps)]

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = self.optimizer_step(*batch)
        self.lr_schedulers().step()  # type: ignore[union-attr]
        self.log_step({"train/loss": loss})
        return loss

    def optimizer_step(self, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """One update of the weights on one batch; returns the detached mean loss at the weights before it."""
        optimizer = self.optimizers()
        optimizer.zero_grad()  # type: ignore[union-attr]
        loss = self.training_loss(inputs, labels)
        self.manual_backward(loss)
        if self.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm, foreach=True)
        optimizer.step()  # type: ignore[union-attr]
        return loss.detach()

    def training_loss(self, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean loss of a training batch."""
        loss: torch.Tensor = self.criterion(self.model(inputs), labels)
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

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def on_validation_epoch_end(self) -> None:
        self._report(self._compute("val"))

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if dataloader_idx == 0:
            self._evaluate("test", batch)
            return
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        name = datamodule.test_names[dataloader_idx]
        inputs, labels = batch
        kind = "corrupted" if name in datamodule.corruption_names else "shifted"
        metrics = self._metrics_of(f"test/{kind}/{name}")
        metrics["accuracy"].update(datamodule.correct(name, self.model(inputs), labels).float())

    def on_test_epoch_end(self) -> None:
        metrics = self._compute("test")
        corrupted = [v for name, v in metrics.items() if name.startswith("test/corrupted/")]
        if corrupted:
            metrics["test/corrupted_accuracy"] = torch.stack(corrupted).mean()
        self._report(metrics)

    def _report(self, metrics: dict[str, torch.Tensor]) -> None:
        self.log_dict(metrics, logger=False)
        if self.logger is not None:
            self.logger.log_metrics({name: float(value) for name, value in metrics.items()}, self.trainer.global_step)

    def _evaluate(self, prefix: str, batch: Any) -> None:
        inputs, labels = batch
        logits = self.model(inputs)
        metrics = self._metrics_of(prefix)
        metrics["accuracy"].update((logits.argmax(-1) == labels).float())
        metrics["loss"].update(self.evaluation_criterion(logits, labels), weight=len(labels))

    def _metrics_of(self, prefix: str) -> Any:
        key = prefix.replace(".", "_dot_")
        if key not in self._metrics:
            self._metrics[key] = nn.ModuleDict({"accuracy": MeanMetric(), "loss": MeanMetric()}).to(self.device)
        return self._metrics[key]

    def _compute(self, split: str) -> dict[str, torch.Tensor]:
        values: dict[str, torch.Tensor] = {}
        for key, metrics in self._metrics.items():
            prefix = key.replace("_dot_", ".")
            if prefix == split:
                values |= {f"{prefix}/{name}": metric.compute() for name, metric in metrics.items()}  # type: ignore
            elif prefix.startswith(f"{split}/"):
                values[prefix] = metrics["accuracy"].compute()  # type: ignore[index]
            else:
                continue
            for metric in metrics.values():  # type: ignore[operator]
                metric.reset()
        return values

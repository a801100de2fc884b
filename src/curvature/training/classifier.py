"""Supervised classification: what the image papers share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric

from curvature.errors import ConfigError
from curvature.training.supervised import Supervised


class Classifier(Supervised):
    """Cross-entropy training of ``model``; validation and test report accuracy and loss.

    The first test loader of the data module is the clean test split; the names of the further ones are in
    ``datamodule.test_names``. The accuracy on those in ``datamodule.corruption_names`` is ``test/corrupted/<name>``,
    their mean ``test/corrupted_accuracy``; on any other set it is ``test/shifted/<name>``.

    Args:
        model: maps inputs (B, ...) to logits (B, num_classes).
        num_classes: number of classes.
        criterion: mean loss of (logits, labels); default cross-entropy.
        evaluation_criterion: loss of validation, test and measures; default ``criterion``.
        optimizer, schedule, max_steps, max_grad_norm: see :class:`curvature.training.supervised.Supervised`.

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
        criterion = criterion if criterion is not None else nn.CrossEntropyLoss()
        super().__init__(model, optimizer, schedule, criterion, max_steps, max_grad_norm)
        self.evaluation_criterion = evaluation_criterion if evaluation_criterion is not None else criterion
        self.num_classes = num_classes
        self._metrics = nn.ModuleDict()

    def check_outputs(self, outputs: torch.Tensor, targets: torch.Tensor, datamodule: Any) -> None:
        width = outputs.shape[-1]
        if width < datamodule.num_classes:
            raise ConfigError("model.num_classes", width, f"at least {datamodule.num_classes}, the classes of the data")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def on_validation_epoch_end(self) -> None:
        self.report(self._compute("val"))

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
        self.report(metrics)

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

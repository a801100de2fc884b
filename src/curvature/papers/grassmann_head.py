"""Get the Best of Both Worlds: Improving Accuracy and Transferability by Grassmann Class Representation (2023)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from curvature.callbacks.subspaces import grassmann_head
from curvature.errors import ConfigError
from curvature.models.heads import MetricHead
from curvature.training.batches import drawn_from
from curvature.training.classifier import Classifier
from curvature.training.losses import SigmoidLoss

TRAININGS = ("learned", "frozen", "principal")


class GrassmannClassifier(Classifier):
    """Classification by a backbone and an exchangeable head (:class:`curvature.models.mlp.HeadedNetwork`).

    Heads of :class:`curvature.models.heads.MetricHead` train on their own loss with margin and predict without it. The
    gradient norm is clipped over all weights but the class subspaces. ``train/loss_first`` and ``train/loss_last``, the
    mean losses of the first and the last tenth of training, are set in ``results``.

    Args:
        subspaces: ``learned``; ``frozen`` at their random start; or ``principal``, frozen at the leading principal
            subspaces of each class's features before training. Only for a Grassmann head.
        mixing: maps a training batch (inputs, labels) to mixed inputs and soft labels (B, num_classes), e.g.
            ``torchvision.transforms.v2.MixUp``; its randomness is a function of ``mixing_seed``, step and process.
        mixing_seed: seed of the mixing, >= 0.
        **options: see :class:`curvature.training.classifier.Classifier`.

    Raises:
        ConfigError: an unknown value of ``subspaces``, or a sigmoid loss on logits that cannot be negative.
    """

    def __init__(
        self,
        subspaces: str = "learned",
        mixing: Callable[..., Any] | None = None,
        mixing_seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.mixing, self.mixing_seed = mixing, mixing_seed
        if mixing is not None and isinstance(getattr(self.model, "head", None), MetricHead):
            raise ConfigError("module.mixing", type(mixing).__name__, "null, for a loss that needs one label an image")
        if subspaces not in TRAININGS:
            raise ConfigError("module.subspaces", subspaces, f"one of {', '.join(TRAININGS)}")
        self.subspaces = subspaces
        self.grassmann = grassmann_head(self)
        if self.grassmann is None and subspaces != "learned":
            raise ConfigError("module.subspaces", subspaces, "learned, for a head without subspaces")
        if self.grassmann is not None:
            self.grassmann.subspaces.requires_grad_(subspaces == "learned")
            if isinstance(self.criterion, SigmoidLoss | nn.BCEWithLogitsLoss):
                allowed = "a softmax loss: logits of a Grassmann head are >= 0, which a sigmoid reads as at least 1/2"
                raise ConfigError("module.criterion", type(self.criterion).__name__, allowed)
        self._loss_sums: torch.Tensor
        self.register_buffer("_loss_sums", torch.zeros(2, 2))
        self.results: dict[str, float] = {}

    def on_fit_start(self) -> None:
        if self.subspaces == "principal":
            assert self.grassmann is not None
            datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            batches = datamodule.measurement_batches(datamodule.train_size, "train")
            model: Any = self.model
            model.eval()
            with torch.no_grad():
                features = torch.cat([model.features(inputs.to(self.device)) for inputs, _ in batches])
            model.train()
            self.grassmann.set_to_principal(features, torch.cat([labels for _, labels in batches]).to(self.device))

    def optimizer_step(self, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        loss = self.training_loss(*self._mixed(inputs, labels))
        if loss.requires_grad:
            self.manual_backward(loss)
            if self.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(self._clipped(), self.max_grad_norm, foreach=True)
        optimizer.step()
        return loss.detach()

    def training_loss(self, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean loss of a training batch, with the margin of the heads that have one."""
        model: Any = self.model
        if isinstance(getattr(model, "head", None), MetricHead):
            metric_loss: torch.Tensor = model.head.loss(model.features(inputs), labels)
            return metric_loss
        loss: torch.Tensor = self.criterion(self.model(inputs), labels)
        return loss

    def _mixed(self, inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.mixing is None:
            return inputs, labels
        step, rank = self.trainer.global_step, self.trainer.global_rank
        with drawn_from("mixing", self.mixing_seed, step, rank, device=inputs.device):
            mixed: tuple[torch.Tensor, torch.Tensor] = self.mixing(inputs, labels)
        return mixed

    def _clipped(self) -> list[torch.Tensor]:
        subspaces = self.grassmann.subspaces if self.grassmann is not None else None
        return [parameter for parameter in self.model.parameters() if parameter is not subspaces]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        tenth = max(1, self.max_steps // 10)
        step = self.trainer.global_step
        for row, inside in enumerate((step <= tenth, step > self.max_steps - tenth)):
            if inside:
                loss = outputs["loss"] if isinstance(outputs, dict) else outputs
                self._loss_sums[row] += torch.stack([loss.detach().float(), torch.ones_like(loss)])

    def on_train_end(self) -> None:
        for name, (total, count) in zip(("first", "last"), self._loss_sums.tolist(), strict=True):
            if count:
                self.results[f"train/loss_{name}"] = total / count

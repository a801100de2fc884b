"""Accuracy under attack, as a callback any classifier can use."""

from typing import Any

import pytorch_lightning as pl
import torch

from curvature.training.adversarial import ProjectedGradient
from curvature.training.batches import drawn_from


class AdversarialAccuracy(pl.Callback):
    """At the end of training, ``results`` holds ``test/adversarial_accuracy``: the share of attacked test images that
    ``pl_module.model`` classifies correctly.

    Args:
        attack: see :class:`curvature.training.adversarial.ProjectedGradient`.
        images: number of test images.
        seed: of the attack's random starts.

    Raises:
        ConfigError: before training, more images than the test split has.
    """

    def __init__(self, attack: ProjectedGradient, images: int = 1000, seed: int = 0) -> None:
        self.attack, self.images, self.seed = attack, images, seed
        self.results: dict[str, float] = {}

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            trainer.datamodule.check_count("callbacks.adversarial.images", self.images, "test")  # type: ignore[attr-defined]

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        model, training = pl_module.model, pl_module.model.training
        model.eval()
        right = 0
        for index, (images, labels) in enumerate(trainer.datamodule.measurement_batches(self.images, "test")):  # type: ignore[attr-defined]
            images, labels = images.to(pl_module.device), labels.to(pl_module.device)
            with drawn_from("attack", self.seed, index, device=pl_module.device):
                attacked = self.attack(model, torch.nn.CrossEntropyLoss(), images, labels)
            with torch.no_grad():
                right += int((model(attacked).argmax(-1) == labels).sum())
        model.train(training)
        self.results = {"test/adversarial_accuracy": right / self.images}

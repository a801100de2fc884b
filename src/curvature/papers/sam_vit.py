"""When Vision Transformers Outperform ResNets without Pre-training or Strong Data Augmentations (Chen et al. 2022)."""

from typing import Any

import torch

from curvature.errors import ConfigError
from curvature.optim import SAM
from curvature.training.classifier import Classifier


class SamViT(Classifier):
    """Classification with or without sharpness-aware minimisation; which one is the optimiser's business.

    With :class:`curvature.optim.SAM`, ``train/loss`` is the loss at the weights w and ``train/loss_perturbed`` the one
    at w + e. Batch-norm statistics come from the pass at w, both passes see the same dropout masks, and the gradient
    norm is clipped once, on the final direction.

    Args:
        m: images per perturbation (m-sharpness, Foret et al. 2021, section 4.1), independent of the number of devices;
            None is the batch of one device. It must divide that batch.
        **options: see :class:`curvature.training.classifier.Classifier`.
    """

    def __init__(self, m: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.m = m

    def check_data(self, datamodule: Any, processes: int = 1) -> None:
        """Raises ConfigError unless ``m`` divides the batch of one device; arguments as in the base class."""
        super().check_data(datamodule, processes)
        local = datamodule.batch_size // processes
        if self.m is not None and (self.m < 1 or local % self.m):
            raise ConfigError("module.m", self.m, f"a divisor of the batch per device, {local}")

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        perturbed = getattr(self.trainer.optimizers[0], "last_perturbed_loss", None)
        if perturbed is not None:
            self.log_step({"train/loss_perturbed": perturbed})
        return loss

    def optimizer_step(self, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        sam = optimizer.optimizer
        if not isinstance(sam, SAM):
            return super().optimizer_step(inputs, labels)
        size = self.m or len(inputs)
        chunks = list(zip(inputs.split(size), labels.split(size), strict=True))

        def closure() -> torch.Tensor:
            images, targets = chunks[sam.current_pass.chunk]
            with sam.scope(self.trainer.model):  # type: ignore[arg-type]
                loss = self.criterion(self.model(images), targets)
                self.manual_backward(loss)
            return loss.detach()

        loss: torch.Tensor = optimizer.step(closure, weights=[len(targets) for _, targets in chunks])
        return loss

"""When Vision Transformers Outperform ResNets without Pre-training or Strong Data Augmentations (Chen et al. 2022)."""

from collections.abc import Callable
from typing import Any

import torch

from curvature.errors import ConfigError
from curvature.optim import GSAM, SAM, consecutive_ranks
from curvature.optim.averaging import world_size
from curvature.training.adversarial import ProjectedGradient
from curvature.training.batches import drawn_from
from curvature.training.classifier import Classifier


class SamViT(Classifier):
    """Classification with or without sharpness-aware minimisation; which one is the optimiser's business.

    With :class:`curvature.optim.SAM`, ``train/loss`` is the loss at the weights w and ``train/loss_perturbed`` the one
    at w + e. Batch-norm statistics come from the pass at w, both passes see the same dropout masks, and the gradient
    norm is clipped once, on the final direction.

    Args:
        m: images per perturbation (m-sharpness, Foret et al. 2021, section 4.1), independent of the number of devices;
            None is the batch of one device. It must divide that batch, or be a multiple of it that divides the global
            batch: then groups of consecutive processes share a perturbation.
        mixing: maps a training batch (inputs, labels) to mixed inputs and soft labels (B, num_classes), e.g.
            ``torchvision.transforms.v2.MixUp``.
        adversary: attack on every training batch, found once at w; both passes see the same images.
        batch_seed: of what is random in ``mixing`` and ``adversary``, together with the step and the process; >= 0.
        **options: see :class:`curvature.training.classifier.Classifier`.
    """

    def __init__(
        self,
        m: int | None = None,
        mixing: Callable[..., Any] | None = None,
        adversary: ProjectedGradient | None = None,
        batch_seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.m = m
        self.mixing, self.adversary, self.batch_seed = mixing, adversary, batch_seed

    def check_data(self, datamodule: Any, processes: int = 1) -> None:
        """Raises ConfigError unless ``m`` fits the batch of one device; arguments as in the base class."""
        super().check_data(datamodule, processes)
        local = datamodule.batch_size // processes
        if self.m is None or (self.m >= 1 and local % self.m == 0):
            return
        if self.m < 1 or self.m % local or processes % (self.m // local):
            batches = (
                f"the batch per device, {local}, or a multiple of it that divides the global batch, {local * processes}"
            )
            raise ConfigError("module.m", self.m, f"a divisor of {batches}")

    def configure_optimizers(self) -> Any:
        optimizers, schedules = super().configure_optimizers()
        (optimizer,) = optimizers
        processes = world_size()
        if self.m is not None and processes > 1 and isinstance(optimizer, SAM):
            local = self.trainer.datamodule.batch_size // processes  # type: ignore[attr-defined]
            if self.m > local:
                optimizer.synchronize, optimizer.process_group = True, consecutive_ranks(self.m // local)
        return optimizers, schedules

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        perturbed = getattr(self.trainer.optimizers[0], "last_perturbed_loss", None)
        if perturbed is not None:
            self.log_step({"train/loss_perturbed": perturbed})
        return loss

    def optimizer_step(self, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        sam = optimizer.optimizer
        inputs, labels = self._changed(inputs, labels)
        if not isinstance(sam, SAM):
            return super().optimizer_step(inputs, labels)
        size = self.m or len(inputs)
        chunks = list(zip(inputs.split(size), labels.split(size), strict=True))

        def closure() -> torch.Tensor:
            images, targets = chunks[sam.current_pass.chunk]
            with sam.scope(self.trainer.model):  # type: ignore[arg-type]
                loss = self.training_loss(images, targets)
                self.manual_backward(loss)
            return loss.detach()

        loss: torch.Tensor = optimizer.step(closure, weights=[len(targets) for _, targets in chunks])
        return loss

    def _changed(self, inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.mixing is None and self.adversary is None:
            return inputs, labels
        step, rank = self.trainer.global_step, self.trainer.global_rank
        with drawn_from("batch", self.batch_seed, step, rank, device=inputs.device):
            if self.mixing is not None:
                inputs, labels = self.mixing(inputs, labels)
            if self.adversary is not None:
                inputs = self.adversary(self.model, self.criterion, inputs, labels)
        return inputs, labels


class SupervisedContrastive(SamViT):
    """Supervised contrastive learning of the features, then a linear classifier on them (Khosla et al. 2020).

    For the first ``contrastive_steps`` steps the loss is that of the normalised features before the classifier, with
    all images of a label as positives and no second view; the classifier does not change. After that only the
    classifier is trained, with cross-entropy and, whatever the optimiser, without perturbation: arms differ in how the
    features were learned.

    Args:
        contrastive_steps: steps of the first phase, from 1 to ``max_steps`` - 1.
        temperature: of the contrastive loss, > 0.
        **options: see :class:`SamViT`; the model is one of timm's.

    Raises:
        ConfigError: an argument outside its range.
    """

    def __init__(self, contrastive_steps: int, temperature: float = 0.1, **options: Any) -> None:
        super().__init__(**options)
        if not 0 < contrastive_steps < self.max_steps:
            allowed = f"from 1 to max_steps - 1 = {self.max_steps - 1}"
            raise ConfigError("module.contrastive_steps", contrastive_steps, allowed)
        if not temperature > 0.0:
            raise ConfigError("module.temperature", temperature, "a number > 0")
        from pytorch_metric_learning.losses import SupConLoss

        self.contrastive_steps = contrastive_steps
        self.contrastive = SupConLoss(temperature=temperature)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.trainer.optimizers[0]
        if self.trainer.global_step >= self.contrastive_steps and isinstance(optimizer, SAM):
            optimizer.rho = 0.0
            if isinstance(optimizer, GSAM):
                optimizer.rho_min = 0.0

    def training_loss(self, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        model: Any = self.model
        if self.trainer.global_step < self.contrastive_steps:
            features = model.forward_head(model.forward_features(inputs), pre_logits=True)
            loss: torch.Tensor = self.contrastive(features, labels)
            return loss
        with torch.no_grad():
            features = model.forward_head(model.forward_features(inputs), pre_logits=True)
        loss = self.criterion(model.get_classifier()(features), labels)
        return loss

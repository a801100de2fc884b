"""Losses that torch has no module for."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curvature.errors import ConfigError


class SigmoidLoss(nn.Module):
    """Mean binary cross-entropy over classes and examples: one sigmoid per class instead of a softmax.

    As in "ResNet strikes back" (Wightman et al. 2021) and DeiT III (Touvron et al. 2022), with mixed labels as targets.

    Args:
        label_smoothing: s; targets become (1 - s) target + s / C, as in :class:`torch.nn.CrossEntropyLoss`.

    Raises:
        ConfigError: ``label_smoothing`` is not in [0, 1).
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ConfigError("module.criterion.label_smoothing", label_smoothing, "a number in [0, 1)")
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of logits (B, C) and labels: classes (B,) or shares (B, C)."""
        wanted = labels if labels.shape == logits.shape else F.one_hot(labels, logits.shape[-1])
        wanted = torch.lerp(wanted.to(logits.dtype), logits.new_tensor(1.0 / logits.shape[-1]), self.label_smoothing)
        return F.binary_cross_entropy_with_logits(logits, wanted)

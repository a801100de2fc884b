"""What a penalty sees of one domain."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from curvature.alignment.head import head_gradient, head_hessian_diag, head_hvp, mean_loss
from curvature.errors import ConfigError
from curvature.models.mlp import HeadedNetwork


@dataclass(frozen=True)
class Domain:
    """Features and predictions on one domain's batch; statistics of its mean loss are computed once.

    Attributes:
        features: (n, d).
        logits: (n, C) of a linear head; C = 1 is a logistic head.
        labels: class numbers (n,), or probabilities (n, C).
    """

    features: Tensor
    logits: Tensor
    labels: Tensor

    @cached_property
    def loss(self) -> Tensor:
        """Mean cross-entropy in nats, ()."""
        return mean_loss(self.logits, self.labels)

    @cached_property
    def gradient(self) -> Tensor:
        """Of the loss by the head, (C, d + 1)."""
        return head_gradient(self.features, self.logits, self.labels)

    @cached_property
    def diagonal(self) -> Tensor:
        """Of the head's Hessian, (C, d + 1)."""
        return head_hessian_diag(self.features, self.logits)

    def hvp(self, vectors: Tensor) -> Tensor:
        """Head Hessian times vectors (..., C, d + 1)."""
        return head_hvp(self.features, self.logits, vectors)


def observe(network: HeadedNetwork, inputs: Tensor, labels: Tensor) -> Domain:
    """Forward pass of inputs (n, ...) with labels (n,).

    The head runs in at least float32, for its second-order statistics underflow in half precision.
    """
    features = network.features(inputs)
    with torch.autocast(features.device.type, enabled=False):
        features = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
        return Domain(features, network.head(features), labels)


def check_linear(network: nn.Module) -> None:
    """Raises ConfigError unless ``network.head`` is an ``nn.Linear`` with bias, to which the closed forms apply."""
    head = getattr(network, "head", None)
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise ConfigError("model.head", type(head).__name__, "torch.nn.Linear with a bias, for the closed forms")

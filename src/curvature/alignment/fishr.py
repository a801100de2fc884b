"""Invariant gradient variances (Rame et al., ICML 2022, arXiv 2109.02934)."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from curvature.alignment.domain import Domain, check_linear
from curvature.alignment.head import augmented, residuals
from curvature.alignment.method import Method, deviations
from curvature.models.mlp import HeadedNetwork


class Fishr(Method):
    """Squared distance over domains of the variances of per-sample head gradients to their mean.

    Under labels drawn from the model the uncentred variances are the diagonal of the head Hessian.

    Args:
        ema: decay of a moving average of the variances, divided by 1 - ema as in DomainBed; None uses each batch alone.
        **options: see :class:`curvature.alignment.method.Method`. ``reduction`` runs over parameters too.
    """

    averages: Tensor

    def __init__(self, ema: float | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.ema = ema
        self.register_buffer("averages", torch.zeros(0))

    def bind(self, network: HeadedNetwork, domains: int, seed: int = 0) -> None:
        check_linear(network)
        if self.ema is not None:
            head = cast(nn.Linear, network.head)
            self.averages = torch.zeros(domains, head.out_features, head.in_features + 1)

    def penalty(self, domains: Sequence[Domain], network: HeadedNetwork) -> Tensor:
        variances = torch.stack([gradient_variance(domain) for domain in domains])
        if self.ema is not None:
            averages = self.ema * self.averages.to(variances) + (1 - self.ema) * variances
            self.averages = averages.detach()
            variances = averages / (1 - self.ema)
        return self.reduce(deviations(list(variances)).square())


def gradient_variance(domain: Domain) -> Tensor:
    """Variance (divided by n) over samples of the head gradient, (C, d + 1), from two matrix products."""
    squares = residuals(domain.logits, domain.labels).square()
    return squares.mT @ augmented(domain.features).square() / len(domain.features) - domain.gradient.square()

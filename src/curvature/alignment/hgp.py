"""Hessian-gradient products (Hemati et al., ICCV 2023, section 4)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from curvature.alignment.domain import Domain, check_linear
from curvature.alignment.method import Method, deviations, squared_norms
from curvature.errors import ConfigError
from curvature.models.mlp import HeadedNetwork

CENTERS = ("mean_loss", "mean_product")


class HGP(Method):
    """alpha |H_e g_e - c|^2 + beta |g_e - gbar|^2 over domains, by head gradients and Hessians.

    H_e g_e equals both |g_e| grad |g_e| and grad |g_e|^2 / 2; the closed form has no division by a vanishing gradient.

    Args:
        alpha, beta: factors of the two terms; ``weight`` multiplies both.
        center: c is Hbar gbar of the mean loss (``mean_loss``), or the mean of H_e g_e over domains (``mean_product``).
        detach_center: treat the centres as constants.
        **options: see :class:`curvature.alignment.method.Method`.

    Raises:
        ConfigError: an unknown centre; from ``bind``, a head that is not linear.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 1.0,
        center: str = "mean_loss",
        detach_center: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if center not in CENTERS:
            raise ConfigError("method.center", center, f"one of {', '.join(CENTERS)}")
        self.alpha, self.beta, self.center, self.detach_center = alpha, beta, center, detach_center

    def bind(self, network: HeadedNetwork, domains: int, seed: int = 0) -> None:
        check_linear(network)

    def penalty(self, domains: Sequence[Domain], network: HeadedNetwork) -> Tensor:
        gradients = torch.stack([domain.gradient for domain in domains])
        products = [domain.hvp(gradient) for domain, gradient in zip(domains, gradients)]
        center = None
        if self.center == "mean_loss":
            mean = gradients.mean(0)
            center = torch.stack([domain.hvp(mean) for domain in domains]).mean(0)
        curved = squared_norms(deviations(products, self.detach_center, center))
        straight = squared_norms(deviations(list(gradients), self.detach_center))
        return self.reduce(self.alpha * curved + self.beta * straight)

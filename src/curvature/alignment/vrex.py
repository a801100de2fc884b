"""Variance risk extrapolation (Krueger et al., ICML 2021, arXiv 2003.00688)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from curvature.alignment.domain import Domain
from curvature.alignment.method import Method, deviations
from curvature.models.mlp import HeadedNetwork


class VREx(Method):
    """Squared distances of the losses to their mean over domains.

    For two domains the sum is (L_0 - L_1)^2 / 2; the Colored-MNIST scripts penalise (L_0 - L_1)^2: alpha = 2.

    Args:
        alpha: factor; ``weight`` multiplies it.
        **options: see :class:`curvature.alignment.method.Method`.
    """

    def __init__(self, alpha: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.alpha = alpha

    def penalty(self, domains: Sequence[Domain], network: HeadedNetwork) -> Tensor:
        return self.alpha * self.reduce(deviations([domain.loss for domain in domains]).square())

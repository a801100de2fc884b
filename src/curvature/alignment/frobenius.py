"""Matching of whole head Hessians, by Gram matrices of the samples."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from curvature.alignment.distance import head_hessian_gram_distance
from curvature.alignment.domain import Domain, check_linear
from curvature.alignment.method import Method, deviations, squared_norms
from curvature.models.mlp import HeadedNetwork


class Frobenius(Method):
    """alpha ||H_e - Hbar||_F^2 + beta |g_e - gbar|^2 over domains: what the paper's two methods approximate.

    Args:
        alpha, beta: factors of the two terms; ``weight`` multiplies both.
        **options: see :class:`curvature.alignment.method.Method`.
    """

    def __init__(self, alpha: float = 1.0, beta: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.alpha, self.beta = alpha, beta

    def bind(self, network: HeadedNetwork, domains: int, seed: int = 0) -> None:
        check_linear(network)

    def penalty(self, domains: Sequence[Domain], network: HeadedNetwork) -> Tensor:
        straight = squared_norms(deviations([domain.gradient for domain in domains]))
        return self.reduce(self.alpha * head_hessian_gram_distance(domains) + self.beta * straight)

"""Invariant risk minimisation, practical version (Arjovsky et al. 2019, arXiv 1907.02893)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, stack

from curvature.alignment.domain import Domain
from curvature.alignment.head import residuals
from curvature.alignment.method import Method
from curvature.models.mlp import HeadedNetwork


class IRMv1(Method):
    """Squared derivative of each domain's loss by a scale of the logits, at scale one.

    That derivative is mean r . o = <theta, g_e>: the head gradient along the head, driven to zero in every domain.

    Args:
        unbiased: the product of the derivatives on even and odd samples instead of the square, as in DomainBed; it may
            be negative.
        **options: see :class:`curvature.alignment.method.Method`.
    """

    def __init__(self, unbiased: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.unbiased = unbiased

    def penalty(self, domains: Sequence[Domain], network: HeadedNetwork) -> Tensor:
        return self.reduce(stack([self._square(domain) for domain in domains]))

    def _square(self, domain: Domain) -> Tensor:
        if self.unbiased:
            halves = [slice(0, None, 2), slice(1, None, 2)]
            even, odd = (scale_derivative(domain.logits[half], domain.labels[half]) for half in halves)
            return even * odd
        return scale_derivative(domain.logits, domain.labels).square()


def scale_derivative(logits: Tensor, labels: Tensor) -> Tensor:
    """d/ds of the mean cross-entropy of s * logits (n, C) at s = 1, ()."""
    return (residuals(logits, labels) * logits).sum(-1).mean()

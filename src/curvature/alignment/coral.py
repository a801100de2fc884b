"""Correlation alignment (Sun and Saenko 2016, arXiv 1607.01719), over pairs of domains as in DomainBed."""

from collections.abc import Sequence
from itertools import combinations

from torch import Tensor, stack

from curvature.alignment.domain import Domain
from curvature.alignment.method import Method
from curvature.models.mlp import HeadedNetwork


class CORAL(Method):
    """Mean squared entry of the differences of feature means and of covariances, summed, over pairs of domains.

    Covariances divide by n - 1. At a head of zeros the head Hessian is (I/C - 11^T/C^2) (x) mean z~ z~^T, so matching
    the features' second moments then is matching Hessians.
    """

    def penalty(self, domains: Sequence[Domain], network: HeadedNetwork) -> Tensor:
        if len(domains) < 2:
            return domains[0].features.new_zeros(())
        return self.reduce(stack([moment_distance(a, b) for a, b in combinations(domains, 2)]))


def moment_distance(first: Domain, second: Domain) -> Tensor:
    """Mean squared difference of feature means (d,) plus that of feature covariances (d, d), ()."""
    means = first.features.mean(0) - second.features.mean(0)
    return means.square().mean() + (covariance(first) - covariance(second)).square().mean()


def covariance(domain: Domain) -> Tensor:
    """Of the features, (d, d), divided by n - 1."""
    centered = domain.features - domain.features.mean(0)
    return centered.mT @ centered / (len(centered) - 1)

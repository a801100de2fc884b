"""Empirical risk minimisation."""

from collections.abc import Sequence

from torch import Tensor

from curvature.alignment.domain import Domain
from curvature.alignment.method import Method
from curvature.models.mlp import HeadedNetwork


class ERM(Method):
    """No penalty."""

    def penalty(self, domains: Sequence[Domain], network: HeadedNetwork) -> Tensor:
        return domains[0].features.new_zeros(())

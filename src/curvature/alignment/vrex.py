"""Variance risk extrapolation (Krueger et al., ICML 2021, arXiv 2003.00688)."""

from collections.abc import Sequence

from torch import Tensor

from curvature.alignment.domain import Domain
from curvature.alignment.method import Method, deviations
from curvature.models.mlp import HeadedNetwork


class VREx(Method):
    """Squared distances of the losses to their mean over domains.

    For two domains ``reduction=mean`` gives (L_0 - L_1)^2 / 4 and ``sum`` twice that; the Colored-MNIST scripts use
    (L_0 - L_1)^2, which is ``sum`` at twice the weight.
    """

    def penalty(self, domains: Sequence[Domain], network: HeadedNetwork) -> Tensor:
        return self.reduce(deviations([domain.loss for domain in domains]).square())

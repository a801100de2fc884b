"""Inter-environmental gradient alignment (Koyama and Yamaguchi 2020, arXiv 2008.01883)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from curvature.alignment.domain import Domain
from curvature.alignment.method import Method, deviations, squared_norms
from curvature.models.mlp import HeadedNetwork


class IGA(Method):
    """Squared distance of the domains' gradients by all parameters of the network to their mean.

    Args:
        detach_center: treat the mean gradient as a constant, as in DomainBed.
        **options: see :class:`curvature.alignment.method.Method`; DomainBed sums over domains.
    """

    def __init__(self, detach_center: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.detach_center = detach_center

    def penalty(self, domains: Sequence[Domain], network: HeadedNetwork) -> Tensor:
        gradients = [network_gradient(domain, network, create_graph=True) for domain in domains]
        return self.reduce(squared_norms(deviations(gradients, self.detach_center)))


def network_gradient(domain: Domain, network: HeadedNetwork, create_graph: bool = False) -> Tensor:
    """Gradient of a domain's loss by all P trained parameters, (P,)."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    found = torch.autograd.grad(domain.loss, parameters, create_graph=create_graph, retain_graph=True)
    return torch.cat([gradient.flatten() for gradient in found])

"""Gradient matching by a first-order meta step (Shi et al., ICLR 2022, arXiv 2104.09937)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from curvature.alignment.domain import Domain, observe
from curvature.alignment.iga import network_gradient
from curvature.alignment.method import Batch, Method, Progress
from curvature.models.mlp import HeadedNetwork


class Fish(Method):
    """Descends on one domain after another and moves a fraction of the way; that raises the domains' inner products.

    The optimiser's own steps are the inner ones and its state carries over; one update of E domains makes E of them.

    Args:
        meta_lr: fraction of the way from the start to where the inner steps end.
        **options: see :class:`curvature.alignment.method.Method`.
    """

    def __init__(self, meta_lr: float = 0.5, **options: Any) -> None:
        super().__init__(**options)
        self.meta_lr = meta_lr

    def penalty(self, domains: Sequence[Domain], network: HeadedNetwork) -> Tensor:
        """Minus the sum of g_i . g_j over ordered pairs, (): what the update lowers, to first order."""
        gradients = torch.stack([network_gradient(domain, network, create_graph=True) for domain in domains])
        return gradients.square().sum() - gradients.sum(0).square().sum()

    def update(
        self, network: HeadedNetwork, batches: Sequence[Batch], optimizer: Any, step: int, l2: float = 0.0
    ) -> Progress:
        parameters = list(network.parameters())
        start = [p.detach().clone() for p in parameters]
        losses = []
        for index, batch in enumerate(batches):
            domain = observe(network, *batch)
            total = domain.loss
            if l2:
                total = total + l2 * torch.stack([p.square().sum() for p in parameters]).sum()
            optimizer.zero_grad()
            total.backward()
            last = index == len(batches) - 1
            (optimizer if last else getattr(optimizer, "optimizer", optimizer)).step()
            losses.append(domain.loss.detach())
        with torch.no_grad():
            for parameter, first in zip(parameters, start):
                parameter.copy_(first.lerp(parameter, self.meta_lr))
        loss = torch.stack(losses).mean()
        return Progress(loss, loss, torch.zeros_like(loss))

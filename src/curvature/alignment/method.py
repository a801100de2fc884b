"""The common interface: a penalty over domains, its weight over time, and one step of training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from curvature.alignment.domain import Domain, observe
from curvature.errors import ConfigError
from curvature.models.mlp import HeadedNetwork

Batch = tuple[Tensor, Tensor]
REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"sum": torch.sum, "mean": torch.mean}


@dataclass(frozen=True)
class Progress:
    """What one step saw: the objective, mean cross-entropy over domains and unweighted penalty, detached."""

    objective: Tensor
    loss: Tensor
    penalty: Tensor


class Method(nn.Module):
    """Mean cross-entropy over domains plus a weighted penalty; subclasses implement :meth:`penalty`.

    Args:
        weight: of the penalty, from ``anneal_steps`` on.
        anneal_steps: steps during which the weight is ``weight_before``.
        weight_before: see there.
        rescale: divide the whole objective by the weight where that exceeds 1, as the Colored-MNIST scripts do.
        reset_optimizer: forget the optimiser's state when the weight changes, as DomainBed does.
        reduction: over domains, ``sum`` or ``mean``.

    Raises:
        ConfigError: an unknown reduction or negative numbers.
    """

    def __init__(
        self,
        weight: float = 1.0,
        anneal_steps: int = 0,
        weight_before: float = 1.0,
        rescale: bool = False,
        reset_optimizer: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        for key, value in (("weight", weight), ("weight_before", weight_before), ("anneal_steps", anneal_steps)):
            if not value >= 0:
                raise ConfigError(f"method.{key}", value, "a number >= 0")
        if reduction not in REDUCTIONS:
            raise ConfigError("method.reduction", reduction, f"one of {', '.join(REDUCTIONS)}")
        self.weight, self.anneal_steps, self.weight_before = weight, anneal_steps, weight_before
        self.rescale, self.reset_optimizer = rescale, reset_optimizer
        self.reduction = reduction

    def bind(self, network: HeadedNetwork, domains: int, seed: int = 0) -> None:
        """Learn what will be trained, before the first step: the network, the number of domains, the run's seed."""

    def penalty(self, domains: Sequence[Domain], network: HeadedNetwork) -> Tensor:
        """Unweighted penalty, (), differentiable, of one batch per domain."""
        raise NotImplementedError

    def weight_at(self, step: int) -> float:
        """Weight of the penalty at a step, counted from 0."""
        return self.weight if step >= self.anneal_steps else self.weight_before

    def reduce(self, values: Tensor) -> Tensor:
        """Sum or mean, (), over domains and whatever other axes ``values`` (E, ...) has."""
        return REDUCTIONS[self.reduction](values)

    def objective(
        self, domains: Sequence[Domain], network: HeadedNetwork, step: int, l2: float = 0.0
    ) -> tuple[Tensor, Progress]:
        """The loss to descend on, and what it was made of.

        Args:
            domains: one batch of each training domain; none may be empty.
            network: all its parameters enter the ``l2`` term, the sum of their squares.
            step: counted from 0.
            l2: factor of that term, inside the objective and so inside its division by the weight.
        """
        loss = torch.stack([domain.loss for domain in domains]).mean()
        penalty = self.penalty(domains, network)
        weight = self.weight_at(step)
        total = loss + weight * penalty
        if l2:
            total = total + l2 * torch.stack([p.square().sum() for p in network.parameters()]).sum()
        if self.rescale and weight > 1:
            total = total / weight
        return total, Progress(total.detach(), loss.detach(), penalty.detach())

    def update(
        self, network: HeadedNetwork, batches: Sequence[Batch], optimizer: Any, step: int, l2: float = 0.0
    ) -> Progress:
        """One step of training on a batch per domain."""
        if self.reset_optimizer and step == self.anneal_steps > 0:
            getattr(optimizer, "optimizer", optimizer).state.clear()
        total, progress = self.objective([observe(network, *batch) for batch in batches], network, step, l2)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        return progress


def deviations(values: Sequence[Tensor], detach_center: bool = False, center: Tensor | None = None) -> Tensor:
    """Values (E of shape S) minus their centre, (E, *S): the mean unless given, constant if ``detach_center``."""
    stacked = torch.stack(list(values))
    middle = stacked.mean(0) if center is None else center
    return stacked - (middle.detach() if detach_center else middle)


def squared_norms(values: Tensor) -> Tensor:
    """Squared Euclidean norm of each of E tensors, (E,)."""
    return values.flatten(1).square().sum(1)

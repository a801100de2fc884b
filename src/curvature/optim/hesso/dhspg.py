"""DHSPG: dual half-space projected gradient, the implicit-sparsity baseline of OTOv2 (Chen et al. 2023)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from curvature.errors import ConfigError
from curvature.optim.hesso.hesso import HESSO, refuse
from curvature.optim.hesso.saliency import GroupStatistics, normalised
from curvature.optim.hesso.schedule import group_target
from curvature.optim.passes import evaluated
from curvature.pruning.space import SearchSpace

DEFAULTS = {"sgd": (1e-3, 2.0, 10.0), "adam": (1e-2, 20.0, 1e3), "adamw": (1e-2, 20.0, 1e3)}
CHOSEN = "penalised"


class DHSPG(HESSO):
    """Penalises the norms of groups chosen once, and projects those to zero that leave their half-space.

    In step ``start_step + 1`` the share ``target_group_sparsity + tolerance`` of the groups that look most redundant is
    chosen. Each step moves a chosen group by -lr * (d_g + lambda_g x_g / ||x_g||); it becomes zero for good if the
    result x~ has <x~, x> < epsilon ||x||^2. Nothing is penalised once the target is met, which is not certain.

    Args:
        space, variant, lr, target_group_sparsity, start_step: see :class:`curvature.optim.hesso.HESSO`.
        penalty: lambda; default 1e-3 for sgd and 1e-2 for adam and adamw.
        amplify: lambda_g is at least so many times what makes the norm fall; default 2 and 20.
        most: lambda_g is at most so many times lambda; default 10 and 1000.
        epsilon: of the half-space, in [0, 1).
        tolerance: share of groups chosen beyond the target.
        max_steps: steps of the training; a later start is refused.
        **options: ``direction``, ``adam``, ``lr_factors`` and options of the base optimiser, see
            :class:`curvature.optim.hesso.HESSO`.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        space: SearchSpace,
        variant: str = "sgd",
        lr: float = 0.1,
        target_group_sparsity: float = 0.5,
        start_step: int = 0,
        penalty: float | None = None,
        amplify: float | None = None,
        most: float | None = None,
        epsilon: float = 0.0,
        tolerance: float = 0.05,
        max_steps: int | None = None,
        **options: Any,
    ) -> None:
        if not 0.0 <= epsilon < 1.0:
            raise ConfigError("optimizer.epsilon", epsilon, "a number in [0, 1)")
        if max_steps is not None and start_step >= max_steps:
            raise ConfigError("optimizer.start_step", start_step, f"below max_steps={max_steps}")
        refuse(options, "pruning_steps", "pruning_periods", "selection", "criteria", "group_divisible", "seed")
        super().__init__(space, variant, lr, target_group_sparsity, start_step, **options)
        given = (penalty, amplify, most)
        self.penalty, self.amplify, self.most = (
            d if g is None else g for g, d in zip(given, DEFAULTS[variant], strict=True)
        )
        self.target_group_sparsity, self.epsilon, self.tolerance = target_group_sparsity, epsilon, tolerance

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One training step; returns what ``closure`` returns."""
        loss = evaluated(closure)
        self._adopt()
        pruner = self.pruner
        pruner.begin()
        state = pruner.state
        if not pruner.target or state["num_steps"] <= pruner.schedule.start:
            self._update()
            return loss
        statistics = pruner.statistics(self.directions())
        if CHOSEN not in state:
            state["pruned"] = state["pruned"].to(statistics.norm.device)
            state[CHOSEN] = self._choose(statistics)
        before = [p.clone() for p in pruner.layout.values()]
        self._update()
        chosen = state[CHOSEN] & ~state["pruned"] & (state["pruned"].sum() < pruner.target)
        rates = penalties(statistics, self.penalty, self.amplify, self.most)
        shrink = torch.where(chosen, rates / statistics.norm.clamp_min(1e-30), 0.0)
        members = pruner.layout.members
        for (p, _, _), old, factor in zip(members, before, pruner.layout.spread(shrink), strict=True):
            p.sub_(old * factor * (self._group_of[p]["lr"] if p in self._group_of else 0.0))
        projected = chosen & leaves_half_space(
            pruner.layout.inner(pruner.layout.values(), before), statistics.norm, self.epsilon
        )
        state["pruned"] = state["pruned"] | projected
        pruner.layout.scale_((~state["pruned"]).to(statistics.norm))
        return loss

    def _choose(self, statistics: GroupStatistics) -> Tensor:
        pruner = self.pruner
        cosine = statistics.product / (statistics.norm + 1e-8) / (statistics.direction_norm + 1e-8)
        smallness = 1.0 / (statistics.norm / statistics.lengths + 1e-6)
        score = 0.5 * normalised(cosine) + 0.5 * normalised(smallness)
        share = min(self.target_group_sparsity + self.tolerance, 0.999)
        chosen = torch.zeros_like(statistics.norm, dtype=torch.bool)
        chosen[torch.argsort(score, descending=True, stable=True)[: group_target(pruner.space.size, share)]] = True
        return chosen


def penalties(statistics: GroupStatistics, penalty: float, amplify: float, most: float) -> Tensor:
    """lambda_g, (G,): large enough for the norm to fall, small enough for a descent direction, where both can be.

    With <x, d> < 0 the norm falls for lambda_g > lo = -<x, d>/||x||, and d + lambda_g x/||x|| is a descent direction
    for lambda_g < up = -||d||^2 ||x|| / <x, d>.
    """
    opposed = statistics.product < 0
    product = torch.where(opposed, statistics.product, -torch.ones_like(statistics.product))
    low = -product / statistics.norm.clamp_min(1e-30)
    high = -statistics.direction_norm.square() * statistics.norm / product
    wanted = (amplify * low).clamp(penalty, most * penalty)
    wanted = torch.where(wanted >= high, (low + high) / 2, wanted)
    return torch.where(opposed, wanted, torch.full_like(wanted, penalty))


def leaves_half_space(product: Tensor, norm: Tensor, epsilon: float) -> Tensor:
    """Whether <x~, x> < epsilon ||x||^2, (G,) bool.

    Args:
        product: <x~, x>, (G,).
        norm: ||x||, (G,).
        epsilon: in [0, 1).
    """
    return product < epsilon * norm.square()

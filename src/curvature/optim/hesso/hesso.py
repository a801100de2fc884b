"""HESSO: hybrid efficient structured sparse optimisation (Chen et al. 2024)."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from curvature.errors import ConfigError
from curvature.optim.hesso.base import DIRECTIONS, MaskedSGD, base_optimizer, update_direction
from curvature.optim.hesso.pruner import GroupPruner
from curvature.optim.passes import evaluated
from curvature.pruning.space import SearchSpace

STATE = "pruning"


class HESSO(Optimizer):
    """Trains all parameters of a network and brings exactly K of its groups to zero on the way.

    Every step is one of the base optimiser, x <- x - lr * d, then redundant slices are multiplied by (T-t-1)/(T-t) and
    removed ones set to zero. Groups are scored P times in all, on the device; there is no extra forward or backward
    pass. Learning-rate schedules, clipping and closures work as with the base optimiser.

    Args:
        space: from :func:`curvature.pruning.build_search_space`; its model's parameters with ``requires_grad`` are
            trained.
        variant: base optimiser, ``sgd``, ``adam`` or ``adamw``.
        lr: learning rate, >= 0.
        target_group_sparsity: share of groups to remove, in [0, 1); K = int(G * share).
        start_step: steps before pruning.
        pruning_steps: steps during which groups are removed; None is half of ``max_steps``, with at most as many
            periods.
        pruning_periods: P; each removes K // P groups, the last one the remainder too.
        criteria: criterion -> weight, see :mod:`curvature.optim.hesso.saliency`; default 0.2 for each of five.
        group_divisible: survivors of a layer are a multiple of it.
        direction: d of the saliency: ``variant``, the base optimiser's, with momentum and coupled decay; or ``raw``,
            the gradient.
        adam: ``torch``, or ``oto``, which begins the moments as the released code does.
        selection: ``masked``, or ``oto``, the released code's.
        max_steps: steps of the training; a schedule that does not fit is refused.
        lr_factors: part of a parameter's name -> factor on its learning rate; the first match counts.
        seed: of the criterion ``random``.
        **options: of the base optimiser, e.g. ``momentum``, ``weight_decay``, ``betas``, ``foreach``, ``fused``.

    Raises:
        ConfigError: an argument is out of range, or the schedule cannot reach its target.
    """

    def __init__(
        self,
        space: SearchSpace,
        variant: str = "sgd",
        lr: float = 0.1,
        target_group_sparsity: float = 0.5,
        start_step: int = 0,
        pruning_steps: int | None = 1,
        pruning_periods: int = 1,
        criteria: Mapping[str, float] | None = None,
        group_divisible: int = 1,
        direction: str = "variant",
        adam: str = "torch",
        selection: str = "masked",
        max_steps: int | None = None,
        lr_factors: Mapping[str, float] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        self._setup(space, variant, lr, direction, adam, lr_factors, options)
        if pruning_steps is None:
            if max_steps is None:
                raise ConfigError("optimizer.pruning_steps", None, "an integer, where max_steps is not known")
            pruning_steps = max(1, max_steps // 2)
            pruning_periods = min(pruning_periods, pruning_steps)
        self.pruner = GroupPruner(
            space,
            target_group_sparsity,
            start_step,
            pruning_steps,
            pruning_periods,
            criteria,
            group_divisible,
            selection,
            max_steps,
            seed,
        )
        self.state[STATE] = self.pruner.state  # type: ignore[index]

    def _setup(
        self,
        space: SearchSpace,
        variant: str,
        lr: float,
        direction: str,
        adam: str,
        lr_factors: Mapping[str, float] | None,
        options: dict[str, Any],
    ) -> None:
        if not lr >= 0:
            raise ConfigError("optimizer.lr", lr, "a number >= 0")
        if direction not in DIRECTIONS:
            raise ConfigError("optimizer.direction", direction, f"one of {', '.join(DIRECTIONS)}")
        groups = _parameter_groups(space, lr, lr_factors or {})
        self.base = base_optimizer(variant, groups, adam, lr=lr, **options)
        self.raw = direction == "raw"
        super().__init__(self.base.param_groups, self.base.defaults)
        self._share()

    def _share(self) -> None:
        self.base.param_groups, self.base.state = self.param_groups, self.state
        self._group_of = {p: group for group in self.param_groups for p in group["params"]}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One training step; returns what ``closure`` returns."""
        loss = evaluated(closure)
        self._adopt()
        moment = self.pruner.begin()
        if moment.opens:
            self.pruner.choose(moment, self.directions())
        self._update(moment.factor, moment.closes)
        return loss

    def _update(self, factor: float | None = None, closes: bool = False) -> None:
        base, pruner = self.base, self.pruner
        if not isinstance(base, MaskedSGD):
            base.step()
            pruner.finish(factor, closes)
            return
        shrinking = pruner.shrinking() if factor is not None else {}
        base.update(shrinking, factor or 0.0)
        if closes or not shrinking:
            pruner.finish(None if shrinking else factor, closes, hold=False)
        if closes:
            self._mask()

    def _mask(self) -> None:
        if isinstance(self.base, MaskedSGD) and self.pruner.state["any_pruned"]:
            self.base.mask(self.pruner.masks())

    def directions(self) -> list[Tensor]:
        """Update direction of every member of the pruner's layout."""
        groups = self._group_of
        return [
            update_direction(self.base, p, groups[p], self.raw) if p in groups else torch.zeros_like(p)
            for p, _, _ in self.pruner.layout.members
        ]

    @property
    def pruned(self) -> Tensor:
        """(G,) bool, the groups that are zero for good."""
        return self.pruner.state["pruned"]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of ``state_dict``; training continues bit for bit, also in the middle of a period."""
        super().load_state_dict(state_dict)
        self._share()
        self._adopt()
        self._mask()

    def _adopt(self) -> None:
        """Let the pruner and this optimiser have one state again: Lightning replaces what it moves to a device."""
        if self.state[STATE] is not self.pruner.state:  # type: ignore[index]
            self.pruner.load_state(self.state[STATE])  # type: ignore[index]
            self.state[STATE] = self.pruner.state  # type: ignore[index]


def refuse(options: Mapping[str, Any], *keys: str) -> None:
    """Raises ConfigError if one of ``keys``, which mean nothing to an optimiser, is among its ``options``."""
    for key in keys:
        if key in options:
            raise ConfigError(f"optimizer.{key}", options[key], "absent: this optimiser has no such option")


def _parameter_groups(space: SearchSpace, lr: float, factors: Mapping[str, float]) -> list[dict[str, Any]]:
    named = [(name, p) for name, p in space.model.named_parameters() if p.requires_grad]
    groups: dict[str | None, dict[str, Any]] = {}
    for name, p in named:
        part = next((part for part in factors if part in name), None)
        rate = lr if part is None else lr * factors[part]
        groups.setdefault(part, {"params": [], "lr": rate})["params"].append(p)
    if unused := sorted(set(factors) - {part for part in groups if part}):
        raise ConfigError("optimizer.lr_factors", unused, "parts of parameters' names")
    return list(groups.values())

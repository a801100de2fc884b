"""Hybrid training: redundant groups shrink to zero period by period while everything else is trained."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from curvature.data.seeds import derive
from curvature.errors import ConfigError
from curvature.optim.hesso.layout import GroupLayout
from curvature.optim.hesso.saliency import (
    DEFAULT_CRITERIA,
    RANDOM,
    GroupStatistics,
    check_criteria,
    combined,
    values_of,
)
from curvature.optim.hesso.schedule import Moment, PruningSchedule, group_target
from curvature.optim.hesso.selection import lowest, lowest_as_released, removable
from curvature.pruning.space import SearchSpace

SELECTIONS = ("masked", "oto")
REDUCED = (torch.float32, torch.float64)
"""Types that torch's ``index_reduce_`` multiplies on a CPU; bfloat16 it does not."""


class GroupPruner:
    """Chooses groups and applies their factors around the updates of any optimiser.

    Call :meth:`begin` before an update and :meth:`finish` after it; where ``begin`` returns a moment that opens a
    period, :meth:`choose` in between with the directions of the update.

    Args:
        space: what can be removed.
        target_group_sparsity: share of the G groups to remove, in [0, 1).
        start_step, pruning_steps, pruning_periods, max_steps: see
            :class:`curvature.optim.hesso.schedule.PruningSchedule`.
        criteria: criterion -> weight; default 0.2 for each of
            :data:`curvature.optim.hesso.saliency.CRITERIA`.
        group_divisible: survivors of a node group are a multiple of it, and at least so many.
        selection: ``masked``, the lowest of those that are left; ``oto``, that of the released code, which lets low
            indices win over low scores and falls short of the target.
        seed: of the criterion ``random``.

    Raises:
        ConfigError: an argument is out of range, or so many groups cannot be removed.
    """

    def __init__(
        self,
        space: SearchSpace,
        target_group_sparsity: float = 0.5,
        start_step: int = 0,
        pruning_steps: int = 1,
        pruning_periods: int = 1,
        criteria: Mapping[str, float] | None = None,
        group_divisible: int = 1,
        selection: str = "masked",
        max_steps: int | None = None,
        seed: int = 0,
    ) -> None:
        if selection not in SELECTIONS:
            raise ConfigError("optimizer.selection", selection, f"one of {', '.join(SELECTIONS)}")
        if not isinstance(group_divisible, int) or group_divisible < 1:
            raise ConfigError("optimizer.group_divisible", group_divisible, "an integer >= 1")
        self.space, self.layout = space, GroupLayout(space)
        self.target = group_target(space.size, target_group_sparsity)
        most = removable([node.size for node in space.nodes], group_divisible)
        if self.target > most and selection == "masked":
            share = most / max(1, space.size)
            allowed = f"at most {share:.4f}: {most} of {space.size} groups can go, {group_divisible} a layer must stay"
            raise ConfigError("optimizer.target_group_sparsity", target_group_sparsity, allowed)
        self.schedule = PruningSchedule(self.target, start_step, pruning_steps, pruning_periods, max_steps)
        self.criteria = check_criteria(DEFAULT_CRITERIA if criteria is None else criteria)
        self.divisible, self.selection, self.seed = group_divisible, selection, seed
        self.state: dict[str, Any] = {
            "num_steps": 0,
            "pruned": torch.zeros(space.size, dtype=torch.bool),
            "active": torch.zeros(space.size, dtype=torch.bool),
            "any_pruned": False,
            "any_active": False,
        }
        self.scores: Tensor | None = None
        self._rows: dict[str, list[_Slices]] = {}
        self._shrinking: dict[Tensor, list[Callable[[float], None]]] = {}

    def begin(self) -> Moment:
        """Count a step and say what it brings."""
        self.state["num_steps"] += 1
        return self.schedule.at(self.state["num_steps"])

    @torch.no_grad()
    def choose(self, moment: Moment, directions: Sequence[Tensor], values: Sequence[Tensor] | None = None) -> None:
        """Score all groups and choose those of the period.

        Args:
            moment: what :meth:`begin` returned.
            directions: update direction of every member of the layout, in its order.
            values: the members' parameters before the update; by default as they are now.
        """
        self._to_device()
        self.scores = self.score(directions, values)
        pruned, layer, layers = self.state["pruned"], self.layout.layer(), len(self.space.nodes)
        target = self.schedule.removed_by(moment.period)
        if self.selection == "oto":
            count = target - (self.schedule.removed_by(moment.period - 1) if moment.period else 0)
            active = lowest_as_released(self.scores, layer, pruned, count, layers, self.divisible)
        else:
            active = lowest(self.scores, layer, pruned, target, layers, self.divisible)
        self.set_active(active)

    def score(self, directions: Sequence[Tensor], values: Sequence[Tensor] | None = None) -> Tensor:
        """(G,) overall saliency; arguments as in :meth:`choose`."""
        return combined(self.saliencies(directions, values), self.criteria)

    def saliencies(self, directions: Sequence[Tensor], values: Sequence[Tensor] | None = None) -> Tensor:
        """(number of criteria, G), each criterion as it is; arguments as in :meth:`choose`."""
        generator = None
        if RANDOM in self.criteria:
            generator = torch.Generator().manual_seed(derive("saliency", self.seed, self.state["num_steps"]))
        return values_of(self.statistics(directions, values), self.criteria, generator)

    @torch.no_grad()
    def statistics(self, directions: Sequence[Tensor], values: Sequence[Tensor] | None = None) -> GroupStatistics:
        """What the criteria are functions of; arguments as in :meth:`choose`."""
        layout = self.layout
        values = layout.values() if values is None else values
        norm, direction = layout.inner(values, values).sqrt(), layout.inner(directions, directions).sqrt()
        return GroupStatistics(norm, direction, layout.inner(values, directions), layout.lengths())

    def set_active(self, active: Tensor) -> None:
        """Make ``active`` (G,) bool the groups that shrink from now on."""
        self.state["active"], self.state["any_active"] = active, True
        self._forget()

    def shrinking(self) -> dict[Tensor, list[Callable[[float], None]]]:
        """Parameter -> what scales its active slices by a factor, in place of :meth:`finish`; on a CPU only."""
        if not self.state["any_active"] or self.layout.device.type != "cpu":
            return {}
        if not self._shrinking:
            self._to_device()
            for slices in self._slices("active"):
                self._shrinking.setdefault(slices.p, []).append(slices.scale_)
        return self._shrinking

    @torch.no_grad()
    def finish(self, factor: float | None, closes: bool, hold: bool = True) -> None:
        """After the update: shrink the active slices, keep the pruned ones at zero.

        Args:
            factor: of the active slices; None leaves them.
            closes: the active groups are pruned from now on.
            hold: set the pruned slices to zero again; unnecessary if the update does not move them.
        """
        self._to_device()
        state = self.state
        shrinking = factor is not None and state["any_active"]
        if self.layout.device.type == "cpu":
            if shrinking:
                _scale(self._slices("active"), factor or 0.0)
            if state["any_pruned"] and hold:
                _scale(self._slices("pruned"), 0.0)
        elif shrinking or (state["any_pruned"] and hold):
            factors = (~state["pruned"]).to(self.layout.dtype)
            if shrinking:
                factors = torch.where(state["active"], factors * factor, factors)
            self.layout.scale_(factors)
        if closes and state["any_active"]:
            state["pruned"] = state["pruned"] | state["active"]
            state["active"] = torch.zeros_like(state["active"])
            state["any_pruned"], state["any_active"] = True, False
            self._forget()

    def masks(self) -> dict[Tensor, Tensor]:
        """Parameter -> factors that broadcast to it: 0 on pruned slices, 1 elsewhere; of parameters with slices."""
        found: dict[Tensor, Tensor] = {}
        for p, keep in self.layout.views((~self.state["pruned"]).to(self.layout.dtype)):
            found[p] = found[p] * keep if p in found else keep
        return found

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``, which an equal pruner had.

        Raises:
            ConfigError: it belongs to another number of groups.
        """
        if len(state["pruned"]) != self.space.size:
            allowed = f"a state of {self.space.size} groups"
            raise ConfigError("optimizer.state", f"a state of {len(state['pruned'])} groups", allowed)
        loaded = dict(state)
        self.state.clear()
        self.state.update(loaded)
        self._forget()

    def _forget(self) -> None:
        """The slices of the groups that were active or pruned until now."""
        self._rows.clear()
        self._shrinking = {}

    def _slices(self, which: str) -> "list[_Slices]":
        if which not in self._rows:
            self._rows[which] = [_Slices(*entry) for entry in self.layout.rows(self.state[which])]
        return self._rows[which]

    def _to_device(self) -> None:
        device = self.layout.device
        if self.state["pruned"].device != device:
            self.state["pruned"] = self.state["pruned"].to(device)
            self.state["active"] = self.state["active"].to(device)


class _Slices:
    """Some slices of a parameter on a CPU, to be scaled in place again and again."""

    def __init__(self, p: Tensor, dim: int, index: Tensor) -> None:
        self.p, self.dim, self.index = p, dim, index
        self._factor = p.new_empty(())
        self._runs: tuple[int, list[Tensor]] = 0, []

    def scale_(self, factor: float) -> None:
        p, dim, index = self.p, self.dim, self.index
        if not factor and dim == 0 and p.ndim > 1:
            torch._foreach_zero_(self._views())
        elif not factor:
            p.index_fill_(dim, index, 0.0)
        elif p.dtype not in REDUCED:
            p.index_copy_(dim, index, p.index_select(dim, index) * factor)
        else:
            # One pass over the slices, without a copy of them and in one call.
            _announce_index_reduce()
            source = self._factor.fill_(factor).expand(*p.shape[:dim], len(index), *p.shape[dim + 1 :])
            p.index_reduce_(dim, index, source, "prod")

    def _views(self) -> list[Tensor]:
        """The slices, those side by side as one: zeroing them so takes a third of the time of ``index_fill_``."""
        if self._runs[0] != self.p.data_ptr():
            index = self.index.sort().values
            ends = (index.diff() != 1).nonzero().flatten() + 1
            p = self.p.detach()
            runs = [p[int(run[0]) : int(run[-1]) + 1] for run in index.tensor_split(ends) if len(run)]
            self._runs = self.p.data_ptr(), runs
        return self._runs[1]


@cache
def _announce_index_reduce() -> None:
    """Torch's one warning that ``index_reduce`` is in beta is spent where nobody has to read it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.ones(1).index_reduce_(0, torch.zeros(1, dtype=torch.int64), torch.ones(1), "prod")


def _scale(slices: Sequence[_Slices], factor: float) -> None:
    for some in slices:
        some.scale_(factor)

"""When groups are chosen, shrunk and gone: the progressive schedule of HESSO (Chen et al. 2024)."""

from dataclasses import dataclass

from curvature.errors import ConfigError


@dataclass(frozen=True)
class Moment:
    """What happens in one optimiser step.

    Attributes:
        opens: a period begins: groups are chosen.
        period: number of the period, from 0; -1 outside.
        factor: what slices being removed are multiplied by after the update; None outside of a period.
        closes: the slices are gone from now on.
    """

    opens: bool
    period: int
    factor: float | None
    closes: bool


@dataclass(frozen=True)
class PruningSchedule:
    """K groups in P periods of T = ``steps // periods`` steps each, the first choice in step ``start + 1``.

    A period shrinks its groups T - 1 times (once for T = 1), linearly if gradients are zero.

    Args:
        total: K.
        start: optimiser steps before pruning, >= 0.
        steps: steps during which groups are removed, >= 1.
        periods: P, from 1 to ``steps``.
        max_steps: steps of the whole training if known.

    Raises:
        ConfigError: values out of range, or pruning would not end within ``max_steps``.
    """

    total: int
    start: int
    steps: int
    periods: int
    max_steps: int | None = None

    def __post_init__(self) -> None:
        for key, value, least in (("start_step", self.start, 0), ("pruning_steps", self.steps, 1)):
            if not isinstance(value, int) or value < least:
                raise ConfigError(f"optimizer.{key}", value, f"an integer >= {least}")
        if not isinstance(self.periods, int) or not 1 <= self.periods <= self.steps:
            allowed = f"an integer from 1 to pruning_steps={self.steps}"
            raise ConfigError("optimizer.pruning_periods", self.periods, allowed)
        if self.max_steps is not None and self.total and self.last_step > self.max_steps:
            allowed = f"at most {self.max_steps - self.start}: training ends after {self.max_steps} steps"
            raise ConfigError("optimizer.pruning_steps", self.steps, allowed)

    @property
    def length(self) -> int:
        """T, steps of a period."""
        return self.steps // self.periods

    @property
    def last_step(self) -> int:
        """The optimiser step, counted from 1, after which all K groups are zero."""
        if self.length == 1:
            return max(self.start, 1) + self.periods - 1
        return self.start + self.periods * self.length - 1

    def removed_by(self, period: int) -> int:
        """Groups removed once ``period`` (from 0) is over; the last period takes the remainder."""
        return self.total if period >= self.periods - 1 else (period + 1) * (self.total // self.periods)

    def at(self, step: int) -> Moment:
        """What happens in ``step``, counted from 1."""
        if not self.total or step < max(self.start, 1):
            return Moment(False, -1, None, False)
        first = max(self.start, 1) if self.length == 1 else self.start + 1
        period, offset = divmod(step - first, self.length)
        if step < first or period >= self.periods:
            return Moment(False, -1, None, False)
        t = (step - self.start) % self.length
        if self.length > 1 and t == 0:
            return Moment(False, period, None, False)
        factor = (self.length - t - 1) / (self.length - t)
        return Moment(offset == 0, period, factor, t == self.length - 1)


def group_target(groups: int, sparsity: float) -> int:
    """K = int(G * min(sparsity, 0.999)).

    Raises:
        ConfigError: ``sparsity`` is not in [0, 1).
    """
    if not 0.0 <= sparsity < 1.0:
        raise ConfigError("optimizer.target_group_sparsity", sparsity, "a number in [0, 1)")
    # 0.7 * 2880 is 2015.9999..., which int() would take for 2015.
    return int(round(groups * min(sparsity, 0.999), 9))

"""Learning-rate schedules over a known number of steps, as factories ``schedule(optimizer, max_steps)``."""

import math
from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from curvature.errors import ConfigError


def warmup_cosine(
    optimizer: Optimizer,
    max_steps: int,
    warmup_fraction: float = 0.1,
    warmup_steps: int | None = None,
    end_factor: float = 0.0,
) -> LambdaLR:
    """Linear warm-up from lr/warmup to lr, then half a cosine to ``end_factor`` * lr (Loshchilov and Hutter 2017).

    Args:
        optimizer: its groups' learning rates are the peak values.
        max_steps: optimiser steps of the whole run.
        warmup_fraction: share of ``max_steps`` spent in warm-up, in [0, 1).
        warmup_steps: number of warm-up steps instead of the fraction.
        end_factor: last rate over peak rate.

    Raises:
        ConfigError: the warm-up does not fit into ``max_steps``.
    """
    warmup = _warmup(max_steps, warmup_fraction, warmup_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warmup) / (max_steps - warmup))))
        return cosine if end_factor == 0.0 else end_factor + (1.0 - end_factor) * cosine

    return LambdaLR(optimizer, factor)


def warmup_linear(
    optimizer: Optimizer,
    max_steps: int,
    warmup_fraction: float = 0.1,
    warmup_steps: int | None = None,
    end_factor: float = 0.01,
) -> LambdaLR:
    """Linear warm-up, then linear decay to ``end_factor`` times the peak. Arguments as in :func:`warmup_cosine`."""
    warmup = _warmup(max_steps, warmup_fraction, warmup_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 1.0 + (end_factor - 1.0) * min(1.0, (step - warmup) / (max_steps - warmup))

    return LambdaLR(optimizer, factor)


def multistep(
    optimizer: Optimizer, max_steps: int, milestones: Sequence[float] = (0.3, 0.6, 0.9), decay: float = 0.1
) -> LambdaLR:
    """The peak rate times ``decay`` for each milestone passed.

    Args:
        milestones: ascending shares of ``max_steps``, in (0, 1).
        decay: factor at each of them.

    Raises:
        ConfigError: milestones that are not ascending shares.
    """
    if list(milestones) != sorted(milestones) or not all(0.0 < share < 1.0 for share in milestones):
        raise ConfigError("schedule.milestones", list(milestones), "ascending numbers in (0, 1)")
    steps = [round(share * max_steps) for share in milestones]
    return LambdaLR(optimizer, lambda step: decay ** sum(step >= milestone for milestone in steps))


def constant(optimizer: Optimizer, max_steps: int) -> LambdaLR:
    """The peak learning rate throughout."""
    return LambdaLR(optimizer, lambda step: 1.0)


def _warmup(max_steps: int, fraction: float, steps: int | None) -> int:
    if not 0.0 <= fraction < 1.0:
        raise ConfigError("schedule.warmup_fraction", fraction, "a number in [0, 1)")
    warmup = round(fraction * max_steps) if steps is None else steps
    if not 0 <= warmup < max_steps:
        raise ConfigError("schedule.warmup_steps", warmup, f"an integer in [0, max_steps), max_steps={max_steps}")
    return warmup

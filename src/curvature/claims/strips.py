"""Where the marks of a part's plot lie: a point for each seed, the effect, its interval, what it is compared with."""

import math
from typing import NamedTuple

from curvature.claims.effects import WORST
from curvature.claims.verdicts import PartVerdict

SWEPT = ("rate", "monotone", "best")
MARGIN = 4.0
APART = 24.0


class Label(NamedTuple):
    """A number below the axis, and how the text lies about ``x``: ``start``, ``middle`` or ``end``."""

    x: float
    text: str
    anchor: str


class Strip(NamedTuple):
    """The plot of a part; positions are percentages of its width.

    Attributes:
        values: of the seeds; none for swept arms, whose values are of another kind than their effect.
        interval: the ends of the 95 % interval, None for a bound.
        spread: of a bound whose seeds are not known, the range over them; else None.
        effect: the effect; of a bound, the worst value.
        limits: what the effect is compared with.
        labels: numbers at limits and ends that do not overlap on a phone.
    """

    values: list[float]
    interval: tuple[float, float] | None
    spread: tuple[float, float] | None
    effect: float
    limits: list[float]
    labels: list[Label]


def strip(part: PartVerdict) -> Strip | None:
    """The plot of ``part``; None if there is nothing to plot."""
    effect = part.effect
    if effect is None or not math.isfinite(effect.value):
        return None
    limits = list(part.threshold)
    values = [] if part.kind in SWEPT else [value for value in part.values.values() if math.isfinite(value)]
    ends = [end for end in (effect.low, effect.high) if math.isfinite(end)]
    shown = [effect.value, *values, *ends, *limits]
    low, high = min(shown), max(shown)
    width = high - low or abs(low) or 1.0
    low, width = (low, width) if high > low else (low - width / 2, width)

    def at(number: float) -> float:
        return round(MARGIN + (100 - 2 * MARGIN) * (number - low) / width, 2)

    labels: list[Label] = []
    for number in (*limits, min(shown), max(shown)):
        x = at(number)
        if all(abs(x - label.x) >= APART for label in labels):
            anchor = "start" if x < APART / 2 else "end" if x > 100 - APART / 2 else "middle"
            labels.append(Label(x, f"{number:.3g}", anchor))
    reach = (at(ends[0]), at(ends[1])) if len(ends) == 2 and part.kind != "best" else None
    bound = part.kind in WORST
    return Strip(
        values=[at(value) for value in values],
        interval=None if bound else reach,
        spread=reach if bound and not values else None,
        effect=at(effect.value),
        limits=[at(limit) for limit in limits],
        labels=labels,
    )

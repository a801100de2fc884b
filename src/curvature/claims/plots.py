"""Plots of verdicts: every seed as a point, the mean with its interval, the threshold."""

import math
from pathlib import Path

from curvature.claims.verdicts import ClaimVerdict

COLOURS = {"reproduced": "#2e7d32", "contradicted": "#c62828", "inconclusive": "#b26a00"}


def plot_claim(verdict: ClaimVerdict, path: Path) -> bool:
    """Write one PNG with a panel for each part of a judged claim; False if there is nothing to plot."""
    parts = [part for part in verdict.parts if part.effect is not None and math.isfinite(part.effect.value)]
    if not parts:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 0.5 + 0.85 * len(parts)), layout="constrained")
    axes = figure.subplots(len(parts), 1, squeeze=False)[:, 0]
    for axis, part in zip(axes, parts, strict=True):
        effect = part.effect
        assert effect is not None
        colour = COLOURS.get(part.verdict, "#666666")
        axis.plot(list(part.values.values()), [0.25] * len(part.values), "o", color="#888888", ms=4, alpha=0.7)
        if math.isfinite(effect.low) and math.isfinite(effect.high):
            axis.plot([effect.low, effect.high], [-0.2, -0.2], "-", color=colour, lw=2)
        axis.plot([effect.value], [-0.2], "D", color=colour, ms=6)
        for bound in part.threshold:
            axis.axvline(bound, color="#444444", ls="--", lw=0.8)
        axis.set_ylim(-0.7, 0.7)
        axis.set_yticks([])
        axis.spines[["top", "left", "right"]].set_visible(False)
        title = f"{part.name}{' (informative)' if part.informative else ''}: {part.verdict}"
        axis.set_title(title, fontsize=8, loc="left")
        axis.tick_params(labelsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return True

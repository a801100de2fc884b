"""The plots of a claim's parts as one picture, for MLflow and for papers; the report draws the same in its pages."""

import io
from pathlib import Path

from curvature.claims.palette import PALETTE
from curvature.claims.strips import strip
from curvature.claims.verdicts import ClaimVerdict
from curvature.rundir import write_atomically


def plot_claim(verdict: ClaimVerdict, path: Path) -> bool:
    """Write one PNG with a panel for each part of ``verdict``: seeds, effect, interval and what it is compared with.

    Returns:
        False if there is nothing to plot; then nothing is written.
    """
    panels = [(part, drawn) for part in verdict.parts if (drawn := strip(part)) is not None]
    if not panels:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 0.3 + 0.8 * len(panels)), layout="constrained")
    for axis, (part, drawn) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        colour = PALETTE[part.verdict].light
        axis.plot(drawn.values, [0.3] * len(drawn.values), "o", color="#57606a", mfc="none", ms=5)
        for ends, width in ((drawn.interval, 2.5), (drawn.spread, 1.0)):
            if ends:
                axis.plot(ends, [-0.2, -0.2], "-", color=colour, lw=width)
        axis.plot([drawn.effect], [-0.2], "o", color=colour, ms=6)
        for limit in drawn.limits:
            axis.axvline(limit, color="#24292f", ls="--", lw=0.8)
        axis.set(xlim=(0, 100), ylim=(-0.6, 0.6), yticks=[])
        axis.set_xticks([label.x for label in drawn.labels], [label.text for label in drawn.labels], fontsize=8)
        axis.spines[["top", "left", "right"]].set_visible(False)
        title = f"{part.name}{' (informative)' if part.informative else ''}: {part.verdict}"
        axis.set_title(title, fontsize=8, loc="left")
    picture = io.BytesIO()
    figure.savefig(picture, dpi=130)
    write_atomically(path, picture.getvalue())
    return True

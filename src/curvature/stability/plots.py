"""Figures of one sweep over learning rates: sharpness against its bound, norm and test loss, trajectories."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = Sequence[tuple[int, Mapping[str, float]]]
"""Steps taken, and metrics by name and label."""


def sweep_figure(
    positions: Sequence[float], bounds: Sequence[float], per_lane: Sequence[Mapping[str, float]], norm: str, axis: str
) -> "Figure":
    """Trace, largest eigenvalue and ``2 / rate``; a parameter norm; test loss. Hollow marks are not eligible.

    Args:
        positions: places of the lanes on the axis of the sweep.
        bounds: ``2 / rate`` of the lanes.
        per_lane: metrics of the lanes.
        norm: metric to show, e.g. ``norm/l1``.
        axis: label of the axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    eligible = [lane["stability/eligible"] == 1 for lane in per_lane]
    for name, label in (("sharpness/trace", "trace"), ("sharpness/lambda_max", "largest eigenvalue")):
        values = [lane[name] for lane in per_lane]
        (line,) = left.plot(positions, values, label=label)
        for place, value, filled in zip(positions, values, eligible):
            left.plot(place, value, "o", color=line.get_color(), fillstyle="full" if filled else "none")
    left.plot(positions, bounds, "k--", label="2 / learning rate")
    left.legend()
    left.set_ylabel("sharpness")
    middle.plot(positions, [lane[norm] for lane in per_lane], "o-")
    middle.set_ylabel(norm.removeprefix("norm/").replace("_", " "))
    right.plot(positions, [lane["test/loss"] for lane in per_lane], "o-")
    right.set_ylabel("test loss")
    for panel in (left, middle, right):
        panel.set(xscale="log", yscale="log", xlabel=axis)
        _at_least_a_decade(panel)
    return figure


def trajectory_figure(
    history: History, labels: Sequence[str], bounds: Sequence[float], norm: str, threshold: float | None = None
) -> "Figure":
    """Training loss, test loss, gradient norm, trace with ``2 / rate`` (dashed) and a parameter norm over the steps.

    Args:
        history: as recorded.
        labels: of the lanes; one colour each.
        bounds: ``2 / rate`` of the lanes.
        norm: metric to show, e.g. ``norm/l1``.
        threshold: at which the gradient of the whole training set is clipped; drawn unless None.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.4), layout="constrained")
    *panels, spare = figure.subplots(2, 3).flat
    spare.set_axis_off()
    steps = [step for step, _ in history]
    names = ("train/loss", "test/loss", "train/gradient_norm", "sharpness/trace", norm)
    for label, bound in zip(labels, bounds):
        for panel, name in zip(panels, names):
            values = [metrics[f"{name}/{label}"] for _, metrics in history]
            (line,) = panel.plot(steps, values, label=label.replace("_", " "))
            panel.set(yscale="log", xlabel="step", ylabel=name)
            panel.set_xscale("symlog", linthresh=max(steps[1:2] or [1]))
        panels[3].axhline(bound, color=line.get_color(), linestyle="--", linewidth=0.8)
    if threshold is not None:
        panels[2].axhline(threshold, color="k", linestyle="--", linewidth=0.8)
    spare.legend(*panels[0].get_legend_handles_labels(), loc="center left")
    for panel in panels:
        _at_least_a_decade(panel)
    return figure


def escape_figure(history: History, labels: Sequence[str], growth: Sequence[float]) -> "Figure":
    """Training loss after a perturbation of a minimum, and its expectation ``loss * growth^step`` (dotted).

    Args:
        history: as recorded, step 0 first.
        labels: of the lanes.
        growth: factor of the expected loss a step near the minimum, one a lane.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    panel = figure.subplots()
    steps = [step for step, _ in history]
    for label, factor in zip(labels, growth):
        losses = [metrics[f"train/loss/{label}"] for _, metrics in history]
        (line,) = panel.plot(steps, losses, label=f"{label.replace('_', ' ')}, factor {factor:.3g}")
        ceiling = max(losses)
        expected = [(step, math.log(losses[0]) + step * math.log(factor)) for step in steps]
        shown = [(step, math.exp(value)) for step, value in expected if -700 < value < math.log(ceiling)]
        panel.plot(*zip(*shown), color=line.get_color(), linestyle=":")
    panel.set(yscale="log", xlabel="step", ylabel="train/loss", ylim=(1e-20, None))
    panel.set_xscale("symlog", linthresh=max(steps[1:2] or [1]))
    panel.set_xlim(0, None)
    panel.legend(fontsize="small")
    return figure


def _at_least_a_decade(panel: "Axes") -> None:
    """Keep a logarithmic axis from blowing up differences of a few percent."""
    low, high = panel.get_ylim()
    if high < 10 * low:
        centre = (low * high) ** 0.5
        panel.set_ylim(centre / 10**0.5, centre * 10**0.5)

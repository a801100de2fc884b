"""Table and figure of experiments/grassmann_head from its finished runs.

``python -m curvature.papers.grassmann_head_figures [experiment=...] outputs=DIR`` writes ``arms.csv``, what every run
came to, and ``dimension.png``, accuracy, transfer, variability and separation over the dimension of the subspaces with
the softmax head as a line and the paper's figures beside. Beyond desk scale the names hold the scale:
``arms.lab.csv``. Arguments are Hydra overrides, those of the sweep.
"""

import csv
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from curvature.papers.page import arms_table, finished_page, write_arms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEPT = ("test/accuracy", "transfer/", "features/", "subspaces/", "angles/", "train/loss_last")
SWEEP, SOFTMAX = "gcr", "softmax"
DIMENSIONS = (1, 4, 8, 16, 32)
PANELS = {
    "test/accuracy": "test accuracy",
    "transfer": "linear transfer",
    "features/variability": "variability, degrees",
    "features/separation": "separation R2",
}
PAPER = {
    "test/accuracy": (0.7842, 0.7868, 0.7926, 0.7921, 0.7863),
    "transfer": (0.7364, 0.7621, 0.7764, 0.7895, 0.7970),
    "features/variability": (56.50, 61.48, 63.49, 65.79, 67.74),
    "features/separation": (0.534, 0.459, 0.430, 0.395, 0.365),
}
"""ResNet50-D on ImageNet-1K for each of ``DIMENSIONS`` (the paper's Table 3); transfer is the mean of six data sets."""


def dimension_figure(table: Path) -> "Figure":
    """Panels of ``PANELS`` over the dimension, drawn from ``arms.csv``.

    Points are seeds, lines means over seeds, dashed lines the means of the softmax heads of the same labels; grey
    squares on the right axis are the paper's.
    """
    from matplotlib.figure import Figure

    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    sweeps = list(dict.fromkeys(row["arm"] for row in rows if row["arm"].endswith(SWEEP)))
    figure = Figure(figsize=(13, 3.4), layout="constrained")
    for panel, (metric, label) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for number, arm in enumerate(sweeps):
            _draw_sweep(panel, rows, arm, metric, f"C{number}")
        beside = panel.twinx()
        beside.plot(DIMENSIONS, PAPER[metric], "s:", color="0.6", markersize=4, label="paper (right axis)")
        beside.tick_params(axis="y", colors="0.5")
        panel.set(xscale="log", xlabel="dimension k", title=label)
        panel.set_xticks(DIMENSIONS, [str(k) for k in DIMENSIONS])
        panel.minorticks_off()
        handles, labels = panel.get_legend_handles_labels()
        more, names = beside.get_legend_handles_labels()
        if metric == "test/accuracy":
            figure.legend(handles + more, labels + names, loc="outside lower center", ncols=len(labels) + 1)
    return figure


def _draw_sweep(panel: "Axes", rows: list[dict[str, str]], arm: str, metric: str, colour: str) -> None:
    prefix = arm.removesuffix(SWEEP)
    by_dimension: dict[int, list[float]] = defaultdict(list)
    for row in (row for row in rows if row["arm"] == arm):
        by_dimension[int(row["subspace_dim"])].append(_value(row, metric))
    places = sorted(by_dimension)
    for place in places:
        panel.plot([place] * len(by_dimension[place]), by_dimension[place], "o", color=colour, alpha=0.5, markersize=4)
    name = prefix.strip("-") or "ours"
    panel.plot(places, [_mean(by_dimension[place]) for place in places], color=colour, label=f"{name}: subspaces")
    reference = [_value(row, metric) for row in rows if row["arm"] == f"{prefix}{SOFTMAX}"]
    if reference:
        panel.axhline(_mean(reference), color=colour, linestyle="--", label=f"{name}: softmax")


def _value(row: dict[str, str], metric: str) -> float:
    """A cell; ``transfer`` is the mean over targets."""
    return float(row["transfer/mean" if metric == "transfer" else metric])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def main(arguments: Sequence[str]) -> None:
    """Write into the folder of the paper's page.

    Args:
        arguments: Hydra overrides; without ``experiment=`` those of desk scale.
    """
    page = finished_page(arguments, experiment="grassmann_head")
    table = arms_table(page)
    write_arms(page, table, KEPT, swept="subspace_dim")
    figure = dimension_figure(table)
    figure.savefig(table.with_name(table.name.replace("arms", "dimension", 1)).with_suffix(".png"), dpi=80)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Figures of experiments/hesso from its finished runs: ``python -m curvature.papers.hesso_figures``.

``arms.csv`` (``arms.lab.csv``): what every run came to, with the means over seeds printed; ``accuracy.png``: test
accuracy of every seed over the share of groups that is removed, on the rescaled network, and over the survivors of the
smallest layer; ``saliency.png``: what seed 0 left of progressive pruning at 0.93. Arguments are Hydra overrides, e.g.
``outputs=DIR``.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from curvature.papers.page import Page, PageRun, arms_table, finished_page, markdown_of_arms, shrink, write_arms
from curvature.rundir import RunDirectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEPT = (
    "test/accuracy", "groups/", "params/left", "macs/left", "latency/left", "slim/max_difference", "passes/",
    "control/", "cric/", "one_point/", "pooled/", "taylor/", "zoo/",
)  # fmt: skip
COLUMNS = {
    "test/accuracy": "test accuracy",
    "params/left": "parameters left",
    "macs/left": "operations left",
    "groups/zero": "groups removed",
}
SERIES = {
    "HESSO, five periods": {
        "mlp-50": 0.5,
        "hesso-75": 0.75,
        "progressive-85": 0.85,
        "progressive-93": 0.93,
    },
    "one period": {"period-85": 0.85, "period-93": 0.93},
    "at once": {"hard-85": 0.85, "hard-93": 0.93},
    "at once, magnitude": {"hard-magnitude-85": 0.85, "hard-magnitude-93": 0.93},
    "five periods, random": {"random-85": 0.85, "random-93": 0.93},
    "CRIC": {"cric-50": 0.5, "cric-75": 0.75, "cric-85": 0.85},
    "CRIC as released": {"cric-released-75": 0.75},
}
RESCALED = {
    "rescaled-dense": "dense",
    "rescaled-taylor": "Taylor",
    "rescaled-cric": "CRIC",
    "rescaled-hesso": "HESSO",
    "rescaled-cric-released": "CRIC as released",
    "rescaled-magnitude-4x": "magnitude, 4 x",
    "rescaled-magnitude": "magnitude",
}
SALIENCY = "progressive-93"
SHIFT = 0.006
COLOURS = ("tab:blue", "black", "tab:green", "tab:red", "tab:purple", "tab:olive", "tab:orange")


def accuracy_figure(page: Page) -> "Figure":
    """Accuracy over group sparsity; accuracy on the rescaled network; accuracy over survivors of the smallest layer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, sharey=True)
    for number, (label, arms) in enumerate(SERIES.items()):
        colour = COLOURS[number]
        means = []
        for arm, share in arms.items():
            values = _accuracies(page, arm)
            left.plot([share + SHIFT * number] * len(values), values, "o", color=colour, markersize=3)
            if values:
                means.append((share + SHIFT * number, sum(values) / len(values)))
            _draw_survivors(right, page, arm, colour)
        if means:
            left.plot(*zip(*means, strict=True), color=colour, marker="_", linewidth=1, label=label)
    left.set(xlabel="share of 128 units removed", ylabel="test accuracy", title="MLP on digits (series side by side)")
    left.set_xlim(0.45, 1.0)
    left.legend(fontsize="small", loc="lower left")
    for place, arm in enumerate(RESCALED):
        values = _accuracies(page, arm)
        middle.plot([place] * len(values), values, "o", color="tab:blue", markersize=4)
    middle.set_xticks(range(len(RESCALED)), list(RESCALED.values()), rotation=35, ha="right")
    middle.set(title="rescaled MLP, half of the units removed")
    right.set(xscale="log", xlabel="units left in the smaller layer", title="the runs on the left")
    return figure


def _of(page: Page, arm: str) -> list[PageRun]:
    return [run for run in page.runs if run.planned.arm == arm]


def _accuracies(page: Page, arm: str) -> list[float]:
    return [run.metrics["test/accuracy"] for run in _of(page, arm)]


def _draw_survivors(panel: "Axes", page: Page, arm: str, colour: str) -> None:
    for run in _of(page, arm):
        panel.plot(run.metrics["groups/least_left"], run.metrics["test/accuracy"], "o", color=colour, markersize=4)


def main(arguments: Sequence[str]) -> None:
    """Draw into the folder of the paper's page.

    Args:
        arguments: Hydra overrides on ``experiment=hesso``; with ``experiment=lab/hesso`` only the table is written.
    """
    page = finished_page(arguments, experiment="hesso")
    folder = page.claims.parent
    write_arms(page, arms_table(page), KEPT)
    print(markdown_of_arms(arms_table(page), COLUMNS))
    if page.config.scale != "desk":
        return
    accuracy_figure(page).savefig(folder / "accuracy.png", dpi=80)
    shrink(folder / "accuracy.png", folder / "accuracy.png")
    first = next((run.planned for run in _of(page, SALIENCY) if run.planned.seed == 0), None)
    if first is not None:
        left = RunDirectory(page.config.outputs, page.config.paper, first.fingerprint).artifacts
        if (left / "plots" / "saliency.png").exists():
            shrink(left / "plots" / "saliency.png", folder / "saliency.png")


if __name__ == "__main__":
    main(sys.argv[1:])

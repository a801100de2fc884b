"""Table and figure of experiments/spd_batchnorm from its finished runs.

``python -m curvature.papers.spd_batchnorm_figures [experiment=...] outputs=DIR`` writes ``arms.csv``, what every run
came to, and ``accuracy.png``, the test accuracy of every norm on each data set and the share of folded samples over
theta. Beyond desk scale the names hold the scale: ``arms.lab.csv``. Arguments are Hydra overrides, those of the sweep.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from curvature.papers.page import arms_table, finished_page, write_arms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEPT = ("test/accuracy", "norm/", "data/", "fact/")
DATA = {"ill": "ill-conditioned", "control": "control", "digits": "digits", "": "MAMEM, a point a subject"}
"""Prefix of an arm -> title of its panel; the arms of lab scale have none."""
NORMS = {
    "none": "none",
    "aim": "aim",
    "lie-aim": "lie-aim",
    "lie-aim-150": "lie-aim, theta 1.5",
    "lem": "lie-lem",
    "lcm": "lie-lcm",
    "spdmbn": "spdmbn",
    "bw": "bw",
    "gbw": "gbw, theta 1",
    "gbw-75": "gbw, theta 0.75",
    "gbw-50": "gbw, theta 0.5",
    "gbw-25": "gbw, theta 0.25",
}
THETAS = {"gbw": 1.0, "gbw-75": 0.75, "gbw-50": 0.5, "gbw-25": 0.25}

Table = dict[str, list[dict[str, str]]]


def accuracy_figure(table: Path) -> "Figure":
    """A panel of test accuracies for each data set in ``table``, drawn from ``arms.csv``, and one of folded shares.

    Circles are seeds, or subjects; bars their mean. The last panel has means over seeds at the values of theta.
    """
    from matplotlib.figure import Figure

    arms: Table = {}
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            arms.setdefault(row["arm"], []).append(row)
    found = [data for data in DATA if any(_arm(data, norm) in arms for norm in NORMS)]
    norms = [norm for norm in NORMS if any(_arm(data, norm) in arms for data in found)]
    height = 1.2 + 0.25 * len(norms)
    figure = Figure(figsize=(3.0 + 3.0 * len(found), max(3.2, height)), layout="constrained")
    *panels, last = figure.subplots(1, len(found) + 1)
    for panel, data in zip(panels, found, strict=True):
        for place, norm in enumerate(norms):
            values = _values(arms, _arm(data, norm), "test/accuracy")
            colour = "C1" if "bw" in norm else "C0"
            panel.plot(values, [place] * len(values), "o", color=colour, alpha=0.4, markersize=4)
            if values:
                panel.plot([sum(values) / len(values)], [place], "|", color=colour, markersize=16, markeredgewidth=2.5)
        panel.set_yticks(range(len(norms)), [NORMS[norm] if panel is panels[0] else "" for norm in norms])
        panel.set(ylim=(len(norms) - 0.5, -0.5), title=DATA[data], xlabel="test accuracy")
        panel.grid(axis="y", alpha=0.3)
    _draw_folded(last, arms, found)
    return figure


def _draw_folded(panel: "Axes", arms: Table, found: Sequence[str]) -> None:
    for data in found:
        curve = [
            (theta, sum(values) / len(values))
            for norm, theta in THETAS.items()
            if (values := _values(arms, _arm(data, norm), "norm/folded"))
        ]
        panel.plot([theta for theta, _ in curve], [share for _, share in curve], "o-", label=DATA[data].split(",")[0])
    panel.set(title="folded samples", xlabel="theta", ylabel="share", ylim=(-0.01, None))
    panel.legend(fontsize="small")


def _arm(data: str, norm: str) -> str:
    return f"{data}-{norm}" if data else norm


def _values(arms: Table, arm: str, metric: str) -> list[float]:
    return [float(row[metric]) for row in arms.get(arm, []) if row.get(metric)]


def main(arguments: Sequence[str]) -> None:
    """Write into the folder of the paper's page.

    Args:
        arguments: Hydra overrides; without ``experiment=`` those of desk scale.
    """
    page = finished_page(arguments, experiment="spd_batchnorm")
    table = arms_table(page)
    write_arms(page, table, KEPT)
    figure = accuracy_figure(table)
    figure.savefig(table.with_name(table.name.replace("arms", "accuracy", 1)).with_suffix(".png"), dpi=80)


if __name__ == "__main__":
    main(sys.argv[1:])

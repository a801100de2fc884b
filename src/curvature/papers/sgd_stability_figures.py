"""Figures of experiments/sgd_stability from its finished runs: ``python -m curvature.papers.sgd_stability_figures``.

``rates.png``: sharpness with its bound, norm and test loss over learning rates, every seed of SGD and gradient descent;
``trajectories.png`` and ``escape.png``: what seed 0 left of SGD on the diagonal linear net and of the escape study.
Arguments are Hydra overrides, e.g. ``outputs=DIR``.
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from curvature.papers.page import Page, finished_page, shrink
from curvature.rundir import RunDirectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NETS = {"dln": ("diagonal linear net", "l1"), "relu": ("ReLU net", "path_norm"), "digits": ("digits", "path_norm")}
NORMS = {"l1": "l1 norm of beta", "path_norm": "path norm"}
ALGORITHMS = {"sgd": ("SGD", "tab:blue"), "gd": ("gradient descent", "tab:orange")}
SHARPNESS = {"sharpness/trace": "trace", "sharpness/lambda_max": "largest eigenvalue"}
RUN_FIGURES = {"trajectories": "dln-sgd", "escape": "escape"}


def rates_figure(page: Page) -> "Figure":
    """One row a net that has runs: trace, largest eigenvalue, norm and test loss over the grid of learning rates.

    Points are seeds, hollow if the run is not eligible, and lines means over seeds. Dashed is ``2 / rate`` of the
    algorithm that bounds the panel's metric: SGD for the trace, gradient descent for the eigenvalue. Lanes that
    diverged are left out.
    """
    from matplotlib.figure import Figure

    present = {run.planned.arm.partition("-")[0] for run in page.runs}
    nets = {net: names for net, names in NETS.items() if net in present}
    figure = Figure(figsize=(13, 3.1 * len(nets)), layout="constrained")
    rows = figure.subplots(len(nets), 4, squeeze=False)
    for panels, (net, (title, norm)) in zip(rows, nets.items(), strict=True):
        columns = {**SHARPNESS, f"norm/{norm}": NORMS[norm], "test/loss": "test loss"}
        for algorithm, (label, colour) in ALGORITHMS.items():
            for panel, metric in zip(panels, columns, strict=True):
                _draw_arm(panel, page, f"{net}-{algorithm}", metric, colour, label)
        for panel, name in zip(panels, columns.values(), strict=True):
            panel.set(xscale="log", yscale="log", xlabel="learning rate" + " (SGD: / sqrt(d))" * (net == "relu"))
            panel.set_title(f"{title}: {name}", fontsize="medium")
        for panel, algorithm in zip(panels, ALGORITHMS):
            _draw_bound(panel, page, f"{net}-{algorithm}")
        panels[0].legend(fontsize="small")
        for panel in panels:
            _label_within_decades(panel)
    return figure


def _draw_arm(panel: "Axes", page: Page, arm: str, metric: str, colour: str, label: str) -> None:
    by_place: dict[float, list[float]] = defaultdict(list)
    for run in (run for run in page.runs if run.planned.arm == arm):
        for name, value in run.metrics.items():
            if not name.startswith(f"{metric}/lr_"):
                continue
            place = name.removeprefix(f"{metric}/lr_")
            if run.metrics.get(f"stability/ineligible/lr_{place}") == 1:
                continue
            eligible = run.metrics.get(f"stability/eligible/lr_{place}") == 1
            panel.plot(
                float(place),
                value,
                "o",
                color=colour,
                markersize=4,
                alpha=0.6,
                fillstyle="full" if eligible else "none",
            )
            by_place[float(place)].append(value)
    places = sorted(by_place)
    panel.plot(places, [sum(by_place[p]) / len(by_place[p]) for p in places], color=colour, label=label)


def _label_within_decades(panel: "Axes") -> None:
    """Ticks at 1, 2 and 5 of each decade where fewer than two decades are shown."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    low, high = panel.get_ylim()
    if high < 100 * low:
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    panel.yaxis.set_minor_formatter(NullFormatter())


def _draw_bound(panel: "Axes", page: Page, arm: str) -> None:
    run = next((run for run in page.runs if run.planned.arm == arm), None)
    if run is None:
        return
    cfg = page.compose(run.planned.overrides)
    places = sorted(float(place) for place in cfg.grid)
    panel.plot(
        places, [2 / (cfg.rate_scale * place) for place in places], "k--", linewidth=1, label="2 / learning rate"
    )


def main(arguments: Sequence[str]) -> None:
    """Draw into the folder of the paper's page.

    Args:
        arguments: Hydra overrides on ``experiment=sgd_stability``.
    """
    arms = {f"{net}-{algorithm}" for net in NETS for algorithm in ALGORITHMS} | set(RUN_FIGURES.values())
    page = finished_page(["experiment=sgd_stability", *arguments], arms)
    folder = page.claims.parent
    rates_figure(page).savefig(folder / "rates.png", dpi=80)
    shrink(folder / "rates.png", folder / "rates.png")
    for name, arm in RUN_FIGURES.items():
        first = next((run.planned for run in page.runs if run.planned.arm == arm and run.planned.seed == 0), None)
        if first is not None:
            left = RunDirectory(page.config.outputs, page.config.paper, first.fingerprint).artifacts
            shrink(left / "plots" / f"{name}.png", folder / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1:])

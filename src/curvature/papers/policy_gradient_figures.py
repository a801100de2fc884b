"""Page of experiments/policy_gradient from its finished runs: ``python -m curvature.papers.policy_gradient_figures``.

``arms.csv`` (``arms.lab.csv`` with ``experiment=lab/policy_gradient``): a line a run. ``learning_curves.png``, at desk
scale: returns on CartPole and Reacher over trajectories, estimation error on LQR over iterations.
Arguments are Hydra overrides, e.g. ``outputs=DIR``.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from curvature.papers.page import Page, arms_table, finished_page, shrink, write_arms
from curvature.rundir import RunDirectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METHODS = {
    "igt": ("N-PG-IGT", "tab:blue"),
    "n-harpg": ("N-HARPG", "tab:orange"),
    "harpg": ("HARPG", "tab:red"),
    "momentum": ("normalised momentum", "tab:green"),
    "vanilla": ("vanilla policy gradient", "tab:gray"),
}
KEPT = (
    "return/final",
    "return/mean",
    "error/slope",
    "gap/slope",
    "gap/final",
    "unstable",
    "count/trajectories",
)
PANELS = {"cartpole": ("CartPole", "return"), "reacher": ("Reacher", "return"), "lqr": ("LQR", "error")}


def curve(page: Page, fingerprint: str, metric: str) -> dict[int, float]:
    """Logged values of ``metric`` by step, of one finished run."""
    lines = (RunDirectory(page.config.outputs, page.config.paper, fingerprint).path / "metrics.jsonl").read_text()
    records = map(json.loads, lines.splitlines())
    return {int(r["step"]): float(r["value"]) for r in records if r.get("key") == metric}


def curves_figure(page: Page) -> "Figure":
    """One panel an environment: mean over seeds of every method that has runs, with its standard error.

    Returns are over trajectories drawn in training, so that methods that draw two an iteration end where the others do.
    The error is the mean over 64 problems side by side; both of its axes are logarithmic.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.6), layout="constrained")
    for panel, (environment, (title, metric)) in zip(figure.subplots(1, len(PANELS)), PANELS.items()):
        for method, (label, colour) in METHODS.items():
            _draw(panel, page, f"{environment}-{method}", metric, label, colour)
        if metric == "error":
            panel.set(xscale="log", yscale="log")
        panel.set(title=title, xlabel="iterations" if metric == "error" else "trajectories", ylabel=metric)
        if panel.lines:
            panel.legend(fontsize=8)
    return figure


def _draw(panel: "Axes", page: Page, arm: str, metric: str, label: str, colour: str) -> None:
    by_step: dict[float, list[float]] = defaultdict(list)
    for run in (run for run in page.runs if run.planned.arm == arm):
        cfg = page.compose(run.planned.overrides)
        a_step = cfg.data.get("chunk", 1) if metric == "error" else run.metrics["count/trajectories"] / cfg.max_steps
        for step, value in curve(page, run.planned.fingerprint, metric).items():
            by_step[step * a_step].append(value)
    if not by_step:
        return
    steps = sorted(step for step in by_step if step > 0 or metric != "error")
    means = np.array([np.mean(by_step[step]) for step in steps])
    errors = np.array([np.std(by_step[step], ddof=1) / len(by_step[step]) ** 0.5 for step in steps])
    panel.plot(steps, means, color=colour, label=label)
    panel.fill_between(steps, means - errors, means + errors, color=colour, alpha=0.2, linewidth=0)


def main(arguments: Sequence[str]) -> None:
    """Write into the folder of the paper's page.

    Args:
        arguments: Hydra overrides; without ``experiment=`` those of desk scale.
    """
    page = finished_page(arguments, experiment="policy_gradient")
    table = arms_table(page)
    write_arms(page, table, KEPT, swept="lr")
    if page.config.scale != "desk":
        return
    path = page.claims.parent / "learning_curves.png"
    curves_figure(page).savefig(path, dpi=80)
    shrink(path, path)


if __name__ == "__main__":
    main(sys.argv[1:])

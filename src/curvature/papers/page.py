"""What the figures of a paper's page are drawn from: the finished runs of its claims."""

import csv
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from curvature.claims.collect import collect
from curvature.claims.files import claims_file
from curvature.claims.plan import PlannedRun, plan
from curvature.claims.schema import load
from curvature.configs import config_directory

COLOURS = 48


class PageRun(NamedTuple):
    """A planned run that has finished, and what it measured."""

    planned: PlannedRun
    metrics: dict[str, float]


class Page(NamedTuple):
    """The finished runs of a paper.

    Attributes:
        runs: of the selected claims, in the order of the plan.
        claims: their claims file; figures lie beside it.
        config: the composed config, with ``outputs``, ``paper`` and ``scale``.
        compose: Hydra overrides -> config of a run.
    """

    runs: list[PageRun]
    claims: Path
    config: Any
    compose: Callable[[list[str]], Any]


def finished_page(arguments: Sequence[str], arms: Collection[str] | None = None, experiment: str | None = None) -> Page:
    """The runs behind a page, without starting any.

    Args:
        arguments: Hydra overrides, ``experiment=`` and, for other stores than the default one, ``outputs=`` among them;
            ``claim=ID,ID`` selects claims.
        arms: only these arms; None takes all.
        experiment: taken where ``arguments`` name none.
    """
    from hydra import compose, initialize_config_dir

    def composed(overrides: list[str]) -> Any:
        with initialize_config_dir(str(config_directory()), version_base="1.3"):
            return compose("config", overrides=overrides)

    overrides = [argument for argument in arguments if not argument.startswith("claim=")]
    if experiment is not None and not any(argument.startswith("experiment=") for argument in overrides):
        overrides = [f"experiment={experiment}", *overrides]
    wanted = [name for argument in arguments if argument not in overrides for name in argument[6:].split(",")]
    cfg = composed(overrides)
    file = claims_file(cfg.experiments, cfg.paper, cfg.scale)
    claims = load(file)
    runs = plan(claims, claims.select(wanted or None), composed, overrides)
    runs = [run for run in runs if arms is None or run.arm in arms]
    results = collect(runs, Path(cfg.outputs), cfg.paper, cfg.tracking.uri)
    found = [PageRun(run, dict(results[run.fingerprint].metrics)) for run in runs if run.fingerprint in results]
    return Page(found, file, cfg, composed)


def arms_table(page: Page) -> Path:
    """Where :func:`write_arms` writes: ``arms.csv`` beside the claims, ``arms.lab.csv`` at lab scale."""
    return page.claims.with_name(page.claims.name.replace("claims", "arms", 1)).with_suffix(".csv")


def write_arms(page: Page, path: Path, kept: tuple[str, ...], swept: str | None = None) -> None:
    """One line a run: arm, seed, and its metrics; of these the README's tables of arms are means.

    Args:
        page: the finished runs. A run that is of several arms stands once, under the one that sweeps.
        path: the CSV file.
        kept: what the names of the metrics begin with.
        swept: name of the column of an arm's swept value; None leaves it out.
    """
    names = sorted({name for run in page.runs for name in run.metrics if name.startswith(kept)})
    once = {run.planned.fingerprint: run for run in sorted(page.runs, key=lambda run: run.planned.value is not None)}
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["arm", *([swept] if swept else []), "seed", *names])
        for planned, metrics in sorted(once.values(), key=lambda run: (run.planned.arm, run.planned.value or 0)):
            value = "" if planned.value is None else f"{planned.value:g}"
            cells = (f"{metrics[name]:.6g}" if name in metrics else "" for name in names)
            writer.writerow([planned.arm, *([value] if swept else []), planned.seed, *cells])


def markdown_of_arms(path: Path, columns: Mapping[str, str]) -> str:
    """Means and standard deviations over seeds of the file of :func:`write_arms`, a row an arm that has all of them.

    Args:
        path: the CSV file.
        columns: metric -> heading.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [f"| arm | {' | '.join(columns.values())} |", "|---" * (1 + len(columns)) + "|"]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        cells = []
        for name in columns:
            values = [float(row[name]) for row in rows if row["arm"] == arm and row.get(name)]
            spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3g}{spread}" if values else "")
        if all(cells):
            lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shrink(source: Path, target: Path) -> None:
    """The picture in few colours, a fraction of the bytes."""
    from PIL import Image

    with Image.open(source) as picture:
        reduced = picture.convert("RGB").quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    reduced.save(target, optimize=True)

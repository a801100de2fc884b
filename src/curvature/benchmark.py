"""The harness of benchmarks: rows of the table, growth over size, records that say where they come from."""

import argparse
import importlib.metadata
import inspect
import json
import math
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from curvature.rundir import write_atomically
from curvature.timing import Action, StorageMeter, interleaved, median_ratio, peak_bytes
from curvature.tracking.provenance import checkout, processor

__all__ = [
    "Action",
    "Row",
    "StorageMeter",
    "growth",
    "interleaved",
    "main",
    "markdown",
    "median_ratio",
    "origin",
    "peak_bytes",
    "plot_growth",
    "print_rows",
    "save",
]

FAILED = "failed"

LEVEL = 0.05
"""How far from one a ratio without a limit counts as equal: arms that do the same thing differ by as much."""

FITTED = 4
"""Fewest sizes that an exponent is fitted to."""

WRITTEN = ("benchmarks/README.md", "benchmarks/growth.png")
"""What a benchmark itself renews in a checkout, and what therefore does not make it dirty."""

COLOURS = {
    "holds": "green",
    "ahead": "green",
    "level": "green",
    "below": "cyan",
    "quoted": "cyan",
    "behind": "yellow",
    "missed": "red",
    FAILED: "red",
    "unavailable": "magenta",
}


@dataclass(frozen=True)
class Row:
    """One comparison. Ratios are costs, ours over theirs: below one we are ahead.

    Attributes:
        what: what is measured.
        against: the peer or the floor.
        ratio: median ratio; None if the other side could not run.
        limit: largest ratio that is promised; None if nothing is.
        note: the setting, absolute figures, or why the other side could not run.
        memory: ratio of peak memory, where it was measured.
        quoted: the other side's figure was published, not measured here: neither a win nor a miss.
        least: smallest ratio that theory allows; below it something else than the theory was measured.
        failed: the benchmark did not end; ``note`` says why.
    """

    what: str
    against: str
    ratio: float | None
    limit: float | None = None
    note: str = ""
    memory: float | None = None
    quoted: bool = False
    least: float | None = None
    failed: bool = False

    @property
    def status(self) -> str:
        """``holds``, ``missed`` or ``below`` with a limit, ``ahead``, ``level`` or ``behind`` without.

        ``unavailable`` without a ratio, ``quoted`` and ``failed`` as marked.
        """
        if self.failed:
            return FAILED
        if self.ratio is None or math.isnan(self.ratio):
            return "unavailable"
        if self.quoted:
            return "quoted"
        if self.limit is None:
            if round(abs(self.ratio - 1.0), 9) <= LEVEL:
                return "level"
            return "ahead" if self.ratio < 1.0 else "behind"
        if self.least is not None and self.ratio < self.least:
            return "below"
        return "holds" if self.ratio <= self.limit else "missed"


def growth(make: Callable[[int], Action], sizes: Sequence[int], rounds: int = 5) -> dict[str, Any]:
    """Median CPU seconds of an action over its size.

    Args:
        make: size -> what to time.
        sizes: ascending, at least :data:`FITTED`.
        rounds: that count, interleaved over the sizes.

    Returns:
        ``sizes``, ``seconds``, and of the fit of log seconds over log size: ``fitted``, how many of the largest sizes
        it takes (the upper half, at least :data:`FITTED`), since constant costs weigh least there; ``exponent``, its
        slope; ``factor``, the seconds that it gives to size one.
    """
    import numpy as np

    if len(sizes) < FITTED:
        raise ValueError(f"an exponent is fitted to at least {FITTED} sizes, not {len(sizes)}")
    actions = {str(size): make(size) for size in sizes}
    times = interleaved(actions, rounds, clock=time.process_time)
    seconds = [statistics.median(times[str(size)]) for size in sizes]
    fitted = max(FITTED, (len(sizes) + 1) // 2)
    slope, start = np.polyfit(np.log(sizes[-fitted:]), np.log(seconds[-fitted:]), 1)
    fit = {"fitted": fitted, "exponent": float(slope), "factor": float(np.exp(start))}
    return {"sizes": list(sizes), "seconds": seconds} | fit


def plot_growth(paths: Mapping[str, Any], picture: Path) -> None:
    """Log-log plots of CPU seconds over size, the fitted line, and a line of the theoretical slope through its middle.

    Args:
        paths: name -> what :func:`growth` returns, with ``over``, what grows, and ``theory``, the exponent.
        picture: file to write.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    columns = 4
    lines = math.ceil(len(paths) / columns)
    figure = Figure(figsize=(3.4 * columns, 2.8 * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis, (name, path) in zip(axes, paths.items(), strict=False):
        ends = path["sizes"][-path["fitted"]], path["sizes"][-1]
        middle = math.sqrt(ends[0] * ends[1])
        axis.loglog(path["sizes"], path["seconds"], "o", color="C0", label="measured")
        for exponent, style, label in ((path["exponent"], "C0-", "fit"), (path["theory"], "k--", "theory")):
            anchor = path["factor"] * middle ** path["exponent"]
            line = [anchor * (size / middle) ** exponent for size in ends]
            axis.loglog(ends, line, style, label=f"{label}, slope {exponent:.3g}")
        axis.set(title=name, xlabel=path["over"], ylabel="CPU s")
        for scale in (axis.xaxis, axis.yaxis):
            scale.set_minor_formatter(NullFormatter())
        axis.legend(fontsize="x-small")
    for axis in axes[len(paths) :]:
        axis.set_visible(False)
    figure.savefig(picture, dpi=80)


def origin() -> dict[str, Any]:
    """Where figures come from.

    Returns:
        ``commit`` (``unknown`` outside of a checkout), ``dirty``: whether the checkout differs from it, but for what
        benchmarks write themselves; ``date``; ``machine``: processor, cores, memory in GiB and GPU; ``versions``: of
        Python and of each declared requirement, peers included, that this process has imported.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    code = checkout(Path(__file__).parent, WRITTEN)
    return {
        "commit": code.get("commit", "unknown"),
        "dirty": code.get("dirty") != "false",
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "processor": processor(),
            "cores": str(os.cpu_count()),
            "memory": f"{memory:.0f} GiB",
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        },
        "versions": {"python": platform.python_version()} | _versions(),
    }


def _versions() -> dict[str, str]:
    declared = {_normalised(re.split(r"[^\w.-]", line)[0]) for line in importlib.metadata.requires("curvature") or ()}
    modules = importlib.metadata.packages_distributions()
    imported = {name for module in set(sys.modules) & set(modules) for name in modules[module]}
    used = sorted(imported, key=_normalised)
    return {name: importlib.metadata.version(name) for name in used if _normalised(name) in declared}


def _normalised(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def save(path: Path, rows: Sequence[Row], result: Any) -> None:
    """Write a record: ``rows``, what they were made of, and :func:`origin`."""
    record = {"rows": [asdict(row) for row in rows]} | origin() | {"result": result}
    write_atomically(path, json.dumps(record, indent=1) + "\n")


def main(doc: str, measure: Callable[..., dict[str, Any]], rows: Callable[[dict[str, Any]], list[Row]]) -> None:
    """Command line of a benchmark: an option for each keyword of ``measure``, the table of rows, and ``--json FILE``.

    Args:
        doc: the help text.
        measure: keywords with defaults of type int, float, str or bool.
        rows: turns what ``measure`` returns into rows.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, parameter in inspect.signature(measure).parameters.items():
        option, default = f"--{name.replace('_', '-')}", parameter.default
        if isinstance(default, bool):
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=default)
        else:
            parser.add_argument(option, type=type(default), default=default, help=f"(default {default})")
    parser.add_argument("--json", type=Path, help="write the results here too")
    options = vars(parser.parse_args())
    path = options.pop("json")
    result = measure(**options)
    found = rows(result)
    print_rows(found, Path(sys.argv[0]).stem)
    if path is not None:
        save(path, found, result)


def print_rows(rows: Sequence[Row], title: str) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("what", "against", "ratio", "limit", "memory", "status", "note", title=title, title_justify="left")
    for row in rows:
        *cells, status, note = _cells(row)
        table.add_row(*map(escape, cells), f"[{COLOURS[status]}]{status}[/]", escape(note))
    Console().print(table)


def markdown(rows: Sequence[Row], remark: Callable[[Row], str] = lambda row: "") -> str:
    """The same table in Markdown, with what ``remark`` says of a row behind its status."""
    lines = ["| what | against | ratio | limit | memory | status | note |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        *cells, status, note = (cell.replace("|", "\\|") for cell in _cells(row))
        lines.append("| " + " | ".join([*cells, status + remark(row), note]) + " |")
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> list[str]:
    numbers = (row.ratio, row.limit, row.memory)
    shown = ["" if number is None else f"{number:.3g}" for number in numbers]
    return [row.what, row.against, *shown, row.status, " ".join(row.note.split())]

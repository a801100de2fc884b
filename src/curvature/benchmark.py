"""Ratios measured in one process: interleaved timing, peak memory, growth over size, rows of the benchmark table."""

import argparse
import inspect
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Action = Callable[[], Any]


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
    """

    what: str
    against: str
    ratio: float | None
    limit: float | None = None
    note: str = ""
    memory: float | None = None

    @property
    def status(self) -> str:
        """``holds`` or ``missed`` with a limit, ``ahead`` or ``behind`` without; ``unavailable`` without a ratio."""
        if self.ratio is None or math.isnan(self.ratio):
            return "unavailable"
        if self.limit is not None:
            return "holds" if self.ratio <= self.limit else "missed"
        return "ahead" if self.ratio <= 1.0 else "behind"


def interleaved(
    actions: Mapping[str, Action], rounds: int, warmup: int = 1, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds of each action in each round; the order rotates, so that load from elsewhere falls on all alike.

    Args:
        actions: name -> what to time.
        rounds: that count.
        warmup: rounds before, which do not count.
        device: a CUDA device is synchronised around each call.
    """
    synchronise = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    times: dict[str, list[float]] = {name: [] for name in actions}
    names = list(actions)
    for index in range(-warmup, rounds):
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            synchronise()
            start = time.perf_counter()
            actions[name]()
            synchronise()
            if index >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios within rounds."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def peak_bytes(action: Action, device: str = "cpu") -> int:
    """Most bytes of tensors that ``action`` holds at once beyond what was there before."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        action()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with StorageMeter() as meter:
        action()
    return meter.peak


class StorageMeter(TorchDispatchMode):
    """Bytes of storages that come to life inside of the context.

    Attributes:
        peak: the most that were alive at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {storage._cdata for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if storage._cdata not in known:
                self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, self.now())
        return result

    def now(self) -> int:
        """Bytes that are alive."""
        self._alive = {key: (ref, size) for key, (ref, size) in self._alive.items() if not ref.expired()}
        return sum(size for _, size in self._alive.values())


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def growth(make: Callable[[int], Action], sizes: Sequence[int], rounds: int = 5) -> dict[str, Any]:
    """Median seconds of an action over its size.

    Returns:
        ``sizes``, ``seconds``, and ``exponent``: the slope of the fit of log seconds over the upper half of log sizes,
        where constant costs weigh least.
    """
    import numpy as np

    actions = {str(size): make(size) for size in sizes}
    times = interleaved(actions, rounds)
    seconds = [statistics.median(times[str(size)]) for size in sizes]
    upper = len(sizes) // 2
    slope = np.polyfit(np.log(sizes[upper:]), np.log(seconds[upper:]), 1)[0]
    return {"sizes": list(sizes), "seconds": seconds, "exponent": float(slope)}


def machine() -> dict[str, str]:
    """What the figures were measured on, and the commit of the code."""
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip()
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit or "unknown",
    }


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
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {"rows": [asdict(row) for row in found], "machine": machine(), "result": result}
        path.write_text(json.dumps(record, indent=1) + "\n")


def print_rows(rows: Sequence[Row], title: str) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    colours = {"holds": "green", "ahead": "green", "missed": "red", "behind": "yellow", "unavailable": "magenta"}
    table = Table("what", "against", "ratio", "limit", "memory", "status", "note", title=title, title_justify="left")
    for row in rows:
        colour = colours[row.status]
        table.add_row(*_cells(row)[:5], f"[{colour}]{row.status}[/{colour}]", row.note)
    Console().print(table)


def markdown(rows: Sequence[Row]) -> str:
    """The same table in Markdown."""
    lines = ["| what | against | ratio | limit | memory | status | note |", "|---|---|---|---|---|---|---|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> list[str]:
    numbers = (row.ratio, row.limit, row.memory)
    shown = ["" if number is None else f"{number:.3g}" for number in numbers]
    return [row.what, row.against, *shown, row.status, row.note]

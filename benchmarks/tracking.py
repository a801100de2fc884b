"""What logging costs a training loop, against Lightning's MLFlowLogger, and how fast metrics reach the store.

    python benchmarks/tracking.py [--metrics N] [--rounds N] [--json FILE]

Both sides log four metrics a step into one SQLite store each, in an order that alternates. The clock starts when both
have a run in their store: ``call`` is the time that the training thread loses a metric, ``delivered`` counts until the
last one is in the store. How long the run takes to appear is measured apart, in fresh processes: MLflow's import and
the creation of the database, which on our side are a helper's while the training thread goes on.
"""

import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from curvature.benchmark import Row, interleaved, main, median_ratio

NAMES = ("train/loss", "train/accuracy", "lr", "norm")
OURS, LIGHTNING, REFERENCE = "curvature", "Lightning's MLFlowLogger", "python -c 'import torch'"
ROOT = Path(__file__).parents[1]

Log = Callable[[dict[str, float], int], Any]
Finish = Callable[[], Any]


def measure(metrics: int = 10_000, rounds: int = 3, starts: int = 3) -> dict[str, Any]:
    """Microseconds a metric on both sides, and seconds that start-up takes.

    Args:
        metrics: how many, a multiple of four.
        rounds: repetitions, each with fresh stores.
        starts: repetitions of each command, and of each side's start in a fresh process.

    Returns:
        ``us``: side -> ``call`` and ``delivered``, microseconds a metric; ``opened_s``: side -> seconds ``waited``
        on the training thread and until the run is in its ``store``; ``ratios``: median ratios of all these, ours over
        Lightning's; ``start_up_s``: command -> seconds.
    """
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logged: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
    opened: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
    for index in range(rounds):
        for name in _turn(index):
            with tempfile.TemporaryDirectory() as folder:
                logged[name].append(_logged(*SIDES[name](Path(folder))[:2], metrics // len(NAMES)))
    for index in range(starts):
        for name in _turn(index):
            opened[name].append(_opened(name))
    commands = {
        REFERENCE: ["-c", "import torch"],
        "run.py --help": ["run.py", "--help"],
        "run.py with a mistyped key": ["run.py", "experiment=sam_vit", "optimiser.rho=0.1"],
    }
    actions = {name: partial(_run, words) for name, words in commands.items()}
    start_up = interleaved(actions, starts)
    return {
        "metrics": metrics,
        "us": {name: {key: 1e6 * value / metrics for key, value in _medians(logged[name]).items()} for name in SIDES},
        "opened_s": {name: _medians(opened[name]) for name in SIDES},
        "ratios": _ratios(logged) | _ratios(opened),
        "start_up_s": {name: statistics.median(times) for name, times in start_up.items()},
        "start_up_ratios": {name: median_ratio(times, start_up[REFERENCE]) for name, times in start_up.items()},
    }


def _turn(index: int) -> list[str]:
    return list(SIDES) if index % 2 == 0 else list(reversed(SIDES))


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(times[key] for times in rounds) for key in rounds[0]}


def _ratios(rounds: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    columns = {name: {key: [times[key] for times in found] for key in found[0]} for name, found in rounds.items()}
    return {key: median_ratio(values, columns[LIGHTNING][key]) for key, values in columns[OURS].items()}


def _ours(folder: Path) -> tuple[Log, Finish, float]:
    from curvature.tracking import Tracker

    tracker = Tracker(folder / "run", f"sqlite:///{folder}/mlflow.db", "benchmark", "run")
    start = time.perf_counter()
    tracker.start()
    waited = time.perf_counter() - start
    while tracker.run_id is None:
        time.sleep(0.005)

    def finish() -> None:
        if not tracker.finish("FINISHED", timeout_s=600.0):
            raise RuntimeError("not all was delivered")

    return tracker.log_metrics, finish, waited


def _lightning(folder: Path) -> tuple[Log, Finish, float]:
    from pytorch_lightning.loggers import MLFlowLogger

    start = time.perf_counter()
    logger = MLFlowLogger(
        "benchmark", "run", tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_location=str(folder)
    )
    assert logger.run_id
    waited = time.perf_counter() - start
    return lambda values, step: logger.log_metrics(values, step), lambda: logger.finalize("success"), waited


SIDES = {OURS: _ours, LIGHTNING: _lightning}


def _logged(log: Log, finish: Finish, steps: int) -> dict[str, float]:
    start = time.perf_counter()
    for step in range(steps):
        log(dict.fromkeys(NAMES, step * 0.5), step)
    called = time.perf_counter() - start
    finish()
    return {"call": called, "delivered": time.perf_counter() - start}


def opening(name: str) -> str:
    """Seconds that the training thread waits for a new run, and until that run is in the store."""
    import pytorch_lightning.loggers  # noqa: F401  (its import is no part of a start)

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        _, finish, waited = SIDES[name](Path(folder))
        total = time.perf_counter() - start
        finish()
    return json.dumps({"waited": waited, "store": total})


def _opened(name: str) -> dict[str, float]:
    code = f"from tracking import opening; print(opening({name!r}))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    return json.loads(result.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def _run(words: list[str]) -> None:
    subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True)


def rows(result: dict[str, Any]) -> list[Row]:
    """A metric on the training thread and until it is stored; a new run; start-up against importing torch."""
    ratios = result["ratios"]
    ours, theirs = result["us"][OURS], result["us"][LIGHTNING]
    found = [
        Row(
            f"logging a metric, {label}",
            LIGHTNING,
            ratios[key],
            None,
            f"{1e6 / ours[key]:.0f} and {1e6 / theirs[key]:.0f} metrics/s, {result['metrics']} metrics",
        )
        for key, label in (("call", "training thread"), ("delivered", "until stored"))
    ]
    mine, other = result["opened_s"][OURS], result["opened_s"][LIGHTNING]
    found += [
        Row(
            f"a new run in a fresh process, {label}",
            LIGHTNING,
            ratios[key],
            None,
            f"{mine[key]:.3f} s, {other[key]:.3f} s; with MLflow's import and a new database",
        )
        for key, label in (("waited", "training thread"), ("store", "until stored, our helper's start"))
    ]
    floor = result["start_up_s"][REFERENCE]
    return found + [
        Row(name, REFERENCE, result["start_up_ratios"][name], None, f"{seconds:.1f} s, {floor:.1f} s")
        for name, seconds in result["start_up_s"].items()
        if name != REFERENCE
    ]


if __name__ == "__main__":
    main(__doc__, measure, rows)

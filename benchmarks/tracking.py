"""What logging costs a training loop, against Lightning's MLFlowLogger, and how fast metrics reach the store.

    python benchmarks/tracking.py [--metrics N] [--json FILE]

Both sides log four metrics a step into one SQLite store each. ``call`` is the time that the training thread loses a
metric; ``delivered`` counts until the last one is in the store.
"""

import contextlib
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from curvature.benchmark import Row, main

NAMES = ("train/loss", "train/accuracy", "lr", "norm")
ROOT = Path(__file__).parents[1]


def measure(metrics: int = 400, rounds: int = 3, starts: int = 3) -> dict[str, Any]:
    """Microseconds a metric on both sides, and seconds that start-up takes.

    Args:
        metrics: how many, a multiple of four.
        rounds: repetitions, each with fresh stores.
        starts: repetitions of each command.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    sides: dict[str, list[dict[str, float]]] = {"curvature": [], "MLFlowLogger": []}
    for _ in range(rounds):
        for name, side in (("curvature", _ours), ("MLFlowLogger", _lightning)):
            with tempfile.TemporaryDirectory() as folder:
                sides[name].append(side(Path(folder), metrics // len(NAMES)))
    found = {
        name: {key: 1e6 * statistics.median(times[key] for times in rounds_) / metrics for key in rounds_[0]}
        for name, rounds_ in sides.items()
    }
    commands = {
        "python -c 'import torch'": ["-c", "import torch"],
        "run.py --help": ["run.py", "--help"],
        "run.py with a mistyped key": ["run.py", "experiment=sam_vit", "optimiser.rho=0.1"],
    }
    start_up = {name: statistics.median(_start(words) for _ in range(starts)) for name, words in commands.items()}
    return {"metrics": metrics, "us": found, "start_up_s": start_up}


def _ours(folder: Path, steps: int) -> dict[str, float]:
    from curvature.tracking import Tracker

    tracker = Tracker(folder / "run", f"sqlite:///{folder}/mlflow.db", "benchmark", "run")
    tracker.start()
    return _timed(tracker.log_metrics, steps, lambda: tracker.finish("FINISHED", timeout_s=300.0))


def _lightning(folder: Path, steps: int) -> dict[str, float]:
    from pytorch_lightning.loggers import MLFlowLogger

    logger = MLFlowLogger(
        "benchmark", "run", tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_location=str(folder)
    )
    assert logger.run_id
    return _timed(lambda values, step: logger.log_metrics(values, step), steps, lambda: logger.finalize("success"))


def _timed(log: Callable[[dict[str, float], int], Any], steps: int, finish: Callable[[], Any]) -> dict[str, float]:
    start = time.perf_counter()
    for step in range(steps):
        log(dict.fromkeys(NAMES, step * 0.5), step)
    called = time.perf_counter() - start
    finish()
    return {"call": called, "delivered": time.perf_counter() - start}


def _start(words: list[str]) -> float:
    start = time.perf_counter()
    with contextlib.suppress(subprocess.CalledProcessError):
        subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, check=True)
    return time.perf_counter() - start


def rows(result: dict[str, Any]) -> list[Row]:
    """A metric on the training thread and until it is stored; start-up against importing torch."""
    ours, theirs = result["us"]["curvature"], result["us"]["MLFlowLogger"]
    found = [
        Row(
            f"logging a metric, {label}",
            "Lightning's MLFlowLogger",
            ours[key] / theirs[key],
            None,
            f"{1e6 / ours[key]:.0f} and {1e6 / theirs[key]:.0f} metrics/s",
        )
        for key, label in (("call", "training thread"), ("delivered", "until stored"))
    ]
    (reference, floor), *commands = result["start_up_s"].items()
    return found + [Row(name, reference, s / floor, None, f"{s:.1f} s, {floor:.1f} s") for name, s in commands]


if __name__ == "__main__":
    main(__doc__, measure, rows)

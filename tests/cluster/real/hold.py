"""Holding a process at a chosen point until its fault has come, so that it is hit right there on any machine."""

import time
from pathlib import Path

from curvature.callbacks import interrupt

PATIENCE_S = 900.0


def hold(here: Path, opened: Path, patience_s: float = PATIENCE_S) -> None:
    """Wait until a stop is requested or somebody opens the way; who has been here before passes.

    Args:
        here: made on arrival; where it exists already, nothing waits. ``<here>.go`` opens this very place.
        opened: opens every place when it is made.
        patience_s: longest wait.

    Raises:
        TimeoutError: nothing happened.
    """
    here.parent.mkdir(parents=True, exist_ok=True)
    if opened.exists():
        return
    try:
        here.touch(exist_ok=False)
    except FileExistsError:
        return
    deadline = time.monotonic() + patience_s
    go = here.with_name(f"{here.name}.go")
    while not opened.exists() and not go.exists() and interrupt.stop_requested() is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"held at {here} for {patience_s:.0f} s, but no fault came and nobody made {opened}")
        time.sleep(0.05)

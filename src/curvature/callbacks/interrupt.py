"""A request to stop at the next batch boundary, from a signal handler or from a cluster's launcher.

Free of torch, so that launchers can import it at start-up.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from curvature.errors import CurvatureError

_reason: str | None = None


class Interrupted(CurvatureError):
    """The run was stopped at a batch boundary; the same command continues it.

    Args:
        reason: what asked for the stop, e.g. ``"SIGTERM"``.
        step: optimiser steps that are safe in the checkpoint, if training had begun.
    """

    def __init__(self, reason: str, step: int | None = None) -> None:
        self.reason, self.step = reason, step
        where = f" after step {step}" if step is not None else ""
        super().__init__(f"stopped by {reason}{where}; the same command continues from there")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, self.step)


def request_stop(reason: str) -> None:
    """Ask the run of this process to save and stop at the next batch boundary. The first reason is kept.

    The request stays until :func:`clear`, so that a sweep in one process does not go on with its next run.
    """
    global _reason
    if _reason is None:
        _reason = reason


def stop_requested() -> str | None:
    """The reason given to :func:`request_stop`, or None."""
    return _reason


def clear() -> None:
    """Forget a request."""
    global _reason
    _reason = None


def on_signal(number: int, frame: FrameType | None) -> None:
    """Signal handler: request a stop; a second Ctrl-C interrupts at once."""
    if number == signal.SIGINT and stop_requested() is not None:
        raise KeyboardInterrupt
    request_stop(signal.Signals(number).name)
    if number == signal.SIGINT:
        print("\nstopping at the next batch boundary; press Ctrl-C again to stop at once", file=sys.stderr)


SIGNALS = (signal.SIGINT, signal.SIGTERM)


def install() -> dict[int, Any]:
    """Point SIGINT and SIGTERM at :func:`on_signal`; returns the previous handlers. A no-op off the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, on_signal) for number in SIGNALS}


@contextmanager
def handled() -> Iterator[None]:
    """Within the block SIGINT and SIGTERM request a stop; afterwards the previous handlers are back."""
    previous = install()
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

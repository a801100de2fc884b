"""The helper process that delivers to MLflow while a run goes on: training never waits for, or imports, MLflow.

The training side (:class:`Courier`) only says which directories to look after and when there is something new; what
came of it is read from ``delivery.json``. The helper may be killed at any moment. When the training process dies, it
delivers what is left, marks the run as KILLED, and ends.
"""

import contextlib
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curvature.rundir import RUNNING
from curvature.tracking.delivery import Busy, Delivery
from curvature.tracking.state import Intent

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
FIRST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE_AT_END = 0.25, 30.0, 1.0
RESTART_SECONDS = 2.0
NICENESS = 5


class Courier:
    """Starts the helper when it is first needed, and again should it be gone. One is enough for a process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = -1
        self._started = 0.0
        self._lock = threading.RLock()
        self._followed: dict[str, str] = {}

    def follow(self, directory: Path, uri: str) -> None:
        """Deliver ``directory`` to the store at ``uri`` until it is complete and its run has ended."""
        with self._lock:
            self._followed[str(directory)] = uri
            if self.ensure():
                self._send({"directory": str(directory), "uri": uri})

    def wake(self, hurry: bool = False) -> None:
        """Say that there is something new to deliver; with ``hurry`` also while waiting for a store to come back."""
        with self._lock:
            if self._followed and self.ensure():
                self._send({"hurry": hurry})

    def ensure(self) -> bool:
        """Start the helper if there is something to deliver and it is gone; whether it was there already."""
        with self._lock:
            own = self._process if self._owner == os.getpid() else None
            if own is not None and own.poll() is None:
                return True
            now = time.monotonic()
            if self._followed and (own is None or now - self._started >= RESTART_SECONDS):
                if own is not None:
                    log.warning("the process that delivers to MLflow ended with code %s; starting it again", own.poll())
                self._started = now
                self._start()
            return False

    def leave(self, directory: Path, completed: bool) -> None:
        """Deliver ``directory`` no longer; unless ``completed``, whatever is being sent is cut off."""
        with self._lock:
            self._followed.pop(str(directory), None)
            if not completed and self._process is not None and self._owner == os.getpid():
                self._process.kill()
                self._process.wait()
                self._process = None

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._process.stdin.fileno(), json.dumps(message).encode() + b"\n")

    def _start(self) -> None:
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "curvature.tracking.courier", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            start_new_session=True,
        )
        self._owner = os.getpid()
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        for directory, uri in self._followed.items():
            self._send({"directory": directory, "uri": uri})


@dataclass
class _Errand:
    """One directory in the care of the helper."""

    delivery: Delivery
    failures: int = 0
    due: float = 0.0

    def advance(self, abandoned: bool) -> bool:
        """Deliver what is there; True if the run has ended and nothing is left, or nothing more can be done."""
        directory = self.delivery.directory
        try:
            progress = self.delivery.advance(abandoned)
        except Busy:
            self._pause(ended=True)
            return False
        except Exception:
            self.failures += 1
            intent = Intent.load(directory)
            self._pause(ended=intent is not None and intent.status != RUNNING)
            return intent is None
        self.failures, self.due = 0, 0.0
        intent = Intent.load(directory)
        return intent is None or (intent.status != RUNNING and progress.covers(intent, directory))

    def _pause(self, ended: bool) -> None:
        longest = LONGEST_PAUSE_AT_END if ended else LONGEST_PAUSE
        self.due = time.monotonic() + min(longest, FIRST_PAUSE * 2.0**self.failures)


def main(parent: int) -> None:
    """Run the helper for the training process ``parent``, whose messages come on standard input."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    errands: dict[str, _Errand] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        unread = b""
        news = False
        while os.getppid() == parent:
            pauses = [errand.due - time.monotonic() for errand in errands.values() if errand.due]
            if selector.select(max(0.0, min([POLL_SECONDS, *pauses]))):
                data = os.read(0, 1 << 16)
                if not data:
                    break
                *lines, unread = (unread + data).split(b"\n")
                for line in filter(None, lines):
                    message = json.loads(line)
                    if name := message.get("directory"):
                        _close(errands.pop(name, None))
                        errands[name] = _Errand(Delivery(Path(name), message["uri"]))
                    if message.get("hurry"):
                        for errand in errands.values():
                            errand.failures = 0
                news = True
            for name, errand in list(errands.items()):
                due = errand.due and errand.due <= time.monotonic()
                if (due or (news and not errand.failures)) and errand.advance(abandoned=False):
                    _close(errands.pop(name))
            news = False
    for errand in errands.values():
        errand.advance(abandoned=True)


def _close(errand: _Errand | None) -> None:
    if errand is not None:
        errand.delivery.close()


courier = Courier()

if __name__ == "__main__":
    main(int(sys.argv[1]))

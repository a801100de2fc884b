"""The directory of one run: where everything it writes lives, and who may write it."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from curvature.errors import CurvatureError

Status = str
RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"


class RunLocked(CurvatureError):
    """Another process is training this very run."""


class RunDirectory:
    """``<outputs>/runs/<paper>/<fingerprint[:12]>/``.

    Args:
        outputs: root of all that runs write.
        paper: slug of the paper.
        fingerprint: 64 hex digits, see :func:`curvature.fingerprint.fingerprint`.
    """

    def __init__(self, outputs: Path | str, paper: str, fingerprint: str) -> None:
        self.path = Path(outputs).absolute() / "runs" / paper / fingerprint[:12]
        self.fingerprint = fingerprint

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def artifacts(self) -> Path:
        return self.path / "artifacts"

    def read(self) -> dict[str, Any]:
        """Contents of ``run.json``, or an empty dictionary before the first start or if it is unreadable."""
        try:
            record = json.loads((self.path / "run.json").read_text())
        except (OSError, ValueError):
            return {}
        return record if _is_record(record) else {}

    def update(self, **fields: Any) -> dict[str, Any]:
        """Merge ``fields`` into ``run.json`` atomically; returns the new contents."""
        record = self.read() | fields
        write_atomically(self.path / "run.json", json.dumps(record, indent=1, sort_keys=True))
        return record

    def set_aside(self) -> Path:
        """Move the directory to ``<name>.superseded-<n>`` so that the run can start over; returns the new path."""
        number = 1
        while (target := self.path.with_name(f"{self.path.name}.superseded-{number}")).exists():
            number += 1
        self.path.rename(target)
        return target

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the right to write here; it ends with the process, however that ends.

        The lock file lies beside the directory, so that setting the directory aside does not move the lock.

        Raises:
            RunLocked: another process holds it; the message says who and since when.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        holder = self.path.with_suffix(".holder")
        lock = FileLock(self.path.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            who = holder.read_text().strip() if holder.exists() else "an unknown process"
            raise RunLocked(f"run {self.path.name} is being trained by {who}; wait for it or stop it") from None
        try:
            job = os.environ.get("SLURM_JOB_ID")
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            who = f"process {os.getpid()} on {socket.gethostname()}" + (f" (SLURM job {job})" if job else "")
            write_atomically(holder, f"{who} since {since}")
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()


def _is_record(content: Any) -> bool:
    if not isinstance(content, dict) or not isinstance(content.get("attempt", 0), int):
        return False
    metrics = content.get("metrics", {})
    return isinstance(metrics, dict) and all(isinstance(value, int | float) for value in metrics.values())


def write_atomically(path: Path, contents: str | bytes) -> None:
    """Write ``contents`` so that a reader, or a crash at any moment, sees the old contents or the new, never a part.

    Raises:
        OSError: it cannot be written; ``filename`` is ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(contents.encode() if isinstance(contents, str) else contents)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        # Writing to a full disk names no file at all.
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)

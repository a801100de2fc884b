"""What MLflow should hold of a run, and what it is known to hold: the two small files beside the log."""

import json
import uuid
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from curvature.rundir import KILLED, RUNNING, write_atomically

LOG = "metrics.jsonl"


@dataclass
class Intent:
    """``tracking.json``: written by the training process alone.

    Attributes:
        id: names this run in MLflow's tag :data:`ID_TAG`, so that it is found again if its run id was lost.
        uri: tracking URI without user information.
        params: parameters of the first start; later ones cannot change them.
        start_time, end_time: milliseconds since 1970.
        attempt: number of starts.
        artifacts: path in MLflow to source, relative to the run directory where it lies inside.
    """

    uri: str
    experiment: str
    run_name: str
    tags: dict[str, str]
    params: dict[str, str]
    start_time: int
    end_time: int | None = None
    status: str = RUNNING
    attempt: int = 0
    artifacts: dict[str, str] = field(default_factory=dict)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def load(cls, directory: Path) -> Self | None:
        return _load(cls, directory / "tracking.json")

    def save(self, directory: Path) -> None:
        write_atomically(directory / "tracking.json", json.dumps(asdict(self), indent=1))

    def abandoned(self, directory: Path) -> Self:
        """This intent once its process is gone: a run still marked RUNNING was KILLED at its last metric."""
        if self.status != RUNNING:
            return self
        log = directory / LOG
        last = log.stat().st_mtime_ns // 1_000_000 if log.exists() else self.start_time
        return replace(self, status=KILLED, end_time=last)


@dataclass
class Progress:
    """``delivery.json``: written by whoever delivers, under the lock of :class:`curvature.tracking.delivery.Delivery`.

    Attributes:
        id, uri: of the :class:`Intent` and the store this is about; for another one it says nothing.
        run_id: MLflow's.
        doubtful: creating the run failed once without our knowing whether the store did it.
        offset: bytes of the log that are delivered.
        artifacts: path in MLflow to [size, mtime in ns] of the file delivered.
        problem: the last error, None once delivery works again.
    """

    id: str
    uri: str
    run_id: str | None = None
    doubtful: bool = False
    offset: int = 0
    params: bool = False
    status: str | None = None
    end_time: int | None = None
    tags: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, list[int]] = field(default_factory=dict)
    problem: str | None = None

    @classmethod
    def load(cls, directory: Path) -> Self | None:
        return _load(cls, directory / "delivery.json")

    @classmethod
    def of(cls, intent: Intent, uri: str, directory: Path) -> Self:
        """What is known to be delivered of ``intent`` to the store at ``uri`` (without user information)."""
        progress = cls.load(directory)
        return progress if progress and (progress.id, progress.uri) == (intent.id, uri) else cls(intent.id, uri)

    def save(self, directory: Path) -> None:
        write_atomically(directory / "delivery.json", json.dumps(asdict(self)))

    @property
    def damaged(self) -> bool:
        """Whether the store was found to be damaged: waiting for it is of no use."""
        return self.problem is not None and self.problem.startswith("DamagedStore")

    def covers(self, intent: Intent, directory: Path) -> bool:
        """Whether nothing of ``intent`` and of the log in ``directory`` is left to deliver."""
        return (
            self.params
            and (self.status, self.end_time) == (intent.status, intent.end_time)
            and intent.tags.items() <= self.tags.items()
            and self.offset == log_size(directory)
            and all(
                self.artifacts.get(name) == signature(directory / source) for name, source in intent.artifacts.items()
            )
        )


def log_size(directory: Path) -> int:
    """Bytes of the write-ahead log in ``directory``."""
    try:
        return (directory / LOG).stat().st_size
    except FileNotFoundError:
        return 0


def signature(path: Path) -> list[int]:
    """[size, mtime in ns] of a file; empty if it is gone."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def remove_stale(directory: Path, name: str) -> None:
    """Remove what a process that was killed while writing the file ``name`` left; the caller alone may write it."""
    for path in directory.glob(f".{name}.*.tmp"):
        path.unlink(missing_ok=True)


def _load(kind: type[Any], path: Path) -> Any:
    try:
        return kind(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None

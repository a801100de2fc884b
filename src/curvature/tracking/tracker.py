"""What a run logs through: costs the training thread microseconds, survives kill -9, and never fails it."""

import atexit
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curvature.rundir import RUNNING, write_atomically
from curvature.tracking import store
from curvature.tracking.courier import courier
from curvature.tracking.limits import MAX_PARAM
from curvature.tracking.state import LOG, Intent, Progress, remove_stale, signature
from curvature.tracking.wal import WriteAheadLog

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

POLL_SECONDS = 0.02


class Tracker:
    """Logs one run to its directory, and from there to one MLflow run however often it is interrupted and resumed.

    Args:
        directory: the run directory; one process at a time may have a tracker on it.
        uri: tracking URI; None or ``"offline"`` writes to the directory only.
        experiment: MLflow experiment, made if it does not exist.
        run_name: name of the run in MLflow.
        tags: set at every start, the last start wins.
        params: logged once, at the first start. Values over 6000 characters are cut in MLflow, and all of them are
            then kept whole in the artifact ``params.json``.
        flush_seconds: how often metrics are forced to disk and handed on to MLflow.

    Raises:
        ConfigError: ``uri`` is of a kind that cannot be used.
    """

    def __init__(
        self,
        directory: Path | str,
        uri: str | None,
        experiment: str,
        run_name: str,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        flush_seconds: float = 2.0,
    ) -> None:
        self.directory = Path(directory).absolute()
        self.uri = uri or store.OFFLINE
        self.experiment, self.run_name, self.flush_seconds = experiment, run_name, flush_seconds
        store.validate_uri(self.uri)
        self._tags = {key: str(value) for key, value in (tags or {}).items()}
        self._params = {key: store.redact(str(value)) for key, value in (params or {}).items()}
        self._intent: Intent | None = None
        self._wal: WriteAheadLog | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._warned = False

    @property
    def run_id(self) -> str | None:
        """MLflow's id of this run; None until the store has been reached for the first time."""
        progress = self._progress()
        return progress.run_id if progress else None

    def start(self) -> None:
        """Begin, or continue what an earlier process left in the directory. Does not wait for MLflow.

        Raises:
            OSError: the directory cannot be written.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        remove_stale(self.directory, "tracking.json")
        intent = self._load_or_create_intent()
        intent.attempt += 1
        intent.status, intent.end_time = RUNNING, None
        intent.tags = self._tags | {"attempt": str(intent.attempt)}
        intent.uri, intent.experiment, intent.run_name = store.redact(self.uri), self.experiment, self.run_name
        self._wal = WriteAheadLog(self.directory / LOG, intent.attempt)
        self._intent = intent
        intent.save(self.directory)
        if any(len(value) > MAX_PARAM for value in intent.params.values()):
            self.log_json(intent.params, "params.json")
        atexit.register(self.sync)
        if self.uri != store.OFFLINE:
            courier.follow(self.directory, self.uri)
        self._thread = threading.Thread(target=self._flush_periodically, name="curvature-tracking", daemon=True)
        self._thread.start()

    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        """Log numbers of ``step``. A (name, step) that was logged before, also by an earlier start, is left alone."""
        assert self._wal is not None, "start() first"
        self._wal.add(metrics, int(step), time.time_ns() // 1_000_000)

    def log_artifact(self, path: Path | str, artifact_path: str = "") -> None:
        """Keep a file with the run, as ``<artifact_path>/<file name>``; the same name again replaces it.

        A file outside the run directory is copied into its ``artifacts`` folder first.
        """
        path = Path(path).absolute()
        name = f"{artifact_path}/{path.name}".strip("/")
        if not path.is_relative_to(self.directory):
            kept = self.directory / "artifacts" / name
            kept.parent.mkdir(parents=True, exist_ok=True)
            path = Path(shutil.copy2(path, kept))
        self._add_artifact(name, path)

    def log_directory(self, path: Path | str, artifact_path: str = "") -> None:
        """Keep every file below a directory with the run, under ``artifact_path``."""
        path = Path(path)
        for file in sorted(path.rglob("*")):
            if file.is_file():
                folder = Path(artifact_path, file.relative_to(path).parent).as_posix()
                self.log_artifact(file, folder if folder != "." else "")

    def log_figure(self, figure: "Figure", name: str) -> None:
        """Save a matplotlib figure as ``artifacts/<name>`` in the run directory and keep it with the run."""
        path = self.directory / "artifacts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        self._add_artifact(name, path)

    def log_json(self, content: Any, name: str) -> None:
        """Save ``content`` as ``artifacts/<name>`` in the run directory and keep it with the run."""
        path = self.directory / "artifacts" / name
        write_atomically(path, json.dumps(content, indent=1))
        self._add_artifact(name, path)

    def sync(self) -> None:
        """Force everything logged so far to disk; called before a checkpoint, so that no step before it is lost."""
        if self._wal is not None:
            self._wal.flush()

    def finish(self, status: str, timeout_s: float = 30.0) -> bool:
        """End the run.

        Args:
            status: FINISHED, FAILED or KILLED.
            timeout_s: how long to wait for MLflow.

        Returns:
            Whether MLflow holds everything. If not, :func:`curvature.tracking.deliver_all` or the next start delivers
            the rest.
        """
        if self._intent is None or self._wal is None or self._thread is None:
            return False
        self._stop.set()
        self._thread.join()
        atexit.unregister(self.sync)
        try:
            self._wal.close()
            self._intent.status, self._intent.end_time = status, time.time_ns() // 1_000_000
            self._intent.save(self.directory)
        except OSError as error:
            log.error("the log in %s cannot be written: %s", self.directory, error)
            courier.leave(self.directory, completed=False)
            return False
        if self.uri == store.OFFLINE:
            return False
        delivered = self._wait(timeout_s)
        courier.leave(self.directory, delivered)
        if not delivered:
            progress = self._progress()
            reason = f" ({progress.problem})" if progress and progress.problem else ""
            log.warning("MLflow did not take everything by now%s; the rest is in %s", reason, self.directory)
        return delivered

    def _load_or_create_intent(self) -> Intent:
        intent = Intent.load(self.directory)
        if intent is None:
            now = time.time_ns() // 1_000_000
            intent = Intent(self.uri, self.experiment, self.run_name, {}, self._params, start_time=now)
            known = Progress.load(self.directory)
            if known is not None:
                intent.id = known.id
        return intent

    def _add_artifact(self, name: str, path: Path) -> None:
        assert self._intent is not None, "start() first"
        self._intent.artifacts[name] = os.path.relpath(path, self.directory)
        self._intent.save(self.directory)
        courier.wake()

    def _progress(self) -> Progress | None:
        progress = Progress.load(self.directory)
        return progress if progress and progress.uri == store.redact(self.uri) else None

    def _flush_periodically(self) -> None:
        assert self._wal is not None
        known, seen = self._wal.size, signature(self.directory / "delivery.json")
        while not self._stop.wait(self.flush_seconds):
            try:
                size = self._wal.flush()
            except OSError as error:
                log.error("metrics cannot be written to %s: %s", self._wal.path, error)
                continue
            if size != known:
                known = size
                courier.wake()
            if (now := signature(self.directory / "delivery.json")) != seen:
                seen = now
                self._report()

    def _report(self) -> None:
        progress = self._progress()
        if progress is None or (progress.problem is not None) == self._warned:
            return
        self._warned = not self._warned
        if progress.problem is not None:
            shown = store.redact(self.uri)
            log.warning("MLflow at %s fails; training goes on, nothing is lost (%s)", shown, progress.problem[:160])
        else:
            log.info("MLflow answers again")

    def _wait(self, timeout_s: float) -> bool:
        assert self._intent is not None
        deadline = time.monotonic() + timeout_s
        path = self.directory / "delivery.json"
        before = signature(path)
        courier.wake(hurry=True)
        while True:
            progress = self._progress()
            if progress is not None and progress.covers(self._intent, self.directory):
                return True
            hopeless = progress is not None and progress.damaged and signature(path) != before
            if hopeless or time.monotonic() >= deadline:
                return False
            courier.ensure()
            time.sleep(POLL_SECONDS)


class NullTracker:
    """Logs nothing: for every process of a run but the first."""

    run_id: str | None = None
    uri = store.OFFLINE
    experiment = run_name = ""

    def start(self) -> None: ...

    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None: ...

    def log_artifact(self, path: Path | str, artifact_path: str = "") -> None: ...

    def log_directory(self, path: Path | str, artifact_path: str = "") -> None: ...

    def log_figure(self, figure: "Figure", name: str) -> None: ...

    def log_json(self, content: Any, name: str) -> None: ...

    def sync(self) -> None: ...

    def finish(self, status: str, timeout_s: float = 30.0) -> bool:
        """Nothing is left to deliver."""
        return True

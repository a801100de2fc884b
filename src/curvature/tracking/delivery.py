"""Bringing MLflow in line with one run directory: idempotent, so that it may be stopped anywhere and begun again.

Metrics are exact although a crash may fall between sending a batch and noting it: a record is always sent with the
same (name, timestamp, step, value), and MLflow's SQL stores keep one row of identical ones.
"""

import logging
import os
import posixpath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from curvature.rundir import RUNNING
from curvature.tracking import limits, store, wal
from curvature.tracking.state import LOG, Intent, Progress, remove_stale, signature

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

ID_TAG = "curvature.id"


class Busy(Exception):
    """Another process is delivering this directory."""


class Delivery:
    """Delivers one run directory; holds the right to do so from the first :meth:`advance` to :meth:`close`.

    Args:
        directory: the run directory, with ``tracking.json`` in it.
        uri: tracking URI, with user information if need be.
    """

    def __init__(self, directory: Path, uri: str) -> None:
        self.directory, self.uri = directory, uri
        self._lock = FileLock(directory / "delivery.lock")
        self._run_id: str | None = None

    def advance(self, abandoned: bool = False) -> Progress:
        """Deliver all that is there at the moment.

        Args:
            abandoned: the training process is known to be gone.

        Returns:
            The progress made; ``progress.covers(intent, directory)`` tells whether all is delivered.

        Raises:
            Busy: another process holds the right to deliver.
            Exception: whatever MLflow raises; it is noted in ``delivery.json``, and the call can be repeated.
        """
        self._acquire()
        intent = Intent.load(self.directory)
        if intent is None:
            raise FileNotFoundError(f"{self.directory / 'tracking.json'} is missing or unreadable")
        if abandoned:
            intent = intent.abandoned(self.directory)
        progress = Progress.of(intent, store.redact(self.uri), self.directory)
        try:
            self._advance(intent, progress)
        except Exception as error:
            self._run_id = None
            progress.problem = summary(error)
            progress.save(self.directory)
            raise
        return progress

    def close(self) -> None:
        """Give up the right to deliver."""
        self._lock.release()

    def _acquire(self) -> None:
        if not self._lock.is_locked:
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise Busy(str(self.directory)) from None
            remove_stale(self.directory, "delivery.json")

    def _advance(self, intent: Intent, progress: Progress) -> None:
        client = store.client(self.uri)
        self._ensure_run(client, intent, progress)
        assert progress.run_id is not None
        run_id = progress.run_id
        self._send_tags(client, run_id, intent, progress)
        if not progress.params:
            for params in limits.requests(intent.params, limits.MAX_PARAM):
                client.log_batch(run_id, params=_entities("Param", params))
            self._save(progress, params=True)
        if intent.status == RUNNING and progress.status != RUNNING:
            client.update_run(run_id, status=RUNNING)
            self._save(progress, status=RUNNING, end_time=None)
        self._send_metrics(client, run_id, progress)
        for name, source in intent.artifacts.items():
            self._send_artifact(client, run_id, name, self.directory / source, progress)
        if (progress.status, progress.end_time) != (intent.status, intent.end_time):
            if progress.doubtful:
                self._delete_doubles(client, intent, run_id)
            client.set_terminated(run_id, intent.status, intent.end_time)
            self._save(progress, status=intent.status, end_time=intent.end_time, doubtful=False)
        if progress.problem is not None:
            self._save(progress, problem=None)

    def _save(self, progress: Progress, **fields: Any) -> None:
        for name, value in fields.items():
            setattr(progress, name, value)
        progress.save(self.directory)

    def _ensure_run(self, client: "MlflowClient", intent: Intent, progress: Progress) -> None:
        """Find or create the run; what is known of it starts anew if the store has lost it or a user deleted it."""
        if self._run_id is not None and self._run_id == progress.run_id:
            return
        if progress.run_id is not None and not _is_active(client, progress.run_id):
            log.warning(
                "MLflow has no active run %s any more; a new one is made of %s", progress.run_id, self.directory
            )
            progress.__dict__.update(Progress(intent.id, progress.uri).__dict__)
        if progress.run_id is None:
            experiment = self._experiment(client, intent.experiment)
            found = _runs_of(client, experiment, intent.id)
            progress.run_id = found[0] if found else self._create(client, experiment, intent, progress)
            progress.status = None if found else RUNNING
            progress.save(self.directory)
        self._run_id = progress.run_id

    def _create(self, client: "MlflowClient", experiment: str, intent: Intent, progress: Progress) -> str:
        doubtful = progress.doubtful
        self._save(progress, doubtful=True)
        tags = limits.valid_fields(intent.tags, limits.MAX_TAG) | {ID_TAG: intent.id}
        run = client.create_run(experiment, start_time=intent.start_time, tags=tags, run_name=intent.run_name)
        progress.doubtful, progress.tags = doubtful, dict(intent.tags)
        return str(run.info.run_id)

    def _experiment(self, client: "MlflowClient", name: str) -> str:
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            root = store.artifact_root(self.uri, self.directory.parents[2])
            location = (root / name).as_uri() if root is not None else None
            try:
                return str(client.create_experiment(name, artifact_location=location))
            except Exception:
                experiment = client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        return str(experiment.experiment_id)

    def _delete_doubles(self, client: "MlflowClient", intent: Intent, run_id: str) -> None:
        """A request to create the run that seemed to fail may have been carried out long afterwards."""
        for double in _runs_of(client, self._experiment(client, intent.experiment), intent.id):
            if double != run_id:
                client.delete_run(double)

    def _send_tags(self, client: "MlflowClient", run_id: str, intent: Intent, progress: Progress) -> None:
        new = {key: value for key, value in intent.tags.items() if progress.tags.get(key) != value}
        for tags in limits.requests(new, limits.MAX_TAG):
            client.log_batch(run_id, tags=_entities("RunTag", tags))
        if new:
            self._save(progress, tags=progress.tags | new)

    def _send_metrics(self, client: "MlflowClient", run_id: str, progress: Progress) -> None:
        from mlflow.entities import Metric

        path = self.directory / LOG
        if not path.exists():
            return
        with path.open("rb") as stream:
            # What MLflow has and a power failure takes from the log would be logged again, with another timestamp.
            os.fsync(stream.fileno())
        while True:
            records, end = wal.read(path, progress.offset, limits.MAX_METRICS)
            if end == progress.offset:
                return
            metrics = [Metric(limits.valid_key(r["key"]), r["value"], r["timestamp"], r["step"]) for r in records]
            client.log_batch(run_id, metrics=metrics)
            self._save(progress, offset=end)

    def _send_artifact(self, client: "MlflowClient", run_id: str, name: str, source: Path, progress: Progress) -> None:
        present = signature(source)
        if progress.artifacts.get(name) == present:
            return
        if present:
            client.log_artifact(run_id, str(source), posixpath.dirname(name) or None)
        self._save(progress, artifacts=progress.artifacts | {name: present})


def _is_active(client: "MlflowClient", run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _runs_of(client: "MlflowClient", experiment: str, identity: str) -> list[str]:
    """Ids of the active runs with this :class:`Intent` id, oldest first."""
    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    runs = client.search_runs([experiment], f"tags.`{ID_TAG}` = '{identity}'", order_by=order)
    return [str(run.info.run_id) for run in runs]


def _entities(kind: str, fields: dict[str, str]) -> list[Any]:
    import mlflow.entities

    return [getattr(mlflow.entities, kind)(key, value) for key, value in fields.items()]


def summary(error: Exception) -> str:
    """One line that says what went wrong, without user information of URIs."""
    return store.redact(f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])

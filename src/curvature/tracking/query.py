"""Reading runs back from MLflow, for verdicts and reports."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from curvature.errors import CurvatureError
from curvature.tracking import store
from curvature.tracking.delivery import summary

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

PAGE = 500
ONE_BY_ONE = 16


class StoreUnreachable(CurvatureError):
    """The tracking store cannot be read."""


@dataclass(frozen=True)
class RunRecord:
    """One run as MLflow holds it.

    Attributes:
        metrics: the latest value of each metric, i.e. that of the highest step.
        start_time: milliseconds since 1970.
    """

    run_id: str
    fingerprint: str
    arm: str
    seed: int
    scale: str
    status: str
    metrics: dict[str, float]
    params: dict[str, str]
    tags: dict[str, str]
    start_time: int


class MetricPoint(NamedTuple):
    """One logged value; ``timestamp`` in milliseconds since 1970."""

    step: int
    value: float
    timestamp: int


def finished_runs(
    uri: str, experiment: str, fingerprints: Collection[str] | None = None, superseded: bool = False
) -> list[RunRecord]:
    """The FINISHED runs of an experiment, oldest first.

    Args:
        uri: tracking URI. An experiment, or a sqlite file, that does not exist holds no runs.
        experiment: name of the experiment.
        fingerprints: only these; None means all.
        superseded: False leaves out runs that a later one replaced, and keeps the newest of several with the same
            fingerprint (as after a lost ``outputs`` folder); True returns all.

    Raises:
        StoreUnreachable: the store does not answer.
    """
    found = sorted(_search(uri, experiment, fingerprints), key=lambda run: (run.start_time, run.run_id))
    if superseded:
        return found
    current = {run.fingerprint: run for run in found if run.tags.get("superseded") != "true"}
    return sorted(current.values(), key=lambda run: (run.start_time, run.run_id))


def metric_history(uri: str, run_id: str, name: str) -> list[MetricPoint]:
    """All values of one metric of one run, by step.

    Raises:
        StoreUnreachable: the store does not answer.
    """
    with _reading(uri) as client:
        history = client.get_metric_history(run_id, name)
    return sorted(MetricPoint(m.step, m.value, m.timestamp) for m in history)


def mark_superseded(uri: str, run_id: str) -> None:
    """Tag a run as replaced, in the store at once. See :func:`curvature.tracking.supersede` for one that may wait.

    Raises:
        StoreUnreachable: the store does not answer or has no such run.
    """
    with _reading(uri) as client:
        client.set_tag(run_id, "superseded", "true")


@contextmanager
def _reading(uri: str) -> "Iterator[MlflowClient]":
    """Open the store, and turn what MLflow raises into one error for the user."""
    try:
        yield store.client(uri)
    except Exception as error:
        raise StoreUnreachable(f"MLflow at {store.redact(uri)} cannot be read: {summary(error)}") from error


def _search(uri: str, experiment: str, fingerprints: Collection[str] | None) -> Iterator[RunRecord]:
    database = store.sqlite_path(uri)
    if uri == store.OFFLINE or (database is not None and not database.exists()):
        return
    wanted = None if fingerprints is None else set(fingerprints)
    finished = "attributes.status = 'FINISHED'"
    filters = [finished]
    if wanted is not None and len(wanted) <= ONE_BY_ONE:
        filters = [f"{finished} AND tags.fingerprint = '{fingerprint}'" for fingerprint in sorted(wanted)]
    with _reading(uri) as client:
        known = client.get_experiment_by_name(experiment)
        if known is None:
            return
        for text in filters:
            token = None
            while True:
                page = client.search_runs([known.experiment_id], text, max_results=PAGE, page_token=token)
                for run in page:
                    record = _record(run)
                    if record is not None and (wanted is None or record.fingerprint in wanted):
                        yield record
                token = page.token
                if not token:
                    break


def _record(run: Any) -> RunRecord | None:
    """The run, or None for one that this package did not log."""
    tags = dict(run.data.tags)
    if "fingerprint" not in tags:
        return None
    return RunRecord(
        run_id=run.info.run_id,
        fingerprint=tags["fingerprint"],
        arm=tags.get("arm", ""),
        seed=int(tags.get("seed", 0)),
        scale=tags.get("scale", ""),
        status=run.info.status,
        metrics=dict(run.data.metrics),
        params=dict(run.data.params),
        tags=tags,
        start_time=run.info.start_time,
    )

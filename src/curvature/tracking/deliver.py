"""What the end of an outage is for: delivering run directories that MLflow does not know all of."""

import logging
import os
from pathlib import Path

from curvature.tracking import store
from curvature.tracking.courier import courier
from curvature.tracking.delivery import Busy, Delivery, summary
from curvature.tracking.state import Intent, Progress

log = logging.getLogger(__name__)


def deliver(directory: Path | str, uri: str | None = None) -> bool:
    """Deliver what is left of one run directory.

    Args:
        directory: the run directory.
        uri: needed where the run was offline, or for the user information of its URI, which is never kept on disk.

    Returns:
        Whether MLflow now holds everything; False also if the run is going on and delivers by itself.

    Raises:
        Exception: whatever MLflow raises, e.g. because the server does not answer.
    """
    directory = Path(directory).absolute()
    intent = Intent.load(directory)
    if intent is None:
        return True
    target = _target(intent, uri)
    if target is None:
        return False
    intent = intent.abandoned(directory)
    if Progress.of(intent, store.redact(target), directory).covers(intent, directory):
        return True
    delivery = Delivery(directory, target)
    try:
        return delivery.advance(abandoned=True).covers(intent, directory)
    except Busy:
        return False
    finally:
        delivery.close()


def deliver_all(outputs: Path | str, uri: str | None = None) -> list[Path]:
    """Deliver what is left in all run directories under ``outputs``; quick if there is nothing.

    Args:
        outputs: root of all that runs write.
        uri: where offline runs go; by default :func:`curvature.tracking.default_uri`.

    Returns:
        Directories that are not fully delivered: their run is going on, or their store does not answer (warned of).
    """
    outputs = Path(outputs).absolute()
    uri = uri or store.default_uri(outputs)
    pending, silent = [], set()
    for path in sorted(outputs.glob("runs/*/*/tracking.json")):
        directory = path.parent
        intent = Intent.load(directory)
        if intent is None:
            continue
        target = _target(intent, uri)
        if target in silent:
            pending.append(directory)
            continue
        try:
            if not deliver(directory, uri):
                pending.append(directory)
        except Exception as error:
            log.warning("%s cannot be delivered: %s", directory, summary(error))
            pending.append(directory)
            if target is not None and not _answers(target):
                silent.add(target)
    return pending


def supersede(directory: Path | str, uri: str | None = None) -> None:
    """Mark the run of ``directory`` as replaced by a later one, so that nothing is judged on it any more.

    The mark is on disk when this returns; MLflow hears of it in the background, or from :func:`deliver_all`. Nothing
    happens to a directory that was never tracked.

    Args:
        directory: where the replaced run is now.
        uri: as for :func:`deliver`.
    """
    directory = Path(directory).absolute()
    intent = Intent.load(directory)
    if intent is None:
        return
    intent = intent.abandoned(directory)
    intent.tags["superseded"] = "true"
    intent.save(directory)
    target = _target(intent, uri)
    if target is not None:
        courier.follow(directory, target)


def _target(intent: Intent, uri: str | None) -> str | None:
    """The URI to deliver to: the run's own, with the user information of ``uri`` or the environment if it had some."""
    if intent.uri == store.OFFLINE:
        return uri if uri != store.OFFLINE else None
    if "://***@" not in intent.uri:
        return intent.uri
    candidates = (uri, os.environ.get("MLFLOW_TRACKING_URI"))
    return next((known for known in candidates if known and store.redact(known) == intent.uri), None)


def _answers(uri: str) -> bool:
    try:
        store.client(uri).search_experiments(max_results=1)
    except Exception:
        return False
    return True

"""Metrics, parameters and artifacts of a run: first to its directory, from there to MLflow, exactly once.

Three files in a run directory carry it: ``metrics.jsonl`` (the write-ahead log of metrics), ``tracking.json`` (what
MLflow should hold besides metrics) and ``delivery.json`` (what it is known to hold). A helper process brings MLflow in
line with the first two, so that neither the speed nor an outage of a tracking server is felt in training.
"""

from curvature.tracking.deliver import deliver, deliver_all, supersede
from curvature.tracking.store import OFFLINE, default_uri, ui_command, validate_uri
from curvature.tracking.tracker import NullTracker, Tracker

__all__ = [
    "OFFLINE",
    "NullTracker",
    "Tracker",
    "default_uri",
    "deliver",
    "deliver_all",
    "supersede",
    "ui_command",
    "validate_uri",
]

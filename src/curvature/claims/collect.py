"""Finished runs of a plan, from MLflow and, where it does not answer, from the run directories."""

import logging
from collections.abc import Sequence
from pathlib import Path

from curvature.claims.plan import PlannedRun
from curvature.claims.verdicts import Result
from curvature.rundir import FINISHED, RunDirectory

log = logging.getLogger(__name__)


def collect(runs: Sequence[PlannedRun], outputs: Path | str, paper: str, uri: str | None) -> dict[str, Result]:
    """Results by fingerprint, of the runs that have finished.

    Args:
        runs: planned runs.
        outputs: root of all that runs write.
        paper: slug of the paper.
        uri: tracking URI; None is the default store.
    """
    from curvature.tracking import default_uri
    from curvature.tracking.query import StoreUnreachable, finished_runs

    results: dict[str, Result] = {}
    for address in {run.fingerprint for run in runs}:
        record = RunDirectory(outputs, paper, address).read()
        if record.get("status") == FINISHED and record.get("fingerprint") == address:
            results[address] = Result(str(record.get("mlflow_run_id") or "local"), record.get("metrics", {}))
    missing = {run.fingerprint for run in runs} - set(results)
    if missing:
        try:
            for found in finished_runs(uri or default_uri(outputs), paper, missing):
                results[found.fingerprint] = Result(found.run_id, found.metrics)
        except StoreUnreachable as error:
            log.warning("%s; judging by the run directories alone", error)
    return results

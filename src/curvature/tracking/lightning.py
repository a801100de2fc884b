"""Lightning's door to the tracker; apart from the rest so that importing :mod:`curvature.tracking` needs no torch."""

from typing import Any

from pytorch_lightning.loggers import Logger

from curvature.tracking.tracker import NullTracker, Tracker


class RunLogger(Logger):
    """Passes what modules and callbacks log on to the tracker of the run.

    Parameters are the business of the engine, so ``log_hyperparams`` does nothing. ``epoch``, which Lightning adds to
    all metrics, is left out: a run is counted in steps.
    """

    def __init__(self, tracker: Tracker | NullTracker) -> None:
        super().__init__()
        self.tracker = tracker

    @property
    def name(self) -> str:
        """The MLflow experiment."""
        return self.tracker.experiment

    @property
    def version(self) -> str:
        """The name of the run."""
        return self.tracker.run_name

    @property
    def experiment(self) -> Tracker | NullTracker:
        """The tracker, for ``self.logger.experiment.log_figure(...)`` in a module; it does nothing on other ranks."""
        return self.tracker

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        metrics.pop("epoch", None)
        self.tracker.log_metrics(metrics, step or 0)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...

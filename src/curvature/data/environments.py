"""Environments as the data of a run: steps carry no batch, the module samples."""

from collections.abc import Sequence
from typing import Any

from curvature.data.stability import StepLoader
from curvature.data.stream import StreamedDataModule
from curvature.errors import ConfigError

BASELINES = ("none", "leave_one_out")


class EnvironmentData(StreamedDataModule):
    """An environment, and how it is sampled and measured.

    Args:
        environment: one of :mod:`curvature.rl`.
        trajectories: trajectories an estimate, for each replica.
        baseline: ``none`` or ``leave_one_out``; see :meth:`curvature.rl.Trajectories.rewards_to_go`.
        product_trajectories: trajectories of a Hessian-vector product; null is as many as of an estimate.
        replicas: independent problems that run side by side; null is one, where the environment allows it.
        hidden: widths of the policy's network, where it is one.
        chunk: iterations that count as one step of the run.
        evaluations: trajectories with which a policy is evaluated, apart from those of training.

    Raises:
        ConfigError: a number below 1, or an unknown baseline.
    """

    def __init__(
        self,
        environment: Any,
        trajectories: int = 1,
        baseline: str = "none",
        product_trajectories: int | None = None,
        replicas: int | None = None,
        hidden: Sequence[int] = (32, 32),
        chunk: int = 1,
        evaluations: int = 20,
    ) -> None:
        super().__init__()
        self.train_size = self.val_size = self.test_size = 0
        for name, value in (("trajectories", trajectories), ("chunk", chunk), ("evaluations", evaluations)):
            if value < 1:
                raise ConfigError(f"data.{name}", value, "at least 1")
        for name, optional in (("replicas", replicas), ("product_trajectories", product_trajectories)):
            if optional is not None and optional < 1:
                raise ConfigError(f"data.{name}", optional, "at least 1, or null")
        if baseline not in BASELINES:
            raise ConfigError("data.baseline", baseline, f"one of {', '.join(BASELINES)}")
        self.environment, self.trajectories, self.leave_one_out = environment, trajectories, baseline != "none"
        self.product_trajectories, self.replicas = product_trajectories, replicas
        self.hidden, self.chunk, self.evaluations = tuple(hidden), chunk, evaluations

    def train_loader(self) -> StepLoader:
        return StepLoader()

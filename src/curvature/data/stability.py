"""Small regression problems that stay in memory whole; the steps of a run carry no data."""

from collections.abc import Callable, Iterator
from typing import Self

import torch
from torch import Tensor

from curvature.data.stream import StreamedDataModule
from curvature.errors import ConfigError
from curvature.stability.problems import Problem

EPOCH = 1000


class StepLoader:
    """Numbers the steps of a run, for modules that hold their data themselves. It is its own batch sampler."""

    def __init__(self) -> None:
        self.start_batch = 0

    @property
    def batch_sampler(self) -> Self:
        return self

    def set_epoch(self, epoch: int) -> None:
        """Nothing depends on the epoch."""

    def __len__(self) -> int:
        return EPOCH

    def __iter__(self) -> Iterator[Tensor]:
        return (torch.tensor(step) for step in range(self.start_batch, EPOCH))


class RegressionData(StreamedDataModule):
    """One problem of :mod:`curvature.stability.problems`.

    Args:
        problem: factory taking a seed.
        seed: of the problem.

    Raises:
        ConfigError: from ``setup``, what the factory refuses.
    """

    def __init__(self, problem: Callable[[int], Problem], seed: int = 0) -> None:
        super().__init__()
        self.factory, self.seed = problem, seed
        self._problem: Problem | None = None

    def setup(self, stage: str | None = None) -> None:
        _ = self.problem

    @property
    def problem(self) -> Problem:
        """The data; made once.

        Raises:
            ConfigError: what the factory refuses.
        """
        if self._problem is None:
            try:
                self._problem = self.factory(self.seed)
            except ConfigError as error:
                raise ConfigError(f"data.problem.{error.key}", error.value, error.allowed) from None
        return self._problem

    @property
    def train_size(self) -> int:
        return len(self.problem.inputs)

    @property
    def val_size(self) -> int:
        return 0

    @property
    def test_size(self) -> int:
        return len(self.problem.test_inputs)

    def train_loader(self) -> StepLoader:
        return StepLoader()


class NoData(StreamedDataModule):
    """For runs that compute rather than train: steps, and nothing else.

    Args:
        seed: ignored; every data config has one.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.train_size = self.val_size = self.test_size = 0

    def train_loader(self) -> StepLoader:
        return StepLoader()

"""Data in several environments: batches of each for training, every environment for evaluation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curvature.data.seeds import derive, holdout, per_example
from curvature.data.sources import Split
from curvature.data.stream import StreamedDataModule
from curvature.errors import ConfigError

STEPS_PER_EPOCH = 1000
ROLES = ("train", "test", "extra")


@dataclass(frozen=True)
class Environment:
    """One domain.

    Attributes:
        name: of the domain.
        split: its examples.
        role: ``train`` and ``test`` as their names say; an ``extra`` one is evaluated and reported by its own name.
    """

    name: str
    split: Split
    role: str


@dataclass(frozen=True)
class Evaluation:
    """Examples whose accuracy is reported: ``part`` is ``in``, or ``out`` for those held out of training."""

    environment: Environment
    part: str
    split: Split

    def batches(self, size: int = 2000) -> Iterator[tuple[Tensor, Tensor]]:
        """All examples in order, as inputs (n, ...) and labels (n,) with n up to ``size``."""
        for first in range(0, len(self.split), size):
            yield self.split.examples(np.arange(first, min(first + size, len(self.split))))


class DomainDataModule(StreamedDataModule):
    """Environments with roles; subclasses implement :meth:`load`.

    Args:
        test_envs: positions of the test environments.
        holdout_fraction: share of each environment that is never trained on (``out``), as in DomainBed; 0 has none.
        trial_seed: of the choice of the held-out examples. It does not depend on the method, so that comparisons pair.
        batch_size: examples of each domain per step, drawn with replacement; None takes all of them in every step.
        seed: of the data: noise, colours, order.
        order_seed: of the batches.

    Raises:
        ConfigError: no training or no test environment, sizes that cannot work; from ``setup``, an environment that is
            empty.
    """

    def __init__(
        self,
        test_envs: Sequence[int],
        holdout_fraction: float = 0.0,
        trial_seed: int = 0,
        batch_size: int | None = None,
        seed: int = 0,
        order_seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= holdout_fraction < 1:
            raise ConfigError("data.holdout_fraction", holdout_fraction, "a number in [0, 1)")
        if batch_size is not None and batch_size < 1:
            raise ConfigError("data.batch_size", batch_size, "at least 1, or null for all examples")
        self.test_envs, self.holdout_fraction = list(test_envs), holdout_fraction
        self.trial_seed, self.batch_size, self.seed, self.order_seed = trial_seed, batch_size, seed, order_seed
        self.environments: list[Environment] = []
        self.training: list[Split] = []
        self.evaluations: list[Evaluation] = []

    def load(self) -> list[tuple[str, Split]]:
        """Name and examples of every environment, in order."""
        raise NotImplementedError

    def role(self, index: int, name: str) -> str:
        """Role of an environment."""
        return "test" if index in self.test_envs else "train"

    def setup(self, stage: str | None = None) -> None:
        if self.environments:
            return
        loaded = self.load()
        if not self.test_envs or not all(0 <= index < len(loaded) for index in self.test_envs):
            raise ConfigError("data.test_envs", self.test_envs, f"some of 0 to {len(loaded) - 1}")
        for index, (name, split) in enumerate(loaded):
            if len(split) == 0:
                raise ConfigError("data", name, "an environment with examples")
            environment = Environment(name, split, self.role(index, name))
            self.environments.append(environment)
            kept, out = holdout(len(split), self.holdout_fraction, self.trial_seed, index)
            inside = Split(split.source, split.rows[kept], split.labels[torch.from_numpy(kept)])
            self.evaluations.append(Evaluation(environment, "in", inside))
            if len(out):
                outside = Split(split.source, split.rows[out], split.labels[torch.from_numpy(out)])
                self.evaluations.append(Evaluation(environment, "out", outside))
            if environment.role == "train":
                self.training.append(inside)
        if len(self.training) < 1:
            raise ConfigError("data.test_envs", self.test_envs, "at least one environment left to train on")

    @property
    def train_size(self) -> int:
        return sum(len(split) for split in self.training)

    @property
    def val_size(self) -> int:
        return sum(len(e.split) for e in self.evaluations if e.part == "out" and e.environment.role == "train")

    @property
    def test_size(self) -> int:
        return sum(len(e.split) for e in self.evaluations if e.part == "in" and e.environment.role == "test")

    def train_loader(self) -> "DomainLoader":
        return DomainLoader(self.training, self.batch_size, self.order_seed)


class DomainLoader:
    """A batch of every domain per step, as a function of (seed, epoch, step). It is its own batch sampler.

    Args:
        splits: training examples of each domain.
        batch_size: per domain, drawn with replacement; None takes everything, in order.
        seed: of the draws.
    """

    def __init__(self, splits: Sequence[Split], batch_size: int | None, seed: int) -> None:
        self.splits, self.batch_size, self.seed = splits, batch_size, seed
        self.epoch = self.start_batch = 0
        self._whole: list[tuple[Tensor, Tensor]] | None = None

    @property
    def batch_sampler(self) -> Self:
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the draws of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return STEPS_PER_EPOCH

    def __iter__(self) -> Iterator[list[tuple[Tensor, Tensor]]]:
        for step in range(self.start_batch, STEPS_PER_EPOCH):
            yield self._everything() if self.batch_size is None else self._draw(step)

    def _everything(self) -> list[tuple[Tensor, Tensor]]:
        if self._whole is None:
            self._whole = [split.examples(np.arange(len(split))) for split in self.splits]
        return self._whole

    def _draw(self, step: int) -> list[tuple[Tensor, Tensor]]:
        batches = []
        for index, split in enumerate(self.splits):
            seed = derive("domain", self.seed, self.epoch, step, index)
            rows: NDArray[np.int64] = np.random.default_rng(seed).integers(len(split), size=self.batch_size)
            seeds = per_example(seed, np.arange(len(rows))) if split.source.is_random else None
            batches.append(split.examples(rows, seeds))
        return batches

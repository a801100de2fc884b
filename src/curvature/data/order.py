"""Which examples make which batch: in training a pure function of (seed, epoch), in evaluation simply in order."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from curvature.data.seeds import derive
from curvature.errors import ConfigError


class Batch(NamedTuple):
    """Positions of a batch's examples in their split, and what random augmentation depends on: the epoch, and which
    copy of its example each is (None: all are the first)."""

    epoch: int
    indices: NDArray[np.int64]
    copies: NDArray[np.int64] | None = None


class SeededBatchSampler(Sampler[Batch]):
    """Shuffled batches; each process takes its contiguous share of every global batch.

    Examples left over when batches of equal size are full are dropped, other ones in every epoch: all batches of a run
    have the same size.

    Args:
        size: number of examples.
        batch_size: global batch.
        seed: two samplers with equal seeds yield equal orders.
        rank: index of this process.
        world_size: number of processes; it must divide ``batch_size``.
        repeats: copies of each example, side by side in the order (repeated augmentation, Hoffer et al. 2020). Epochs
            keep their length, so each passes through only 1 / ``repeats`` of the examples.

    Attributes:
        start_batch: first batch of the next iteration, for resuming within an epoch. ``len`` stays that of an epoch.

    Raises:
        ConfigError: a batch that is empty, larger than the data, or not divisible among the processes.
    """

    def __init__(
        self, size: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, repeats: int = 1
    ) -> None:
        check_batch_size(batch_size, size, world_size)
        self.size, self.batch_size, self.seed, self.repeats = size, batch_size, seed, repeats
        self.rank, self.share = rank, batch_size // world_size
        self.epoch = self.start_batch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch
        order = permutation(self.size, derive("order", self.seed, epoch))
        for batch in range(self.start_batch, len(self)):
            first = batch * self.batch_size + self.rank * self.share
            places = np.arange(first, first + self.share)
            copies = places % self.repeats if self.repeats > 1 else None
            yield Batch(epoch, order[places // self.repeats], copies)


class InOrder(Sampler[Batch]):
    """Every example once, in order, as batches of at most ``batch_size``; process r takes examples r, r + W, ..."""

    def __init__(self, size: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.indices = np.arange(rank, size, world_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for first in range(0, len(self.indices), self.batch_size):
            yield Batch(0, self.indices[first : first + self.batch_size])


def permutation(size: int, seed: int) -> NDArray[np.int64]:
    """A random order of 0, ..., size - 1; equal seeds give equal orders."""
    order: NDArray[np.int64] = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).numpy()
    return order


def check_batch_size(batch_size: int, size: int, world_size: int = 1) -> None:
    """Raises ConfigError unless 1 <= batch_size <= size and ``world_size`` divides it."""
    if not 1 <= batch_size <= size:
        raise ConfigError("data.batch_size", batch_size, f"from 1 to the number of training examples, {size}")
    if batch_size % world_size:
        raise ConfigError("data.batch_size", batch_size, f"a multiple of the number of processes, {world_size}")

"""The order of training examples as a pure function of (seed, epoch)."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from curvature.errors import ConfigError


class SeededBatchSampler(Sampler[list[tuple[int, int]]]):
    """Shuffled batches of (epoch, index) pairs; each process takes its contiguous share of every global batch.

    The epoch travels with the index so that random augmentation can be a function of (seed, epoch, index). Incomplete
    last batches are dropped: all batches of a run have the same size.

    Args:
        size: number of examples.
        batch_size: global batch.
        seed: two samplers with equal seeds yield equal orders.
        rank: index of this process.
        world_size: number of processes; it must divide ``batch_size``.

    Attributes:
        start_batch: first batch of the next iteration, for resuming within an epoch.

    Raises:
        ConfigError: a batch that is empty, larger than the data, or not divisible among the processes.
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        check_batch_size(batch_size, size, world_size)
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.share = rank, batch_size // world_size
        self.epoch = self.start_batch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        order = torch.randperm(self.size, generator=generator).tolist()
        for batch in range(self.start_batch, len(self)):
            first = batch * self.batch_size + self.rank * self.share
            yield [(epoch, index) for index in order[first : first + self.share]]


def check_batch_size(batch_size: int, size: int, world_size: int = 1) -> None:
    """Raises ConfigError unless 1 <= batch_size <= size and ``world_size`` divides it."""
    if not 1 <= batch_size <= size:
        raise ConfigError("data.batch_size", batch_size, f"from 1 to the number of training examples, {size}")
    if batch_size % world_size:
        raise ConfigError("data.batch_size", batch_size, f"a multiple of the number of processes, {world_size}")

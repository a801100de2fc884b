"""Training batches as one stream with a position, so that a run can continue at any batch.

Lightning counts one epoch of ``max_steps`` batches; epochs of the data are passed through inside the stream. Mid-epoch
resume then is the only case there is.
"""

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from curvature.errors import ConfigError


class BatchStream:
    """``total`` batches of ``loader``, epoch after epoch, beginning at batch ``start``.

    Args:
        loader: sized loader whose ``batch_sampler`` orders an epoch as a function of ``set_epoch(epoch)`` alone and
            begins at ``start_batch`` within it.
        total: number of batches of the whole run.
        start: batches that have been used before.
    """

    def __init__(self, loader: Any, total: int, start: int = 0) -> None:
        self.loader, self.total, self.start = loader, total, start

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[Any]:
        done = self.start
        sampler = self.loader.batch_sampler
        while done < self.total:
            epoch, offset = divmod(done, len(self.loader))
            sampler.set_epoch(epoch)
            sampler.start_batch = offset
            for batch in self.loader:
                yield batch
                done += 1
                if done == self.total:
                    return


class StreamedDataModule(pl.LightningDataModule):
    """A data module whose training data is a :class:`BatchStream` once the engine has said how long it is.

    Subclasses implement :meth:`train_loader`, and the usual ``setup``, ``val_dataloader`` and ``test_dataloader``.

    Args:
        num_workers: processes that load data.

    Raises:
        ConfigError: a negative number of them.
    """

    def __init__(self, num_workers: int = 0) -> None:
        super().__init__()
        if num_workers < 0:
            raise ConfigError("data.num_workers", num_workers, "an integer >= 0")
        self.num_workers = num_workers
        self._total: int | None = None
        self._start = 0

    def stream(self, total: int, start: int = 0) -> None:
        """Let :meth:`train_dataloader` yield batches ``start`` to ``total`` of the run."""
        self._total, self._start = total, start

    def train_loader(self) -> Any:
        """One epoch of training batches; see :class:`BatchStream` for what its batch sampler must offer."""
        raise NotImplementedError

    def train_dataloader(self) -> Any:
        loader = self.train_loader()
        return loader if self._total is None else BatchStream(loader, self._total, self._start)

    def _process(self) -> tuple[int, int]:
        """Rank of this process and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _loader(self, batches: Dataset[Any], sampler: Any, **options: Any) -> DataLoader[Any]:
        """A loader of whole batches: ``batches.__getitems__`` of what ``sampler`` yields."""
        return DataLoader(
            batches,
            batch_sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=_whole,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
            **options,
        )


def _whole(batch: Any) -> Any:
    return batch

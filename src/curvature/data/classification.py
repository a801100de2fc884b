"""What the classification data modules share: splits, label noise, order, measurement batches, robustness sets."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from curvature.data.corruptions import Corruption
from curvature.data.order import SeededBatchSampler, check_batch_size
from curvature.data.stream import StreamedDataModule
from curvature.errors import ConfigError

SPLITS = ("train", "val", "test")
Examples = tuple[Tensor, Tensor]


class TensorExamples(Dataset[Examples]):
    """Images (N, C, H, W) and labels (N,) in memory; a batch is one gather, not N look-ups.

    Indices are integers or (epoch, index) pairs. ``transform(images, epoch, indices)`` is applied to the batch.
    """

    def __init__(self, images: Tensor, labels: Tensor, transform: Callable[..., Tensor] | None = None) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Examples:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, items: Sequence[Any]) -> Examples:
        epoch = items[0][0] if isinstance(items[0], tuple) else 0
        indices = torch.tensor([item[1] if isinstance(item, tuple) else item for item in items])
        images = self.images[indices]
        if self.transform is not None:
            images = self.transform(images, epoch, indices)
        return images, self.labels[indices]


class ClassificationDataModule(StreamedDataModule):
    """Splits with their own seed, so that every arm and every run seed sees the same data.

    Subclasses implement :meth:`load`, which returns the examples of the splits the source has.

    Args:
        num_classes: number of classes.
        image_shape: (C, H, W) of an example.
        batch_size: global training batch.
        eval_batch_size: batch of validation and test.
        train_size, val_size, test_size: use the first so many examples of the split's fixed permutation; None uses
            all. Without a validation split of its own, ``val_size`` examples are held out from the end of train.
        label_noise: share of training labels that are drawn anew, uniformly over all classes.
        label_noise_seed: seed of that draw.
        corruptions: name -> corruption; each makes one more test loader.
        seed: seed of the fixed permutation of the data.
        order_seed: seed of the order of training batches.
        num_workers: processes that load training data.

    Attributes:
        test_names: names of the test loaders; the first is ``clean``.

    Raises:
        ConfigError: a size, share or batch that the data cannot give.
    """

    def __init__(
        self,
        num_classes: int,
        image_shape: Sequence[int],
        batch_size: int,
        eval_batch_size: int = 500,
        train_size: int | None = None,
        val_size: int | None = None,
        test_size: int | None = None,
        label_noise: float = 0.0,
        label_noise_seed: int = 0,
        corruptions: Mapping[str, Corruption] | None = None,
        seed: int = 0,
        order_seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if not 0.0 <= label_noise <= 1.0:
            raise ConfigError("data.label_noise", label_noise, "a share between 0 and 1")
        for key, size in (("train_size", train_size), ("val_size", val_size), ("test_size", test_size)):
            if size is not None and size < 1:
                raise ConfigError(f"data.{key}", size, "an integer >= 1, or null for all")
        self.num_classes, self.image_shape = num_classes, tuple(image_shape)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.sizes = {"train": train_size, "val": val_size, "test": test_size}
        self.label_noise, self.label_noise_seed = label_noise, label_noise_seed
        self.corruptions = dict(corruptions or {})
        self.seed, self.order_seed, self.num_workers = seed, order_seed, num_workers
        self.test_names = ["clean", *self.corruptions]
        self.splits: dict[str, Examples] = {}

    def load(self) -> dict[str, Examples]:
        """Images (N, C, H, W), float32 and normalised, and labels (N,), per split; ``val`` may be missing."""
        raise AttributeError(f"{type(self).__name__} does not say where its data comes from")

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        splits = {name: self._permuted(name, examples) for name, examples in self.load().items()}
        if "val" not in splits:
            splits = self._hold_out(splits)
        for name in SPLITS:
            splits[name] = self._first(name, splits[name])
        images, labels = splits["train"]
        splits["train"] = images, self._noisy(labels)
        check_batch_size(self.batch_size, len(labels))
        self.splits = splits

    @property
    def train_size(self) -> int:
        return len(self.splits["train"][1])

    @property
    def val_size(self) -> int:
        return len(self.splits["val"][1])

    @property
    def test_size(self) -> int:
        return len(self.splits["test"][1])

    def augment(self, images: Tensor, epoch: int, indices: Tensor) -> Tensor:
        """Random augmentation of training images, a function of (seed, epoch, indices); none by default."""
        return images

    def train_loader(self) -> DataLoader[Any]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
        sampler = SeededBatchSampler(self.train_size, self.batch_size, self.order_seed, rank, world)
        examples = TensorExamples(*self.splits["train"], transform=self.augment)
        return DataLoader(
            examples, batch_sampler=sampler, num_workers=self.num_workers, collate_fn=_whole, pin_memory=_has_gpu()
        )

    def val_dataloader(self) -> DataLoader[Any]:
        return self._evaluation_loader(*self.splits["val"])

    def test_dataloader(self) -> list[DataLoader[Any]]:
        images, labels = self.splits["test"]
        corrupted = [self._evaluation_loader(corrupt(images), labels) for corrupt in self.corruptions.values()]
        return [self._evaluation_loader(images, labels), *corrupted]

    def measurement_batches(self, count: int, split: str = "train", batch_size: int = 512) -> list[Examples]:
        """The first ``count`` examples of a split, un-augmented and in fixed order; training labels as trained on.

        Raises:
            ConfigError: the split is unknown or smaller than ``count``.
        """
        if split not in SPLITS:
            raise ConfigError("split", split, f"one of {', '.join(SPLITS)}")
        images, labels = self.splits[split]
        if not 1 <= count <= len(labels):
            raise ConfigError("callbacks.measures", count, f"at most the {len(labels)} examples of {split}")
        parts = zip(images[:count].split(batch_size), labels[:count].split(batch_size), strict=True)
        return list(parts)

    def _permuted(self, name: str, examples: Examples) -> Examples:
        images, labels = examples
        generator = torch.Generator().manual_seed(self.seed * 3 + SPLITS.index(name))
        order = torch.randperm(len(labels), generator=generator)
        return images[order], labels[order]

    def _hold_out(self, splits: dict[str, Examples]) -> dict[str, Examples]:
        images, labels = splits["train"]
        wanted = self.sizes["val"]
        count = wanted if wanted is not None else max(1, len(labels) // 10)
        if count >= len(labels):
            raise ConfigError("data.val_size", count, f"fewer than the {len(labels)} training examples")
        held, kept = (images[-count:], labels[-count:]), (images[:-count], labels[:-count])
        return splits | {"train": kept, "val": held}

    def _first(self, name: str, examples: Examples) -> Examples:
        images, labels = examples
        size = self.sizes[name]
        if size is not None and size > len(labels):
            raise ConfigError(f"data.{name}_size", size, f"at most {len(labels)}, which the {name} split has")
        return images[:size], labels[:size]

    def _noisy(self, labels: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self.label_noise_seed)
        count = round(self.label_noise * len(labels))
        chosen = torch.randperm(len(labels), generator=generator)[:count]
        labels = labels.clone()
        labels[chosen] = torch.randint(0, self.num_classes, (count,), generator=generator)
        return labels

    def _evaluation_loader(self, images: Tensor, labels: Tensor) -> DataLoader[Any]:
        examples = TensorExamples(images, labels)
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
        sampler = range(rank, len(labels), world)
        return DataLoader(examples, batch_size=self.eval_batch_size, sampler=sampler, collate_fn=_whole)


def _whole(batch: Any) -> Any:
    return batch


def _has_gpu() -> bool:
    return torch.cuda.is_available()

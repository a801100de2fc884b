"""What the classification data modules share: splits, label noise, order, measurement batches, robustness sets."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from curvature.data.corruptions import Corruption
from curvature.data.order import InOrder, SeededBatchSampler, check_batch_size
from curvature.data.seeds import derive
from curvature.data.sources import Examples, Source, Split, SplitBatches
from curvature.data.splits import LEAST, Size, check_size, choose
from curvature.data.stream import StreamedDataModule
from curvature.errors import ConfigError

SPLITS = ("train", "val", "test")


class ClassificationDataModule(StreamedDataModule):
    """Splits with their own seed, so that every arm and every run seed sees the same data.

    Subclasses implement :meth:`load`, which returns the sources there are; :func:`curvature.data.splits.choose` makes
    three splits of them. The order of training batches and their augmentation are functions of
    (``seed``, ``order_seed``, epoch, position of the example), whatever the number of workers or processes.

    Args:
        num_classes: number of classes.
        image_shape: (C, H, W) of an example.
        batch_size: global training batch.
        eval_batch_size: batch of validation and test, per process.
        train_size, val_size, test_size: how many examples of the split to use: an integer, a share between 0 and 1, or
            None for all. A source without a test or validation split gives that many of its training examples; a
            ``val_size`` of 0 then holds none out, and nothing is validated.
        label_noise: share of training labels that are drawn anew, uniformly over all classes.
        label_noise_seed: seed of that draw.
        corruptions: name -> corruption, or None to leave it out; each makes one more test loader.
        seed: seed of the fixed permutation of the data.
        order_seed: seed of the order of training batches.
        num_workers: processes that load data.
        repeats: copies of an image in a batch, each augmented on its own; see
            :class:`curvature.data.order.SeededBatchSampler`.
        train_image_shape: (C, H, W) of augmented training images where it differs from ``image_shape``, e.g. smaller
            crops in training than in test (Touvron et al. 2019).

    Attributes:
        test_names: names of the test loaders, in order; the first is ``clean``.

    Raises:
        ConfigError: a size, share or batch that cannot be given; what depends on the data itself from ``setup``.
    """

    def __init__(
        self,
        num_classes: int,
        image_shape: Sequence[int],
        batch_size: int,
        eval_batch_size: int = 500,
        train_size: Size = None,
        val_size: Size = None,
        test_size: Size = None,
        label_noise: float = 0.0,
        label_noise_seed: int = 0,
        corruptions: Mapping[str, Corruption | None] | None = None,
        seed: int = 0,
        order_seed: int = 0,
        num_workers: int = 0,
        repeats: int = 1,
        train_image_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(num_workers)
        if not 0.0 <= label_noise <= 1.0:
            raise ConfigError("data.label_noise", label_noise, "a share between 0 and 1")
        if len(image_shape) != 3 or min(image_shape) < 1:
            raise ConfigError("data.image_shape", list(image_shape), "three integers >= 1: channels, height, width")
        lower = {
            "num_classes": (num_classes, 2),
            "eval_batch_size": (eval_batch_size, 1),
            "batch_size": (batch_size, 1),
        }
        lower |= {"label_noise_seed": (label_noise_seed, 0)}
        lower |= {"seed": (seed, 0), "order_seed": (order_seed, 0), "repeats": (repeats, 1)}
        for key, (value, least) in lower.items():
            if value < least:
                raise ConfigError(f"data.{key}", value, f"an integer >= {least}")
        self.sizes = {"train": train_size, "val": val_size, "test": test_size}
        for name, size in self.sizes.items():
            check_size(f"data.{name}_size", size, LEAST[name])
        self.num_classes, self.image_shape = num_classes, tuple(image_shape)
        self.train_image_shape = tuple(train_image_shape) if train_image_shape is not None else self.image_shape
        self.repeats = repeats
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.label_noise, self.label_noise_seed = label_noise, label_noise_seed
        self.corruptions = {name: corrupt for name, corrupt in (corruptions or {}).items() if corrupt is not None}
        for name, corrupt in self.corruptions.items():
            if not callable(corrupt):
                allowed = "a function of images and positions; its config needs _target_ and _partial_: true"
                raise ConfigError(f"data.corruptions.{name}", corrupt, allowed)
        self.seed, self.order_seed = seed, order_seed
        self.splits: dict[str, Split] = {}
        self.shifted: dict[str, Split] = {}

    def load(self) -> dict[str, Source]:
        """The sources by split; ``val`` and ``test`` may be missing.

        Raises:
            ConfigError: what the data lack.
        """
        raise NotImplementedError

    def load_shifted(self) -> dict[str, Split]:
        """Further test sets, of images from another distribution; none by default."""
        return {}

    def in_use(self, split: Split) -> Split:
        """Hook: ``split`` as it will be used, now that it is known which examples these are."""
        return split

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        splits = choose(self.load(), self.sizes, self.seed)
        check_batch_size(self.batch_size, len(splits["train"]))
        for name, split in splits.items():
            if len(split):
                self._check_labels(name, split.labels)
        shifted = self.load_shifted()
        splits = {name: self.in_use(split) if len(split) else split for name, split in splits.items()}
        train = splits["train"]
        splits["train"] = Split(train.source, train.rows, self._noisy(train.labels))
        self._try_out(splits)
        self.splits, self.shifted = splits, shifted

    @property
    def train_size(self) -> int:
        return len(self.splits["train"])

    @property
    def val_size(self) -> int:
        return len(self.splits["val"])

    @property
    def test_size(self) -> int:
        return len(self.splits["test"])

    @property
    def test_names(self) -> list[str]:
        return ["clean", *self.corruptions, *self.shifted]

    @property
    def corruption_names(self) -> list[str]:
        """Names of the test loaders whose mean accuracy is the corrupted accuracy."""
        return list(self.corruptions)

    def train_loader(self) -> DataLoader[Any]:
        train, seed = self.splits["train"], derive("run", self.seed, self.order_seed)
        sampler = SeededBatchSampler(len(train), self.batch_size, seed, *self._process(), repeats=self.repeats)
        return self._loader(SplitBatches(train, seed), sampler, persistent_workers=self.num_workers > 0)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._in_order(SplitBatches(self.splits["val"]))

    def test_dataloader(self) -> list[DataLoader[Any]]:
        return [self._in_order(SplitBatches(self.splits["test"])), *self.corrupted_loaders().values()]

    def corrupted_loaders(self) -> dict[str, DataLoader[Any]]:
        """The test loaders but for the clean one, by name."""
        test = self.splits["test"]
        loaders = {
            name: self._in_order(SplitBatches(test, None, corrupt)) for name, corrupt in self.corruptions.items()
        }
        return loaders | {name: self._in_order(SplitBatches(split)) for name, split in self.shifted.items()}

    def correct(self, name: str, logits: Tensor, labels: Tensor) -> Tensor:
        """Which of a batch of the test loader ``name`` are classified correctly, (B,) bool.

        Args:
            name: one of ``test_names``.
            logits: (B, num_classes).
            labels: (B,) classes, or (B, num_classes) bool where several are right.
        """
        prediction = logits.argmax(-1)
        return labels.gather(1, prediction[:, None])[:, 0] if labels.ndim == 2 else prediction == labels

    def measurement_batches(self, count: int, split: str = "train", batch_size: int = 512) -> list[Examples]:
        """The first ``count`` examples of a split, un-augmented and in fixed order; training labels as trained on.

        Raises:
            ConfigError: the split is unknown or smaller than ``count``.
        """
        self.check_count("images", count, split)
        batches = InOrder(count, batch_size)
        return [self.splits[split].examples(batch.indices) for batch in batches]

    def check_count(self, key: str, count: int, split: str) -> None:
        """Raises ConfigError for ``key`` unless the split has ``count`` examples, at least one."""
        if split not in SPLITS:
            raise ConfigError("split", split, f"one of {', '.join(SPLITS)}")
        if not 1 <= count <= len(self.splits[split]):
            raise ConfigError(key, count, f"from 1 to the {len(self.splits[split])} examples of the {split} split")

    def _noisy(self, labels: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(derive("label noise", self.label_noise_seed))
        count = round(self.label_noise * len(labels))
        if not count:
            return labels
        chosen = torch.randperm(len(labels), generator=generator)[:count]
        labels = labels.clone()
        labels[chosen] = torch.randint(0, self.num_classes, (count,), generator=generator)
        return labels

    def _check_labels(self, name: str, labels: Tensor) -> None:
        least, most = int(labels.min()), int(labels.max())
        if least < 0 or most >= self.num_classes:
            found = f"the {name} labels run from {least} to {most}"
            raise ConfigError("data.num_classes", self.num_classes, f"more than every label >= 0; {found}")

    def _try_out(self, splits: Mapping[str, Split]) -> None:
        """Let what cannot work fail before training: one image a split, through every transform."""
        for name, split in splits.items():
            if not len(split):
                continue
            images, _ = SplitBatches(split, 0 if name == "train" else None).__getitems__(next(iter(InOrder(1, 1))))
            key = "train_image_shape" if name == "train" else "image_shape"
            if tuple(images.shape[1:]) != getattr(self, key):
                key = key if self.train_image_shape != self.image_shape else "image_shape"
                allowed = f"the shape of the {name} images, {list(images.shape[1:])}"
                raise ConfigError(f"data.{key}", list(getattr(self, key)), allowed)
            if name == "test":
                for corrupt in self.corruptions.values():
                    corrupt(images, next(iter(InOrder(1, 1))).indices)

    def _in_order(self, batches: SplitBatches) -> DataLoader[Any]:
        return self._loader(batches, InOrder(len(batches), self.eval_batch_size, *self._process()))

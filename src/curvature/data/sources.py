"""Where images come from: a tensor in memory, or files decoded when they are needed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from curvature.data.augment import Augmentation, PerExample, generator_put_back
from curvature.data.corruptions import Corruption
from curvature.data.order import Batch
from curvature.data.seeds import derive, per_example
from curvature.errors import ConfigError

Examples = tuple[Tensor, Tensor]


class Source(Protocol):
    """Images by position. With ``seeds``, one per image, they are augmented; all are normalised.

    Attributes:
        labels: (N,).
        is_random: whether seeds make a difference.
    """

    labels: Tensor

    @property
    def is_random(self) -> bool: ...

    def images(self, rows: NDArray[np.int64], seeds: NDArray[np.int64] | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Normalisation:
    """Maps 8-bit pixels x to (x / 255 - mean) / std, per channel; mean = std = 0.5 gives the range [-1, 1]."""

    mean: float | Sequence[float] = 0.5
    std: float | Sequence[float] = 0.5

    def __call__(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            return images
        mean, std = (
            torch.tensor(value, dtype=torch.float32).reshape(-1, 1, 1) * 255 for value in (self.mean, self.std)
        )
        return images.float().sub_(mean).div_(std)


class TensorSource:
    """Images in memory; a batch is one gather, not B look-ups.

    Args:
        images: (N, C, H, W); uint8 images are normalised when they are taken out, float images are used as they are.
        labels: (N,).
        normalisation: for uint8 images.
        augmentation: applied to training batches, before normalisation.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        normalisation: Normalisation | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.tensor, self.labels = images, labels
        self.normalisation, self.augmentation = normalisation or Normalisation(), augmentation

    @property
    def is_random(self) -> bool:
        return self.augmentation is not None

    def images(self, rows: NDArray[np.int64], seeds: NDArray[np.int64] | None = None) -> Tensor:
        images = self.tensor[torch.from_numpy(rows)]
        if seeds is not None and self.augmentation is not None:
            images = self.augmentation(images, seeds)
        return self.normalisation(images)


class DecodedSource:
    """Pictures that are read when they are needed.

    Args:
        read: positions -> PIL images, one after the other.
        labels: (N,).
        shape: (C, H, W) of what comes out; C is 1 (grey) or 3 (RGB).
        eval_transforms: applied to the PIL image; without any it is resized to ``shape``.
        train_transforms: the same for training, random; without any, those of evaluation.
        normalisation: of 8-bit pixels.
        train_shape: (C, H, W) of what random transforms give; by default ``shape``.

    Raises:
        ConfigError: from ``images``, transforms whose result does not have the shape they should.
    """

    def __init__(
        self,
        read: Callable[[NDArray[np.int64]], Iterable[Any]],
        labels: Tensor,
        shape: Sequence[int],
        eval_transforms: Sequence[Callable[[Any], Any]] | None = None,
        train_transforms: Sequence[Callable[[Any], Any]] | None = None,
        normalisation: Normalisation | None = None,
        train_shape: Sequence[int] | None = None,
    ) -> None:
        self.read, self.labels, self.shape = read, labels, tuple(shape)
        self.train_shape = tuple(train_shape) if train_shape is not None else self.shape
        if self.shape[0] not in (1, 3):
            raise ConfigError("data.image_shape", list(shape), "(C, H, W) with C = 1 (grey) or 3 (RGB)")
        self.plain = PerExample(eval_transforms or [self._resized])
        self.random = PerExample(train_transforms) if train_transforms else self.plain
        self.normalisation = normalisation or Normalisation()

    @property
    def is_random(self) -> bool:
        return self.random is not self.plain

    def images(self, rows: NDArray[np.int64], seeds: NDArray[np.int64] | None = None) -> Tensor:
        return self.normalisation(self.pixels(rows, seeds))

    def pixels(self, rows: NDArray[np.int64], seeds: NDArray[np.int64] | None = None) -> Tensor:
        """The same (B, C, H, W), not yet normalised: uint8 unless the transforms end in floats."""
        images = map(self._converted, self.read(rows))
        if seeds is None:
            return torch.stack([self._finished(self.plain.one(image), self.shape) for image in images])
        shape = self.train_shape if self.is_random else self.shape
        with generator_put_back():
            pairs = zip(images, seeds, strict=True)
            return torch.stack([self._finished(self.random.seeded(image, seed), shape) for image, seed in pairs])

    def _converted(self, image: Any) -> Any:
        mode = "L" if self.shape[0] == 1 else "RGB"
        return image if image.mode == mode else image.convert(mode)

    def _resized(self, image: Any) -> Any:
        from PIL.Image import Resampling

        size = (self.shape[2], self.shape[1])
        return image if image.size == size else image.resize(size, Resampling.BICUBIC)

    def _finished(self, image: Any, shape: tuple[int, ...]) -> Tensor:
        if not isinstance(image, Tensor):
            array = np.array(image)
            image = torch.from_numpy(array if array.ndim == 3 else array[:, :, None]).permute(2, 0, 1)
        if tuple(image.shape) != shape:
            key = "data.image_shape" if shape == self.shape else "data.train_image_shape"
            raise ConfigError(key, list(shape), f"what data's transforms give, here {tuple(image.shape)}")
        return image.as_subclass(Tensor).contiguous()


@dataclass(frozen=True)
class Split:
    """Examples of one split: those of ``source`` at ``rows``, in this order, with ``labels``, which may be noisy."""

    source: Source
    rows: NDArray[np.int64]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def examples(self, indices: NDArray[np.int64], seeds: NDArray[np.int64] | None = None) -> Examples:
        """Images (B, C, H, W) and labels (B, ...) at positions ``indices`` of the split."""
        return self.source.images(self.rows[indices], seeds), self.labels[torch.from_numpy(indices)]


class SplitBatches(Dataset[Examples]):
    """What a DataLoader reads: hands out whole batches of a split.

    Args:
        split: the examples.
        augmentation_seed: augment, as a function of this seed, the epoch and the example's position; None does not.
        corruption: applied to every batch.
    """

    def __init__(
        self, split: Split, augmentation_seed: int | None = None, corruption: Corruption | None = None
    ) -> None:
        self.split, self.corruption = split, corruption
        self.augmentation_seed = augmentation_seed if split.source.is_random else None

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Examples:
        images, labels = self.__getitems__(Batch(0, np.array([index])))
        return images[0], labels[0]

    def __getitems__(self, batch: Batch) -> Examples:
        seeds = None
        if self.augmentation_seed is not None:
            places = batch.indices if batch.copies is None else batch.indices + batch.copies * len(self.split)
            seeds = per_example(derive("augment", self.augmentation_seed, batch.epoch), places)
        images, labels = self.split.examples(batch.indices, seeds)
        if self.corruption is not None:
            images = self.corruption(images, batch.indices)
        return images, labels

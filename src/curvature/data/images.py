"""Image data sets read with Hugging Face ``datasets``: a local directory of parquet files, or a hub id."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from curvature.data.augment import Augmentation, PerExample
from curvature.data.classification import ClassificationDataModule
from curvature.data.files import UNREADABLE
from curvature.data.sources import DecodedSource, Normalisation, Source, Split, TensorSource
from curvature.errors import ConfigError

IN_MEMORY_LIMIT = 16 * 2**30
CHUNK = 1000

Transforms = Sequence[Callable[[Any], Any]]


class PictureDataModule(ClassificationDataModule):
    """Data that begins as encoded pictures.

    Args:
        in_memory: decode the pictures in use once, with ``eval_transform``, and keep them as 8-bit tensors; else each
            is decoded whenever it is needed.
        train_transform: list of random transforms, e.g. from ``torchvision.transforms.v2``, which draw from torch's
            generator; they get 8-bit tensors (C, H, W) if ``in_memory``, else PIL images. In memory it may also be an
            augmentation of whole batches, such as :class:`curvature.data.augment.CropAndFlip`.
        eval_transform: list of deterministic transforms of PIL images; without it, pictures are resized to the height
            and width of ``image_shape``.
        mean, std: of the normalisation (x / 255 - mean) / std; numbers or one number per channel.
        **options: see :class:`curvature.data.classification.ClassificationDataModule`. By C of ``image_shape``
            pictures become grey (1) or RGB (3).

    Raises:
        ConfigError: from ``setup``, pictures that are missing, too many for the memory, or of the wrong shape.
    """

    def __init__(
        self,
        in_memory: bool = True,
        train_transform: Transforms | Augmentation | None = None,
        eval_transform: Transforms | None = None,
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.in_memory, self.eval_transform = in_memory, eval_transform
        self.train_transform = train_transform
        if not in_memory and not (train_transform is None or isinstance(train_transform, Sequence)):
            allowed = "a list of transforms when pictures are not in memory (data.in_memory=false)"
            raise ConfigError("data.train_transform", type(train_transform).__name__, allowed)
        self.normalisation = Normalisation(mean, std)

    def decoded(self, read: Callable[[NDArray[np.int64]], Iterable[Any]], labels: torch.Tensor) -> DecodedSource:
        """A source of PIL images with this module's transforms."""
        transform = self.train_transform
        random = transform if isinstance(transform, Sequence) and not self.in_memory else None
        return DecodedSource(
            read, labels, self.image_shape, self.eval_transform, random, self.normalisation, self.train_image_shape
        )

    def in_use(self, split: Split) -> Split:
        """``split`` with its pictures decoded once, where ``in_memory`` asks for that.

        Raises:
            ConfigError: they need more memory than is allowed.
        """
        if not self.in_memory or not isinstance(split.source, DecodedSource):
            return split
        needed = len(split) * int(np.prod(self.image_shape))
        if needed > IN_MEMORY_LIMIT:
            allowed = f"false: {len(split)} images need {needed / 2**30:.0f} GiB"
            raise ConfigError("data.in_memory", self.in_memory, allowed)
        transform = self.train_transform
        augmentation = PerExample(transform) if isinstance(transform, Sequence) else transform
        pixels = split.source.pixels(split.rows)
        source = TensorSource(pixels, split.labels, self.normalisation, augmentation)
        return Split(source, np.arange(len(split)), split.labels)


class ImageDataModule(PictureDataModule):
    """Images and labels of a ``datasets`` data set.

    Args:
        name: directory under ``root`` that ``datasets.load_dataset`` can read, e.g. one of parquet files.
        root: the data root; not needed with ``hub``.
        hub: id on the Hugging Face hub, used instead of the local directory.
        sources: our split -> its name in the data set; ``val`` and ``test`` may be missing.
        image_column, label_column: names of the columns.
        cache_dir: where ``datasets`` keeps its files; None is its default.
        **options: see :class:`PictureDataModule`.

    Raises:
        ConfigError: ``sources`` without ``train`` or with other splits than ours; from ``setup``, data not found.
    """

    def __init__(
        self,
        name: str,
        root: str | None = None,
        hub: str | None = None,
        sources: Mapping[str, str | None] | None = None,
        image_column: str = "image",
        label_column: str = "label",
        cache_dir: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.folder, self.root, self.hub, self.cache_dir = name, root, hub, cache_dir
        self.sources = {ours: theirs for ours, theirs in (sources or {"train": "train"}).items() if theirs is not None}
        if "train" not in self.sources or not set(self.sources) <= {"train", "val", "test"}:
            raise ConfigError("data.sources", dict(self.sources), "train and, where there are any, val and test")
        self.image_column, self.label_column = image_column, label_column

    def prepare_data(self) -> None:
        self._dataset()

    def load(self) -> dict[str, Source]:
        available = self._dataset()
        sources: dict[str, Source] = {}
        for ours, theirs in self.sources.items():
            if theirs not in available:
                raise ConfigError(f"data.sources.{ours}", theirs, f"one of {', '.join(available)}")
            sources[ours] = self._source(available[theirs])
        return sources

    def _dataset(self) -> Any:
        import datasets

        if self.hub is not None:
            try:
                return datasets.load_dataset(self.hub, cache_dir=self.cache_dir)
            except (OSError, ValueError) as error:
                raise ConfigError(
                    "data.hub", self.hub, f"a data set on the hub that can be reached ({error})"
                ) from error
        directory = Path(self.root or "") / self.folder
        if self.root is None or not any(directory.rglob("*.*")):
            layout = f"a directory with {self.folder}/data/train-*.parquet and so on, columns image and label"
            raise ConfigError("data_root", self.root, f"{layout} (or set data.hub to a hub id)")
        try:
            return datasets.load_dataset(str(directory), cache_dir=self.cache_dir)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise ConfigError("data_root", self.root, f"readable parquet files in {self.folder}/ ({error})") from error

    def _source(self, dataset: Any) -> DecodedSource:
        import datasets

        for key, column in (("image_column", self.image_column), ("label_column", self.label_column)):
            if column not in dataset.column_names:
                raise ConfigError(f"data.{key}", column, f"one of {', '.join(dataset.column_names)}")
        if not isinstance(dataset.features[self.image_column], datasets.Image):
            raise ConfigError("data.image_column", self.image_column, "a column of images")
        feature = dataset.features[self.label_column]
        if not str(getattr(feature, "dtype", "")).startswith(("int", "uint")):
            raise ConfigError("data.label_column", self.label_column, "a column of integers")
        labels = dataset.select_columns([self.label_column]).with_format("numpy")[:][self.label_column]
        encoded = dataset.select_columns([self.image_column]).cast_column(
            self.image_column, datasets.Image(decode=False)
        )
        return self.decoded(Pictures(encoded, self.image_column), torch.from_numpy(labels.astype(np.int64)))


class Pictures:
    """Decodes the pictures of one column; can be sent to loader processes."""

    def __init__(self, dataset: Any, column: str) -> None:
        self.dataset, self.column = dataset, column

    def __call__(self, rows: NDArray[np.int64]) -> Iterator[Any]:
        import datasets

        feature = datasets.Image()
        for first in range(0, len(rows), CHUNK):
            chunk = rows[first : first + CHUNK]
            for row, encoded in zip(chunk, self.dataset[chunk][self.column], strict=True):
                try:
                    image = feature.decode_example(encoded)
                    image.load()
                except UNREADABLE as error:
                    raise ConfigError("data_root", f"row {row}", f"a picture that can be read ({error})") from error
                yield image

"""Images in two resolutions for super-resolution: patches of them for training, whole ones for evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from curvature.data.image_pairs import SYMMETRIES, FilePairs, HeldPairs, Pairs, pair_of, symmetry
from curvature.data.order import Batch, InOrder, SeededBatchSampler, check_batch_size
from curvature.data.seeds import derive, per_example
from curvature.data.sources import Examples
from curvature.data.stream import StreamedDataModule
from curvature.errors import ConfigError

COLUMNS = {"train": [(0, 240), (400, 640)], "val": [(240, 304)], "test": [(304, 400)]}
"""Of the embedded photographs, 427 rows by 640 columns; no pixel is in two splits."""


class SuperResolutionDataModule(StreamedDataModule):
    """Patches for training, at random places and in random symmetries; whole images for validation and test.

    Pixels are RGB in [0, 1]. An epoch has ``patches_per_image`` patches of every training image; which these are, and
    their order, are functions of (``seed``, ``order_seed``, epoch, position), whatever the number of workers or
    processes. Subclasses implement :meth:`load`.

    Args:
        scale: factor between the resolutions, >= 2.
        patch_size: side of a patch in low resolution; in high resolution it is ``scale`` times that.
        patches_per_image: patches an epoch takes of an image.
        batch_size: patches of a batch, over all processes.
        seed: of the patches.
        order_seed: the same, and of their order.
        num_workers: processes that load data.

    Attributes:
        test_names: names of the test sets, in the order of their loaders.

    Raises:
        ConfigError: a number out of range; from ``setup``, missing images, or training images smaller than a patch.
    """

    def __init__(
        self,
        scale: int,
        patch_size: int,
        patches_per_image: int,
        batch_size: int,
        seed: int = 0,
        order_seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(num_workers)
        lower = {"scale": (scale, 2), "patch_size": (patch_size, 1), "patches_per_image": (patches_per_image, 1)}
        lower |= {"batch_size": (batch_size, 1), "seed": (seed, 0), "order_seed": (order_seed, 0)}
        for key, (value, least) in lower.items():
            if value < least:
                raise ConfigError(f"data.{key}", value, f"an integer >= {least}")
        self.scale, self.patch_size, self.patches_per_image = scale, patch_size, patches_per_image
        self.batch_size, self.seed, self.order_seed = batch_size, seed, order_seed
        self.train: Pairs | None = None
        self.val: Pairs | None = None
        self.tests: dict[str, Pairs] = {}

    def load(self) -> tuple[Pairs, Pairs, Mapping[str, Pairs]]:
        """Images for training, for validation and of every test set.

        Raises:
            ConfigError: what is missing.
        """
        raise NotImplementedError

    def in_use(self, train: Pairs) -> Pairs:
        """Hook: the training images as they will be used, now that they are known to fit."""
        return train

    def setup(self, stage: str | None = None) -> None:
        if self.train is not None:
            return
        train, val, tests = self.load()
        smallest = min(min(train.low_size(index)) for index in range(len(train)))
        if self.patch_size > smallest:
            raise ConfigError("data.patch_size", self.patch_size, f"at most {smallest}, the smallest low resolution")
        check_batch_size(self.batch_size, len(train) * self.patches_per_image)
        self.train, self.val, self.tests = self.in_use(train), val, dict(tests)

    @property
    def train_size(self) -> int:
        """Patches of an epoch."""
        assert self.train is not None
        return len(self.train) * self.patches_per_image

    @property
    def val_size(self) -> int:
        assert self.val is not None
        return len(self.val)

    @property
    def test_size(self) -> int:
        return sum(map(len, self.tests.values()))

    @property
    def test_names(self) -> list[str]:
        return list(self.tests)

    def train_loader(self) -> DataLoader[Any]:
        seed = derive("run", self.seed, self.order_seed)
        sampler = SeededBatchSampler(self.train_size, self.batch_size, seed, *self._process())
        return self._loader(self._patches(seed), sampler, persistent_workers=self.num_workers > 0)

    def val_dataloader(self) -> DataLoader[Any]:
        assert self.val is not None
        return self._in_order(self.val)

    def test_dataloader(self) -> list[DataLoader[Any]]:
        return [self._in_order(pairs) for pairs in self.tests.values()]

    def measurement_batches(self, count: int, split: str = "train", batch_size: int = 512) -> list[Examples]:
        """``count`` training patches that are the same in every run, neither mirrored nor transposed, in fixed order.

        Raises:
            ConfigError: another split, or more patches than an epoch has.
        """
        if split != "train":
            raise ConfigError("split", split, "train")
        if not 1 <= count <= self.train_size:
            raise ConfigError("images", count, f"from 1 to the {self.train_size} patches of an epoch")
        patches = self._patches(0, symmetric=False)
        return [patches.__getitems__(batch) for batch in InOrder(count, batch_size)]

    def _patches(self, seed: int, symmetric: bool = True) -> "Patches":
        assert self.train is not None
        return Patches(self.train, self.patches_per_image, self.patch_size, self.scale, seed, symmetric)

    def _in_order(self, pairs: Pairs) -> DataLoader[Any]:
        return self._loader(WholeImages(pairs), InOrder(len(pairs), 1, *self._process()))


class Patches(Dataset[Examples]):
    """Pairs of patches, (B, 3, p, p) and (B, 3, s p, s p) in [0, 1]: a function of seed, epoch and positions.

    Args:
        pairs: the images; position i is a patch of image i modulo their number.
        per_image: patches an epoch takes of each.
        size: p.
        scale: s.
        seed: of places and symmetries.
        symmetric: mirror and transpose patches at random.
    """

    def __init__(self, pairs: Pairs, per_image: int, size: int, scale: int, seed: int, symmetric: bool = True) -> None:
        self.pairs, self.per_image, self.size, self.scale = pairs, per_image, size, scale
        self.seed, self.symmetric = seed, symmetric

    def __len__(self) -> int:
        return len(self.pairs) * self.per_image

    def __getitem__(self, index: int) -> Examples:
        low, high = self.__getitems__(Batch(0, np.array([index])))
        return low[0], high[0]

    def __getitems__(self, batch: Batch) -> Examples:
        seeds = per_example(derive("patch", self.seed, batch.epoch), batch.indices)
        patches = [self._patch(int(index), int(seed)) for index, seed in zip(batch.indices, seeds, strict=True)]
        low, high = (torch.stack(part).float().div_(255.0) for part in zip(*patches, strict=True))
        return low, high

    def _patch(self, index: int, seed: int) -> Examples:
        low, high = self.pairs[index % len(self.pairs)]
        rows, columns = (side - self.size + 1 for side in low.shape[-2:])
        seed, top = divmod(seed, rows)
        seed, left = divmod(seed, columns)
        patches = []
        for image, factor in ((low, 1), (high, self.scale)):
            window = image[:, factor * top :, factor * left :][:, : factor * self.size, : factor * self.size]
            patches.append(symmetry(window, seed % SYMMETRIES) if self.symmetric else window)
        return patches[0], patches[1]


class WholeImages(Dataset[Examples]):
    """Pairs of whole images, (1, 3, H, W) and (1, 3, s H, s W) in [0, 1]: their sizes differ."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Examples:
        low, high = self.pairs[index]
        return low.float().div_(255.0), high.float().div_(255.0)

    def __getitems__(self, batch: Batch) -> Examples:
        low, high = self[int(batch.indices[0])]
        return low[None], high[None]


class PhotographsDataModule(SuperResolutionDataModule):
    """scikit-learn's two sample photographs, JPEG files of 427 x 640 pixels that need no download.

    Of each, :data:`COLUMNS` go to training, validation and test; resolutions are lowered after they are cut apart. The
    test sets are ``china`` and ``flower``, one region each.

    Args:
        **options: see :class:`SuperResolutionDataModule`.
    """

    def load(self) -> tuple[Pairs, Pairs, Mapping[str, Pairs]]:
        from sklearn.datasets import load_sample_images

        source = load_sample_images()
        names = [Path(name).stem for name in source.filenames]
        photographs = [torch.tensor(image).permute(2, 0, 1) for image in source.images]

        def regions(split: str) -> list[Examples]:
            bounds = COLUMNS[split]
            return [pair_of(image[:, :, first:last], self.scale) for image in photographs for first, last in bounds]

        tests = {name: HeldPairs([pair]) for name, pair in zip(names, regions("test"), strict=True)}
        return HeldPairs(regions("train")), HeldPairs(regions("val")), tests


class DIV2KDataModule(SuperResolutionDataModule):
    """DIV2K for training and validation (Agustsson and Timofte 2017), as it is distributed, and folders for tests.

    High resolution is ``root/DIV2K/DIV2K_{train,valid}_HR/<name>.png`` and ``root/<test set>/<name>.png``. Low
    resolution is ``root/DIV2K/DIV2K_{train,valid}_LR_bicubic/X2/<name>x2.png`` and ``root/<test set>/X2/<name>.png``
    (X3, X4 for other factors) where there is such a folder, else made by bicubic downsampling, :func:`resized`.

    Args:
        root: the data root.
        test_sets: names of folders.
        in_memory: read the training images once and keep them, 8.6 GB for factor 2; else one is decoded for each patch,
            which is much slower.
        **options: see :class:`SuperResolutionDataModule`.

    Raises:
        ConfigError: no test sets; from ``setup``, see :class:`FilePairs`.
    """

    def __init__(
        self,
        root: str | None = None,
        test_sets: Sequence[str] = ("Set14", "B100", "Urban100"),
        in_memory: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not test_sets:
            raise ConfigError("data.test_sets", list(test_sets), "names of folders, at least one")
        self.root, self.test_sets, self.in_memory = root, list(test_sets), in_memory

    def load(self) -> tuple[Pairs, Pairs, Mapping[str, Pairs]]:
        if self.root is None:
            layout = f"a directory with DIV2K/DIV2K_train_HR/*.png and {', '.join(self.test_sets)}"
            raise ConfigError("data_root", None, layout)
        root, low = Path(self.root), f"X{self.scale}"
        div2k = {
            split: FilePairs(
                root / "DIV2K" / f"DIV2K_{split}_HR", root / "DIV2K" / f"DIV2K_{split}_LR_bicubic" / low, self.scale
            )
            for split in ("train", "valid")
        }
        tests = {name: FilePairs(root / name, root / name / low, self.scale) for name in self.test_sets}
        return div2k["train"], div2k["valid"], tests

    def in_use(self, train: Pairs) -> Pairs:
        return HeldPairs([train[index] for index in range(len(train))]) if self.in_memory else train

"""Image folders: one directory per split, one per class below it, as for ImageNet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curvature.data.files import Files, scan
from curvature.data.images import PictureDataModule
from curvature.data.robustness import SETS
from curvature.data.sources import Source, Split
from curvature.errors import ConfigError, near_matches


class ImageFolderDataModule(PictureDataModule):
    """``root/name/train/<class>/<picture>`` and the same for ``val`` and, if there is one, ``test``.

    Without ``test``, ``val`` is the test split, as is usual for ImageNet, and validation examples are held out of
    train. Classes are numbered in the order of their names.

    Args:
        name: directory under ``root``.
        root: the data root.
        robustness: names of further test sets, of :data:`curvature.data.robustness.SETS`, which lie under ``root``.
        **options: see :class:`curvature.data.images.PictureDataModule`.

    Attributes:
        classes: names of the classes, after ``setup``.
        class_masks: test loader -> (num_classes,) bool, the classes it is restricted to.

    Raises:
        ConfigError: from ``setup``, directories that are missing, saying what is expected.
    """

    def __init__(
        self,
        name: str,
        root: str | None = None,
        robustness: Sequence[str] = (),
        in_memory: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(in_memory=in_memory, **options)
        self.folder, self.root, self.robustness = name, root, list(robustness)
        for item in self.robustness:
            check_robustness(item)
        self.classes: list[str] = []
        self.class_masks: dict[str, torch.Tensor] = {}

    def load(self) -> dict[str, Source]:
        directory = Path(self.root or "") / self.folder
        layout = f"a directory with {self.folder}/train/<class>/*.JPEG and {self.folder}/val/<class>/*.JPEG"
        if self.root is None or not all((directory / split).is_dir() for split in ("train", "val")):
            raise ConfigError("data_root", self.root, layout)
        has_test = (directory / "test").is_dir()
        folders = {"train": "train", "val": "val", "test": "test"} if has_test else {"train": "train", "test": "val"}
        sources: dict[str, Source] = {}
        for split, folder in folders.items():
            paths, labels, classes = scan(directory / folder)
            self.classes = self.classes or classes
            if classes != self.classes:
                unknown = sorted(set(classes) ^ set(self.classes))[:3]
                raise ConfigError("data_root", self.root, f"the same classes in train and {folder}, unlike {unknown}")
            sources[split] = self.decoded(Files(paths), labels)
        if len(self.classes) != self.num_classes:
            raise ConfigError(
                "data.num_classes", self.num_classes, f"{len(self.classes)}, as found in {self.folder}/train"
            )
        return sources

    def load_shifted(self) -> dict[str, Split]:
        shifted: dict[str, Split] = {}
        for item in self.robustness:
            for test_set in SETS[item](Path(self.root or ""), self.folder, self.classes):
                source = self.decoded(Files(test_set.paths), test_set.labels)
                shifted[test_set.name] = Split(source, np.arange(len(test_set.paths)), test_set.labels)
                if test_set.classes is not None:
                    self.class_masks[test_set.name] = test_set.classes
        return shifted

    @property
    def corruption_names(self) -> list[str]:
        """Those of ImageNet-C if it is there, else the corruptions of the configuration."""
        return [name for name in self.shifted if name.startswith("imagenet_c/")] or super().corruption_names

    def correct(self, name: str, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if name in self.class_masks:
            logits = logits.masked_fill(~self.class_masks[name].to(logits.device), -torch.inf)
        return super().correct(name, logits, labels)


def check_robustness(name: str) -> None:
    """Raises ConfigError unless ``name`` is a known robustness set."""
    if name not in SETS:
        hint = near_matches(name, SETS) or list(SETS)
        raise ConfigError("data.robustness", name, f"some of {', '.join(hint)}")

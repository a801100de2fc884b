"""Pictures in several domains: parquet with a domain column, or folders in DomainBed's layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from curvature.data.domains import DomainDataModule
from curvature.data.files import Files, scan
from curvature.data.images import ImageDataModule, PictureDataModule, Transforms
from curvature.data.sources import Split
from curvature.errors import ConfigError


class DomainParquet(DomainDataModule):
    """A ``datasets`` data set with a column that names the domain; environments are in the order of their names.

    Args:
        name: directory under ``root``.
        root: the data root.
        split: name of the split that holds everything.
        domain_column: text or class numbers.
        image_shape: (C, H, W) that pictures are resized to.
        num_classes: number of classes.
        train_transform: see :class:`curvature.data.images.PictureDataModule`; as in DomainBed it applies to batches,
            not to evaluations.
        mean, std: of the normalisation.
        in_memory: decode all pictures once.
        **options: see :class:`curvature.data.domains.DomainDataModule`.
    """

    def __init__(
        self,
        name: str,
        root: str | None = None,
        split: str = "train",
        domain_column: str = "domain",
        image_shape: Sequence[int] = (3, 64, 64),
        num_classes: int = 7,
        train_transform: Transforms | None = None,
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
        in_memory: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.split, self.domain_column = split, domain_column
        self.pictures = _Column(
            name=name,
            root=root,
            sources={"train": split},
            num_classes=num_classes,
            image_shape=tuple(image_shape),
            train_transform=train_transform,
            mean=mean,
            std=std,
            in_memory=in_memory,
            batch_size=1,
        )

    def load(self) -> list[tuple[str, Split]]:
        source = self.pictures.load()["train"]
        domains = self.pictures.column(self.split, self.domain_column)
        whole = Split(source, np.arange(len(domains)), source.labels)
        decoded = self.pictures.in_use(whole)
        found = []
        for name in sorted(set(domains.tolist())):
            rows = np.flatnonzero(domains == name)
            found.append((str(name), Split(decoded.source, decoded.rows[rows], decoded.labels[torch.from_numpy(rows)])))
        return found


class _Column(ImageDataModule):
    def column(self, split: str, name: str) -> NDArray[Any]:
        dataset = self._dataset()[split]
        if name not in dataset.column_names:
            raise ConfigError("data.domain_column", name, f"one of {', '.join(dataset.column_names)}")
        values = dataset.select_columns([name]).with_format("numpy")[:][name]
        names = getattr(dataset.features[name], "names", None)
        return np.array(names)[values] if names else np.asarray(values)


class DomainFolders(DomainDataModule):
    """``root/name/<domain>/<class>/<picture>``, as DomainBed lays out VLCS, PACS, OfficeHome and DomainNet.

    Args:
        name: directory under ``root``.
        root: the data root.
        image_shape: (C, H, W) that pictures are resized to.
        num_classes: number of classes, equal in all domains.
        train_transform, mean, std, in_memory: see :class:`curvature.data.images.PictureDataModule`.
        **options: see :class:`curvature.data.domains.DomainDataModule`.

    Raises:
        ConfigError: from ``setup``, folders that are missing or whose classes differ between domains.
    """

    def __init__(
        self,
        name: str,
        root: str | None = None,
        image_shape: Sequence[int] = (3, 224, 224),
        num_classes: int = 7,
        train_transform: Transforms | None = None,
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
        in_memory: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.folder, self.root, self.num_classes = name, root, num_classes
        self.pictures = PictureDataModule(
            num_classes=num_classes,
            image_shape=tuple(image_shape),
            train_transform=train_transform,
            mean=mean,
            std=std,
            in_memory=in_memory,
            batch_size=1,
        )

    def load(self) -> list[tuple[str, Split]]:
        directory = Path(self.root or "") / self.folder
        domains = sorted(path for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else []
        if self.root is None or len(domains) < 2:
            raise ConfigError("data_root", self.root, f"a directory with {self.folder}/<domain>/<class>/<picture>")
        found, known = [], None
        for domain in domains:
            paths, labels, classes = scan(domain)
            known = known or classes
            if classes != known:
                unknown = sorted(set(classes) ^ set(known))[:3]
                raise ConfigError(
                    "data_root", self.root, f"the same classes in all domains of {self.folder}: {unknown}"
                )
            source = self.pictures.decoded(Files(paths), labels)
            found.append((domain.name, self.pictures.in_use(Split(source, np.arange(len(labels)), labels))))
        if len(known or ()) != self.num_classes:
            raise ConfigError("data.num_classes", self.num_classes, f"{len(known or ())}, as found in {self.folder}")
        return found

"""ImageNet-C, ImageNet-R, ImageNetV2 and ImageNet-ReaL as test sets for classifiers of the 1000 ImageNet classes."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from curvature.data.files import scan
from curvature.errors import ConfigError

CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class TestSet:
    """One robustness test set.

    Attributes:
        name: of its loader.
        paths: (N,) files.
        labels: (N,) classes, or (N, C) bool where several are right.
        classes: (C,) bool, the classes among which a prediction is chosen; None is all.
    """

    name: str
    paths: NDArray[np.bytes_]
    labels: torch.Tensor
    classes: torch.Tensor | None = None


def imagenet_c(root: Path, clean: str, classes: Sequence[str]) -> Iterator[TestSet]:
    """One set per corruption, its five severities together (Hendrycks & Dietterich 2019).

    All sets have the same number of images, so the mean accuracy over them is that over corruptions and severities.
    """
    for corruption in CORRUPTIONS:
        parts = []
        for severity in SEVERITIES:
            folder = root / "imagenet-c" / corruption / str(severity)
            _require(folder, root, f"imagenet-c/{corruption}/{severity}/<class>/*.JPEG")
            paths, labels, found = scan(folder)
            parts.append((paths, _renumber(labels, found, classes, folder)))
        paths, labels = np.concatenate([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        yield TestSet(f"imagenet_c/{corruption}", paths, labels)


def imagenet_r(root: Path, clean: str, classes: Sequence[str]) -> Iterator[TestSet]:
    """Renditions of 200 classes, among which the prediction is chosen (Hendrycks et al. 2021)."""
    folder = root / "imagenet-r"
    _require(folder, root, "imagenet-r/<class>/*.jpg")
    paths, labels, found = scan(folder)
    mask = torch.zeros(len(classes), dtype=torch.bool)
    labels = _renumber(labels, found, classes, folder)
    mask[labels] = True
    yield TestSet("imagenet_r", paths, labels, mask)


def imagenet_v2(root: Path, clean: str, classes: Sequence[str]) -> Iterator[TestSet]:
    """The matched-frequency test set, whose folders are named by class number (Recht et al. 2019)."""
    folder = root / "imagenetv2-matched-frequency"
    _require(folder, root, "imagenetv2-matched-frequency/<class number>/*.jpeg")
    paths, labels, found = scan(folder)
    numbered = [str(number) for number in range(len(classes))]
    yield TestSet("imagenet_v2", paths, _renumber(labels, found, numbered, folder))


def imagenet_real(root: Path, clean: str, classes: Sequence[str]) -> Iterator[TestSet]:
    """The validation images with the reassessed labels (Beyer et al. 2020); images without any label are left out.

    ``imagenet_real.json`` lists the classes of image 1, 2, ... of the validation set, whose number ends its file name.

    Raises:
        ConfigError: that file is missing.
    """
    file = root / "imagenet_real.json"
    if not file.is_file():
        raise ConfigError(
            "data_root", str(root), "a directory with imagenet_real.json: a list of lists of class numbers"
        )
    answers = json.loads(file.read_text())
    paths, _, _ = scan(root / clean / "val")
    labels = torch.zeros(len(paths), len(classes), dtype=torch.bool)
    for row, path in enumerate(paths):
        number = re.search(rb"(\d+)\.\w+$", path)
        if number is None or not 1 <= int(number[1]) <= len(answers):
            raise ConfigError("data_root", str(root), f"validation files whose names end in a number, not {path!r}")
        labels[row, answers[int(number[1]) - 1]] = True
    kept = labels.any(1)
    yield TestSet("imagenet_real", paths[kept.numpy()], labels[kept])


SETS: dict[str, Callable[[Path, str, Sequence[str]], Iterator[TestSet]]] = {
    "imagenet_c": imagenet_c,
    "imagenet_r": imagenet_r,
    "imagenet_v2": imagenet_v2,
    "imagenet_real": imagenet_real,
}


def _require(folder: Path, root: Path, layout: str) -> None:
    if not folder.is_dir():
        raise ConfigError("data_root", str(root), f"a directory with {layout}")


def _renumber(labels: torch.Tensor, found: Sequence[str], classes: Sequence[str], folder: Path) -> torch.Tensor:
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = [name for name in found if name not in numbers]
    if unknown:
        raise ConfigError(
            "data_root", str(folder), f"folders named by the classes of the training data, not {unknown[:3]}"
        )
    return torch.tensor([numbers[name] for name in found])[labels]

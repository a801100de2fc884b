"""Lists of picture files by class."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from curvature.errors import ConfigError

UNREADABLE = (OSError, SyntaxError, ValueError)
"""What PIL raises for a damaged picture."""


def scan(folder: Path) -> tuple[NDArray[np.bytes_], torch.Tensor, list[str]]:
    """Paths (N,), class numbers (N,) and class names of ``folder/<class>/<picture>``, in the order of their names.

    Raises:
        ConfigError: no classes, or a class without pictures.
    """
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise ConfigError("data_root", str(folder), f"folders of pictures, one per class ({error})") from error
    paths = np.array([os.fsencode(path) for path, _ in found.samples])
    return paths, torch.tensor(found.targets), found.classes


class Files:
    """Opens pictures by position; the paths (N,) are one array, which loader processes share."""

    def __init__(self, paths: NDArray[np.bytes_]) -> None:
        self.paths = paths

    def __call__(self, rows: NDArray[np.int64]) -> Iterator[Any]:
        from PIL import Image

        for path in self.paths[rows]:
            try:
                with open(path, "rb") as stream:
                    image = Image.open(stream)
                    image.load()
            except UNREADABLE as error:
                raise ConfigError("data_root", os.fsdecode(path), f"a picture that can be read ({error})") from error
            yield image

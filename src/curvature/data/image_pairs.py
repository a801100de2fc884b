"""Images in two resolutions: bicubic resampling, PNG files, symmetries."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curvature.data.files import UNREADABLE, Files
from curvature.data.sources import Examples
from curvature.errors import ConfigError

SYMMETRIES = 8
"""Of a square: the image or its transpose, either side mirrored or not."""


def resized(images: Tensor, size: Sequence[int]) -> Tensor:
    """Bicubic resampling as in PIL: a = -0.5, and with antialiasing where pixels become fewer.

    MATLAB's ``imresize``, which made the low resolution that DIV2K is distributed with, treats borders otherwise, and
    rounds otherwise, so that some pixels inside differ by one level.

    Args:
        images: (..., C, H, W), uint8 or real; uint8 stays uint8.
        size: height and width.
    """
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as transforms

    result: Tensor = transforms.resize(images, list(size), InterpolationMode.BICUBIC, antialias=True)
    return result


def pair_of(high: Tensor, scale: int, low: Tensor | None = None) -> Examples:
    """Low and high resolution, (3, H, W) and (3, ``scale`` H, ``scale`` W) uint8, of an image of any size.

    Args:
        high: (3, h, w) uint8; rows and columns beyond multiples of ``scale`` are cut off at the bottom and right.
        scale: factor between the resolutions.
        low: the low resolution; None makes it of ``high``.
    """
    height, width = high.shape[-2] // scale, high.shape[-1] // scale
    high = high[:, : height * scale, : width * scale].contiguous()
    return resized(high, (height, width)) if low is None else low, high


class Pairs(Protocol):
    """Images in two resolutions, by position."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Examples:
        """Low (3, H, W) and high resolution (3, s H, s W), uint8."""
        ...

    def low_size(self, index: int) -> tuple[int, int]:
        """H and W."""
        ...


class HeldPairs:
    """Images that are in memory."""

    def __init__(self, pairs: Sequence[Examples]) -> None:
        self.pairs = list(pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Examples:
        return self.pairs[index]

    def low_size(self, index: int) -> tuple[int, int]:
        low, _ = self.pairs[index]
        return low.shape[-2], low.shape[-1]


class FilePairs:
    """Images that are read whenever they are needed: ``high/<name>.png``, and perhaps ``low/<name>.png``.

    Args:
        high: folder of PNG files.
        low: folder of their low resolutions, ``<name>.png`` or ``<name>x<scale>.png``; if it does not exist, these are
            made with :func:`resized`.
        scale: factor between the resolutions.

    Raises:
        ConfigError: no images, one without its low resolution, or one of another size; later, damaged ones.
    """

    def __init__(self, high: Path, low: Path, scale: int) -> None:
        paths = sorted(high.glob("*.png"))
        if not paths:
            raise ConfigError("data_root", str(high), "a folder of PNG files")
        self.scale, self.high = scale, Files(_encoded(paths))
        self.low: Files | None = None
        self.sizes = [tuple(side // scale for side in _size(path)) for path in paths]
        if low.is_dir():
            found = [self._low_resolution(path, low) for path in paths]
            for path, size in zip(found, self.sizes, strict=True):
                if _size(path) != size:
                    raise ConfigError("data_root", str(path), f"{size[0]} x {size[1]} pixels (rows, columns)")
            self.low = Files(_encoded(found))

    def _low_resolution(self, high: Path, low: Path) -> Path:
        names = [low / f"{high.stem}x{self.scale}.png", low / high.name]
        for path in names:
            if path.exists():
                return path
        raise ConfigError("data_root", str(low), f"a folder with {names[0].name} or {names[1].name}, or no such folder")

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Examples:
        low = None if self.low is None else _pixels(self.low, index)
        return pair_of(_pixels(self.high, index), self.scale, low)

    def low_size(self, index: int) -> tuple[int, int]:
        height, width = self.sizes[index]
        return height, width


def symmetry(images: Tensor, which: int) -> Tensor:
    """Symmetry ``which`` of :data:`SYMMETRIES`, 0 changes nothing; the last two dimensions are rows and columns."""
    mirrored = [dim for dim, bit in ((-2, 1), (-1, 2)) if which & bit]
    images = images.flip(mirrored) if mirrored else images
    return images.transpose(-2, -1) if which & 4 else images


def _encoded(paths: Sequence[Path]) -> NDArray[np.bytes_]:
    return np.array([os.fsencode(path) for path in paths])


def _size(path: Path) -> tuple[int, int]:
    """Rows and columns, by the file's header alone."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.height, image.width
    except UNREADABLE as error:
        raise ConfigError("data_root", str(path), f"a picture that can be read ({error})") from error


def _pixels(files: Files, index: int) -> Tensor:
    (image,) = files(np.array([index]))
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)

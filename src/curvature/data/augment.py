"""Random augmentation that depends on one seed per example and on nothing else.

An augmentation is called with a batch (B, C, H, W) and B seeds, and leaves torch's global generator as it was.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curvature.errors import ConfigError

Augmentation = Callable[[Tensor, NDArray[np.int64]], Tensor]


class CropAndFlip:
    """Crop at a random place of the padded image and mirror it with probability 1/2, a whole batch at once.

    Args:
        padding: pixels added on each side before cropping to the original size.
        flip: whether images are mirrored.
        fill: value of the pixels added.

    Raises:
        ConfigError: a negative padding.
    """

    def __init__(self, padding: int = 4, flip: bool = True, fill: float = 0.0) -> None:
        if padding < 0:
            raise ConfigError("data.train_transform.padding", padding, "an integer >= 0")
        self.padding, self.flip, self.fill = padding, flip, fill

    def __call__(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        height, width = images.shape[-2:]
        places = 2 * self.padding + 1
        draws = torch.from_numpy(seeds)
        rows = (draws % places)[:, None] + torch.arange(height)
        columns = (draws // places % places)[:, None] + torch.arange(width)
        if self.flip:
            mirrored = (draws // places**2) % 2 == 1
            columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        padded = torch.nn.functional.pad(images, [self.padding] * 4, value=self.fill)
        pixels = rows[:, :, None] * padded.shape[-1] + columns[:, None, :]
        pixels = pixels.reshape(len(images), 1, -1).expand(-1, images.shape[1], -1)
        return padded.flatten(2).gather(2, pixels).view_as(images)


class PerExample:
    """Torchvision v2 transforms (or any that draw from torch's global generator), seeded for each image.

    Args:
        transforms: applied one after the other to one image.
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)

    def one(self, image: Any) -> Any:
        """Transform one image with the generator as it is."""
        for transform in self.transforms:
            image = transform(image)
        return image

    def __call__(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        with generator_put_back():
            return torch.stack([self.seeded(image, seed) for image, seed in zip(images, seeds, strict=True)])

    def seeded(self, image: Any, seed: int) -> Any:
        """Transform one image as a function of ``seed``; changes the generator."""
        torch.default_generator.manual_seed(int(seed))
        return self.one(image)


@contextmanager
def generator_put_back() -> Iterator[None]:
    """Restore torch's CPU generator on exit."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)

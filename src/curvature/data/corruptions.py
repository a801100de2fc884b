"""Corruptions for robustness at desk scale; any function of the same form can be named in a config.

A corruption takes images (B, C, H, W) in normalised units and their B positions in the test split. It is deterministic,
and what it does to an example does not depend on the batch the example is in.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curvature.data.seeds import derive, per_example
from curvature.errors import ConfigError

Corruption = Callable[[Tensor, NDArray[np.int64]], Tensor]


def gaussian_noise(images: Tensor, indices: NDArray[np.int64], std: float, seed: int = 0) -> Tensor:
    """Add normal noise to images (B, C, H, W).

    Args:
        images: in normalised units.
        indices: (B,), positions in the test split; the noise of an example depends on its position and ``seed`` alone.
        std: standard deviation of the noise, in the units of ``images``.
        seed: of all noise.

    Raises:
        ConfigError: a negative ``std``.
    """
    if not std >= 0:
        raise ConfigError("data.corruptions.std", std, "a number >= 0")
    generator, noise = torch.Generator(), torch.empty_like(images)
    for part, example_seed in zip(noise, per_example(derive("noise", seed), indices), strict=True):
        part.normal_(generator=generator.manual_seed(int(example_seed)))
    return images.add(noise, alpha=std)


def shift(images: Tensor, indices: NDArray[np.int64], pixels: int = 1) -> Tensor:
    """Move images (B, C, H, W) right by ``pixels``; the left edge is repeated.

    Raises:
        ConfigError: ``pixels`` is negative, or not less than the width W.
    """
    if not 0 <= pixels < images.shape[-1]:
        raise ConfigError("data.corruptions.pixels", pixels, f"an integer from 0 to {images.shape[-1] - 1}")
    padded = torch.nn.functional.pad(images, (pixels, 0, 0, 0), mode="replicate")
    return padded[..., : images.shape[-1]]


def contrast(images: Tensor, indices: NDArray[np.int64], factor: float) -> Tensor:
    """Multiply the deviation of images (B, C, H, W) from their means, over channels too, by ``factor``."""
    mean = images.mean((-3, -2, -1), keepdim=True)
    return mean + factor * (images - mean)

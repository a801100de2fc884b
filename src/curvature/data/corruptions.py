"""Corruptions of whole image sets, deterministic, for robustness at desk scale."""

from collections.abc import Callable

import torch
from torch import Tensor

Corruption = Callable[[Tensor], Tensor]


def gaussian_noise(images: Tensor, std: float, seed: int = 0) -> Tensor:
    """Add normal noise of standard deviation ``std`` (in pixel units of ``images``), drawn with its own seed."""
    generator = torch.Generator().manual_seed(seed)
    return images + std * torch.randn(images.shape, generator=generator, dtype=images.dtype)


def shift(images: Tensor, pixels: int = 1) -> Tensor:
    """Move (N, C, H, W) images right by ``pixels``; the left edge is repeated."""
    padded = torch.nn.functional.pad(images, (pixels, 0, 0, 0), mode="replicate")
    return padded[..., : images.shape[-1]]


def contrast(images: Tensor, factor: float) -> Tensor:
    """Multiply the deviation from each image's mean by ``factor``."""
    mean = images.mean((-3, -2, -1), keepdim=True)
    return mean + factor * (images - mean)

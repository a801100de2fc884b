"""Curved targets: mixtures along a circle, a sphere, a Swiss roll and a plane, with a known intrinsic dimension."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from curvature.errors import ConfigError
from curvature.samplers.targets import GaussianMixture


class Manifold(NamedTuple):
    """A mixture near a manifold of dimension ``dim``, and an antisymmetric matrix for its gauge part."""

    target: GaussianMixture
    dim: int
    rotation: Tensor


def manifold(name: str, ambient: int = 0, deviation: float = 0.05) -> Manifold:
    """A mixture with components on a manifold.

    Args:
        name: ``circle``, ``sphere``, ``swiss_roll`` or ``plane``.
        ambient: dimension of the space, at least the manifold's own embedding; 0 is that.
        deviation: standard deviation of the components.

    Raises:
        ConfigError: an unknown name or too small an ambient dimension.
    """
    makers: dict[str, tuple[Callable[[], Tensor], int]] = {
        "circle": (_circle, 1),
        "sphere": (_sphere, 2),
        "swiss_roll": (_swiss_roll, 2),
        "plane": (_plane, 2),
    }
    if name not in makers:
        raise ConfigError("manifold", name, f"one of {', '.join(makers)}")
    make, dim = makers[name]
    points = make()
    if ambient and ambient < points.shape[1]:
        raise ConfigError("ambient", ambient, f"at least {points.shape[1]} for {name}")
    width = ambient or points.shape[1]
    means = torch.nn.functional.pad(points, (0, width - points.shape[1]))
    return Manifold(
        GaussianMixture(means, torch.full((width,), deviation**2, dtype=torch.float64)), dim, antisymmetric(width)
    )


def antisymmetric(dim: int) -> Tensor:
    """A fixed antisymmetric matrix (dim, dim) whose first block is [[0, -1, .5], [1, 0, -.3], [-.5, .3, 0]]."""
    generator = torch.Generator().manual_seed(0)
    upper = torch.rand(max(dim, 3), max(dim, 3), generator=generator, dtype=torch.float64) - 0.5
    upper[0, 1], upper[0, 2], upper[1, 2] = -1.0, 0.5, -0.3
    upper = upper.triu(1)[:dim, :dim]
    return upper - upper.T


def _circle(count: int = 48) -> Tensor:
    angles = 2 * math.pi * torch.arange(count, dtype=torch.float64) / count
    return torch.stack([angles.cos(), angles.sin()], -1)


def _sphere(count: int = 400) -> Tensor:
    index = torch.arange(count, dtype=torch.float64) + 0.5
    height, angle = 1 - 2 * index / count, math.pi * (1 + 5**0.5) * index
    radius = (1 - height**2).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), height], -1)


def _swiss_roll(turns: int = 60, rows: int = 12) -> Tensor:
    angle = torch.linspace(0, 1, turns, dtype=torch.float64).sqrt() * 1.5 * math.pi + math.pi
    height = torch.linspace(-1, 1, rows, dtype=torch.float64)
    angle, height = (part.flatten() for part in torch.meshgrid(angle, height, indexing="ij"))
    return torch.stack([angle * angle.cos(), angle * angle.sin(), 4 * height], -1) / 5


def _plane(side: int = 20) -> Tensor:
    axis = torch.linspace(-1, 1, side, dtype=torch.float64)
    a, b = (part.flatten() for part in torch.meshgrid(axis, axis, indexing="ij"))
    return torch.stack([a, b, torch.zeros_like(a)], -1)

"""Distances between samples and a known law; the law's own side is exact, so that there is no second sample's noise."""

import math

import torch
from torch import Tensor

from curvature.samplers.targets import GaussianMixture

GRID = 4096
EVALUATIONS = 2**18
"""Most points at which a projected law is evaluated, and most evaluations of a component among them."""


def gaussian_w2(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """2-Wasserstein distance of two Gaussians, (d,) and (d, d) each (Bures metric)."""
    root = _root(other_covariance)
    cross = _root(root @ covariance @ root)
    trace = torch.trace(covariance + other_covariance - 2 * cross)
    return math.sqrt(max(0.0, float((mean - other_mean).square().sum() + trace)))


def moment_w2(samples: Tensor, target: GaussianMixture) -> float:
    """:func:`gaussian_w2` between the moments of samples (N, d) and the exact ones of ``target``."""
    return gaussian_w2(samples.mean(0), torch.cov(samples.T), target.mean, target.covariance)


def sliced_w2(samples: Tensor, target: GaussianMixture, projections: int = 100, seed: int = 0) -> float:
    """Root mean square, over random directions, of the 1-D 2-Wasserstein distance to the exact projected law.

    Args:
        samples: (N, d).
        target: the law.
        projections: number of directions, the same for equal ``seed``.
        seed: of the directions.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(projections, target.dim, generator=generator, dtype=torch.float64)
    directions = directions / directions.norm(dim=1, keepdim=True)
    ordered = (samples @ directions.T).sort(0).values
    levels = (torch.arange(len(samples), dtype=torch.float64) + 0.5) / len(samples)
    squares = [
        (ordered[:, i] - _quantiles(target.means @ u, (u.square() @ target.variances).sqrt(), levels)).square().mean()
        for i, u in enumerate(directions)
    ]
    return float(torch.stack(squares).mean().sqrt())


def median_bandwidth(target: GaussianMixture, count: int = 500) -> float:
    """Median distance of draws from ``target``, always the same ones."""
    draws = target.sample(count, torch.Generator().manual_seed(0))
    return float(torch.pdist(draws).median())


def mmd(samples: Tensor, target: GaussianMixture, bandwidth: float) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy under ``exp(-||x - y||^2 / (2 bandwidth^2))``.

    Only the term of samples (N, d) with each other is estimated; expectations over ``target`` are in closed form.
    """
    count = len(samples)
    within = (torch.cdist(samples, samples).square() / (-2 * bandwidth**2)).exp()
    own = (within.sum() - count) / (count * (count - 1))
    cross = _kernel_mean(samples, target.means, target.variances, bandwidth).mean()
    target_term = _kernel_mean(target.means, target.means, 2 * target.variances, bandwidth).mean()
    return float(own - 2 * cross + target_term)


def _kernel_mean(x: Tensor, means: Tensor, variances: Tensor, bandwidth: float) -> Tensor:
    widened = variances + bandwidth**2
    scale = (bandwidth / widened.sqrt()).log().sum()
    return ((x[:, None] - means).square() / (-2 * widened)).sum(-1).add(scale).exp()


def _quantiles(means: Tensor, deviation: Tensor, levels: Tensor) -> Tensor:
    nodes = max(512, min(GRID, EVALUATIONS // len(means)))
    grid = torch.linspace(float(means.min() - 8 * deviation), float(means.max() + 8 * deviation), nodes).double()
    cumulative = torch.special.ndtr((grid[:, None] - means) / deviation).mean(1)
    right = torch.searchsorted(cumulative, levels).clamp(1, nodes - 1)
    low, high = cumulative[right - 1], cumulative[right]
    return torch.lerp(grid[right - 1], grid[right], ((levels - low) / (high - low)).clamp(0, 1))


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T

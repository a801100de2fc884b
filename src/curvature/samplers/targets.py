"""Gaussian mixtures whose noised densities, scores, Hessians and posteriors are known in closed form."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from curvature.errors import ConfigError


@dataclass(frozen=True)
class GaussianMixture:
    """Equal-weight mixture of Gaussians with one diagonal covariance; float64.

    ``alpha`` and ``sigma`` of the methods describe the law of ``alpha y + sigma z`` for y from the mixture and standard
    normal z; the defaults give the mixture itself.

    Args:
        means: (K, d).
        variances: (d,), >= 0. Zero makes the components points.
    """

    means: Tensor
    variances: Tensor

    def __post_init__(self) -> None:
        if self.means.ndim != 2 or self.variances.shape != self.means.shape[1:] or bool((self.variances < 0).any()):
            raise ConfigError("target.variances", list(self.variances.shape), "(d,) values >= 0 for means (K, d)")

    @property
    def dim(self) -> int:
        return int(self.means.shape[1])

    @cached_property
    def mean(self) -> Tensor:
        """(d,)."""
        return self.means.mean(0)

    @cached_property
    def covariance(self) -> Tensor:
        """(d, d)."""
        centred = self.means - self.mean
        return torch.diag(self.variances) + centred.T @ centred / len(self.means)

    def noised(self, alpha: float, sigma: float) -> "GaussianMixture":
        """The mixture that ``alpha y + sigma z`` follows."""
        return GaussianMixture(alpha * self.means, alpha**2 * self.variances + sigma**2)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, d) independent draws."""
        component = torch.randint(len(self.means), (count,), generator=generator)
        noise = torch.randn(count, self.dim, generator=generator, dtype=torch.float64)
        return self.means[component] + self.variances.sqrt() * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """(...,) log-densities at x (..., d)."""
        normaliser = 0.5 * (2 * torch.pi * self.variances).log().sum() + math.log(len(self.means))
        return torch.logsumexp(self._exponents(x), -1) - normaliser

    def score(self, x: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
        """(..., d) gradients of the log-density at x (..., d)."""
        noised = self.noised(alpha, sigma)
        weights = torch.softmax(noised._exponents(x), -1)
        return (weights @ noised.means - x) / noised.variances

    def noise(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """(..., d): the ideal noise prediction, E[z | x]."""
        return -sigma * self.score(x, alpha, sigma)

    def hessian(self, x: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
        """(..., d, d) Hessians of the log-density."""
        noised = self.noised(alpha, sigma)
        weights = torch.softmax(noised._exponents(x), -1)
        pulls = (noised.means - x[..., None, :]) / noised.variances
        mean = torch.einsum("...k,...ki->...i", weights, pulls)
        second = torch.einsum("...k,...ki,...kj->...ij", weights, pulls, pulls)
        return second - mean[..., :, None] * mean[..., None, :] - torch.diag(1 / noised.variances)

    def noise_second_moment(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """(..., d, d): E[z z^T | x], from the posterior of y under each component."""
        noised = self.noised(alpha, sigma)
        weights = torch.softmax(noised._exponents(x), -1)
        gain = alpha * self.variances / noised.variances
        posterior_mean = self.means + gain * (x[..., None, :] - noised.means)
        residual = (x[..., None, :] - alpha * posterior_mean) / sigma
        spread = alpha**2 * (self.variances - alpha * gain * self.variances) / sigma**2
        return torch.einsum("...k,...ki,...kj->...ij", weights, residual, residual) + torch.diag(spread)

    def _exponents(self, x: Tensor) -> Tensor:
        return -0.5 * ((x[..., None, :] - self.means).square() / self.variances).sum(-1)


def ring(modes: int = 8, radius: float = 1.0, deviation: float = 0.1) -> GaussianMixture:
    """``modes`` Gaussians of standard deviation ``deviation``, evenly on a circle of the plane."""
    angles = 2 * torch.pi * torch.arange(modes, dtype=torch.float64) / modes
    means = radius * torch.stack([angles.cos(), angles.sin()], -1)
    return GaussianMixture(means, torch.full((2,), deviation**2, dtype=torch.float64))


def random_mixture(dim: int = 64, modes: int = 10, spread: float = 0.5, target_seed: int = 0) -> GaussianMixture:
    """Means ``spread`` N(0, I), variances from 0.25 down to 0.00025 in geometric progression."""
    generator = torch.Generator().manual_seed(target_seed)
    means = spread * torch.randn(modes, dim, generator=generator, dtype=torch.float64)
    return GaussianMixture(means, 0.25 * torch.logspace(0, -3, dim, dtype=torch.float64))


def power_law_gaussian(dim: int = 3072, deviation: float = 0.35) -> GaussianMixture:
    """One centred Gaussian whose variances fall as 1 / i, with root mean square ``deviation``."""
    variances = 1 / torch.arange(1, dim + 1, dtype=torch.float64)
    return GaussianMixture(torch.zeros(1, dim, dtype=torch.float64), variances * deviation**2 / variances.mean())

"""Scores with a gauge part r, ``div r + r . grad log p = 0``, and the flows they make (Horvat and Pfister, ICLR 2024).

Everything is for variance-exploding diffusion, x_t = y + t z, of a mixture with one isotropic variance. Its probability
flow is ``dx/dt = -t s(x, t)``; replacing the score s by ``s + c A s`` with an antisymmetric A leaves every marginal as
it is (``div (A grad p) = 0``), and changes the Jacobian of the flow.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from curvature.errors import ConfigError
from curvature.samplers.targets import GaussianMixture


@dataclass(frozen=True)
class GaugedScore:
    """``(I + strength * rotation) grad log p_t`` of ``target``; float64.

    Args:
        target: clean law; all its variances must be equal.
        rotation: (d, d) matrix; antisymmetric for a gauge part, anything else is another field.
        strength: c.
    """

    target: GaussianMixture
    rotation: Tensor
    strength: float = 0.0

    def __post_init__(self) -> None:
        if self.rotation.shape != (self.target.dim, self.target.dim):
            raise ConfigError("rotation", list(self.rotation.shape), f"a {self.target.dim} x {self.target.dim} matrix")
        if bool((self.target.variances != self.target.variances[0]).any()):
            raise ConfigError("target.variances", self.target.variances.tolist(), "all equal")

    @property
    def mixing(self) -> Tensor:
        """(d, d): I + c A."""
        return torch.eye(self.target.dim, dtype=torch.float64) + self.strength * self.rotation

    def score(self, x: Tensor, t: float) -> Tensor:
        """(N, d) true scores at x (N, d)."""
        return self.target.score(x, 1.0, t)

    def remainder(self, x: Tensor, t: float) -> Tensor:
        """(N, d): r = c A s."""
        return self.strength * self.score(x, t) @ self.rotation.T

    def field(self, x: Tensor, t: float) -> Tensor:
        """(N, d): s + r."""
        return self.score(x, t) @ self.mixing.T

    def field_and_jacobian(self, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Field (N, d) and its Jacobian (N, d, d), from one set of posterior weights."""
        variance = float(self.target.variances[0]) + t**2
        weights = torch.softmax(-0.5 * torch.cdist(x, self.target.means).square() / variance, -1)
        mean = weights @ self.target.means
        outer = self.target.means[:, :, None] * self.target.means[:, None, :]
        second = (weights @ outer.flatten(1)).view(len(x), *outer.shape[1:])
        covariance = second - mean[:, :, None] * mean[:, None, :]
        hessian = (covariance / variance - torch.eye(self.target.dim, dtype=torch.float64)) / variance
        return (mean - x) / variance @ self.mixing.T, self.mixing @ hessian

    def gauge_residual(self, x: Tensor, t: float) -> Tensor:
        """(N,): ``div r + r . s``."""
        divergence = self.strength * torch.einsum("ij,bji->b", self.rotation, self.target.hessian(x, 1.0, t))
        return divergence + (self.remainder(x, t) * self.score(x, t)).sum(-1)


def asymmetry(field: "Field", x: Tensor, t: float) -> Tensor:
    """(N,): ``||J - J^T|| / ||J||`` of the field; zero for a gradient."""
    jacobian = field.field_and_jacobian(x, t)[1]
    return (jacobian - jacobian.mT).norm(dim=(1, 2)) / jacobian.norm(dim=(1, 2))


class Flow(NamedTuple):
    """The end of a reverse flow: samples (N, d), Jacobians d x / d x_T (N, d, d), log-densities (N,), and the last
    steps' log singular value slopes (N, d), ``d log sv / d log t``, singular values in descending order."""

    samples: Tensor
    jacobian: Tensor
    log_density: Tensor
    slopes: Tensor


class Field(Protocol):
    """What a flow follows: a model of grad log p_t of ``target``."""

    @property
    def target(self) -> GaussianMixture:
        """Clean law."""

    def field_and_jacobian(self, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Field (N, d) and its Jacobian (N, d, d) at x (N, d)."""


def reverse_flow(field: Field, noise: Tensor, start: float, end: float, steps: int, tail: int = 20) -> Flow:
    """Carry x_T with its Jacobian and log-density from t = ``start`` down to ``end``.

    Classical Runge-Kutta steps of fourth order on a grid uniform in log t; ``dY/dt = (grad v) Y`` and
    ``d log p / dt = -div v``. The log-density begins at the exact one of the target at ``start``.

    Args:
        field: score field; v = -t field.
        noise: (N, d) samples of the law at ``start``.
        start, end: diffusion times, start > end > 0.
        steps: number of steps.
        tail: steps over which slopes are taken.

    Raises:
        ConfigError: times or steps out of range.
    """
    if not 0 < end < start:
        raise ConfigError("end", end, f"between 0 and start={start}")
    if steps <= tail:
        raise ConfigError("steps", steps, f"more than the {tail} of the tail")
    grid = torch.logspace(math.log10(start), math.log10(end), steps + 1, dtype=torch.float64).tolist()
    x, y = noise, torch.eye(noise.shape[1], dtype=torch.float64).expand(len(noise), -1, -1)
    log_density = field.target.noised(1.0, start).log_prob(noise)
    before = y
    for index, (t, following) in enumerate(pairwise(grid)):
        if index == steps - tail:
            before = y
        h = following - t
        increments, state = [], (x, y)
        for offset, weight in ((0.0, 0.5), (0.5, 0.5), (0.5, 1.0), (1.0, 0.0)):
            time = t + offset * h
            value, jacobian = field.field_and_jacobian(state[0], time)
            change = (-time * value, -time * jacobian @ state[1], time * jacobian.diagonal(dim1=1, dim2=2).sum(-1))
            increments.append(change)
            state = (x + weight * h * change[0], y + weight * h * change[1])
        dx, dy, dlog = (h / 6 * (a + 2 * b + 2 * c + d) for a, b, c, d in zip(*increments))
        x, y, log_density = x + dx, y + dy, log_density + dlog
    ratio = torch.linalg.svdvals(y).log() - torch.linalg.svdvals(before).log()
    return Flow(x, y, log_density, ratio / (math.log(grid[-1]) - math.log(grid[-1 - tail])))


def dimension_by_slope(flow: Flow, below: float = 0.5) -> Tensor:
    """(N,) numbers of singular values whose slope d log sv / d log t is below a threshold: 0 on, 1 off the manifold."""
    return (flow.slopes < below).sum(1)


def dimension_by_threshold(flow: Flow, share: float = 0.2) -> Tensor:
    """(N,) numbers of singular values above a share of the largest."""
    values = torch.linalg.svdvals(flow.jacobian)
    return (values > share * values[:, :1]).sum(1)


def gradient_part(target: GaussianMixture, basis_field: Tensor, x: Tensor, centres: Tensor, width: float) -> Tensor:
    """Projection of a vector field onto gradients in L2(p), on span of Gaussian bumps (Ritz form); section 3.4.

    Minimises the sample mean of ``||u - grad phi||^2`` over phi in the span of ``exp(-||x - m||^2 / (2 width^2))`` and
    the linear and quadratic monomials.

    Args:
        target: only its dimension is used.
        basis_field: (N, d) field u at the samples.
        x: (N, d) samples of p.
        centres: (M, d) of the bumps.
        width: of the bumps.

    Returns:
        (N, d): grad phi at the samples.
    """
    difference = x[:, None] - centres
    bumps = (-difference.square().sum(-1) / (2 * width**2)).exp()
    gradients = [-(difference / width**2 * bumps[..., None])]
    dim = target.dim
    eye = torch.eye(dim, dtype=torch.float64)
    gradients.append(eye.expand(len(x), -1, -1))
    pairs = [(i, j) for i in range(dim) for j in range(i, dim)]
    gradients.append(torch.stack([x[:, i, None] * eye[j] + x[:, j, None] * eye[i] for i, j in pairs], 1))
    design = torch.cat(gradients, 1).transpose(1, 2).reshape(len(x) * dim, -1)
    solution = torch.linalg.lstsq(design, basis_field.reshape(-1, 1), driver="gelsd").solution
    return (design @ solution).view_as(x)

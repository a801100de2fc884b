"""Batch normalisation under generalised Bures-Wasserstein geometry (Wang et al., CVPR 2025)."""

import torch
from torch import Tensor, nn

from curvature.errors import ConfigError
from curvature.geometry.spd import bures_wasserstein, matrix_power, matrix_sqrt
from curvature.geometry.spd.lyapunov import inverse_root
from curvature.geometry.spd.spectral import (
    FLOOR,
    Absolute,
    Diagonal,
    Eigensystem,
    InverseSqrt,
    Sqrt,
    congruent,
    eigensystem,
    spectral,
    trace,
)
from curvature.models.spdnet.batch_norm import RiemannianBatchNorm, spd_parameter

TANGENTS = ("literal", "direct")
CENTRES = ("mean", "identity")


class GBWBatchNorm(RiemannianBatchNorm):
    """Centre, scale and bias under the metric of (M, theta), on Y = M^(-1/2) X^theta M^(-1/2).

    With B the barycentre of the batch, v2 the variance about it, and G' = M^(-1/2) G^theta M^(-1/2):

        Y <- Exp_I transport_{B to I} Log_B Y
        Y <- Exp_I (s / sqrt(v2 + eps) Log_I Y)
        Y <- Exp_G' transport_{I to G'} Log_I Y
        X' = (M^(1/2) Y M^(1/2))^(1 / theta)

    Inside the domain of the exponential the variance of the result is s^2 v2 / (v2 + eps) and its mean is G. Outside,
    Exp_I V = (I + V/2)^2 forgets the sign of I + V/2 and samples come back folded; ``folded`` holds the share of the
    last batch to which it happened at any of the three steps. The metric is not scale invariant: where samples fold,
    divide inputs by a fixed scale or lower ``theta``. Running statistics live in the space of Y, as published, so they
    lag when M moves.

    Args:
        n: size of the matrices.
        theta: power deformation, not 0; the paper's best is 0.5.
        karcher_steps: fixed-point steps of the barycentre from the arithmetic mean; None iterates to convergence.
        learnable_metric: learn M; otherwise M is the identity, which is Bures-Wasserstein at theta = 1.
        eps: added to the variance.
        momentum: weight of the batch in the running statistics.
        stats_grad: let gradients flow through B and v2.
        tangent: ``literal`` takes the steps above; ``direct`` joins them into one tangent vector, which is the same
            inside the domain, and does not fold in the first two steps outside it.
        dispersion: scale at all.
        variance_about: ``mean``, or ``identity`` for the statistic of the released code.

    Raises:
        ConfigError: an argument is out of range.
    """

    folded: Tensor
    metric: Tensor

    def __init__(
        self,
        n: int,
        theta: float = 1.0,
        karcher_steps: int | None = 1,
        learnable_metric: bool = True,
        eps: float = 1e-5,
        momentum: float = 0.1,
        stats_grad: bool = False,
        tangent: str = "literal",
        dispersion: bool = True,
        variance_about: str = "mean",
    ) -> None:
        super().__init__(n, momentum, eps)
        if theta == 0:
            raise ConfigError("model.norm.theta", theta, "a number other than 0")
        if karcher_steps is not None and karcher_steps < 1:
            raise ConfigError("model.norm.karcher_steps", karcher_steps, "an integer >= 1, or null to converge")
        if tangent not in TANGENTS:
            raise ConfigError("model.norm.tangent", tangent, f"one of {', '.join(TANGENTS)}")
        if variance_about not in CENTRES:
            raise ConfigError("model.norm.variance_about", variance_about, f"one of {', '.join(CENTRES)}")
        self.theta, self.karcher_steps, self.stats_grad = theta, karcher_steps, stats_grad
        self.tangent, self.dispersion, self.variance_about = tangent, dispersion, variance_about
        self.bias = spd_parameter(n)
        if learnable_metric:
            self.metric = spd_parameter(n)
        else:
            self.register_buffer("metric", torch.eye(n, dtype=torch.float64))
        if dispersion:
            self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.register_buffer("folded", torch.zeros((), dtype=torch.float64), persistent=False)

    def normalise(self, X: Tensor, from_batch: bool) -> Tensor:
        metric_root, metric_inverse = spectral(self.metric, Sqrt(), InverseSqrt())
        Y = congruent(metric_inverse, matrix_power(X, self.theta))
        bias = congruent(metric_inverse, matrix_power(self.bias, self.theta))
        tangent, frame, variance = self._centred(Y, from_batch)
        factor = self.scale / (variance + self.eps).sqrt() if self.dispersion else 1.0
        eye = torch.eye(self.n, dtype=Y.dtype, device=Y.device)
        if self.tangent == "literal":
            tangent, folded = _log_of_exp(tangent, eye)
            tangent, again = _log_of_exp(factor * tangent, eye)
            folded = folded | again
        else:
            tangent, folded = factor * tangent, torch.zeros(len(Y), dtype=torch.bool, device=Y.device)
        bias, basis, system = _diagonal(bias)
        step = eye + inverse_root(bias, congruent(basis.mT @ frame, tangent), system)
        self.folded = (folded | _indefinite(step)).double().mean()
        return matrix_power(congruent(metric_root @ basis, step @ bias @ step), 1 / self.theta)

    def _centred(self, Y: Tensor, from_batch: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Log_B Y carried to the identity, in the eigenbasis of B; that basis (n, n), in columns; and the variance."""
        with_grad = self.stats_grad and torch.is_grad_enabled()
        mean = self.running_mean
        if from_batch:
            with torch.set_grad_enabled(with_grad):
                mean = bures_wasserstein.barycentre(Y, steps=self.karcher_steps)
        if with_grad:
            centre, frame, diagonal = _diagonal(mean)
            root, inverse = spectral(centre, Sqrt(), InverseSqrt(), system=diagonal)
            cross = matrix_sqrt(congruent(root @ frame.mT, Y))
            tangent = 2 * inverse_root(centre, 2 * (congruent(root, cross, inverse) - centre), diagonal)
            system = Eigensystem(diagonal.values, frame)
        else:
            system = eigensystem(mean)
            # The same where B is a constant: with l its eigenvalues all but one product is entry by entry.
            values, frame = system.values.maximum(FLOOR * system.values[-1]), system.vectors
            root = values.sqrt()
            cross = matrix_sqrt(congruent((frame * root).mT, Y))
            weights = (2 * (values[:, None] + values)).sqrt() / (root[:, None] * root)
            tangent = weights * cross - torch.diag(2 * root)
        variance = self.running_var
        if from_batch:
            with torch.set_grad_enabled(with_grad):
                variance = self._variance(mean, Y, cross)
            with torch.no_grad():
                moved = bures_wasserstein.geodesic(mean, self.running_mean, 1 - self.momentum, system=system)
                self.running_mean.copy_(moved)
                self._track_variance(variance)
        return tangent, frame, variance

    def _variance(self, mean: Tensor, Y: Tensor, cross: Tensor) -> Tensor:
        if self.variance_about == "identity":
            mean, cross = torch.eye(self.n, dtype=Y.dtype, device=Y.device), matrix_sqrt(Y)
        squared = trace(mean) + trace(Y) - 2 * trace(cross)
        return squared.clamp_min(0.0).mean() / self.theta**2

    def extra_repr(self) -> str:
        return f"{self.n}, theta={self.theta}, karcher_steps={self.karcher_steps}, tangent={self.tangent}"


def _diagonal(matrix: Tensor) -> tuple[Tensor, Tensor, Diagonal]:
    """U^T A U (n, n) in the eigenbasis U of A, a constant for the gradient; U; and the eigensystem of the result.

    The layer's definition does not depend on the basis, and in this one the operators of A need no rotations.
    """
    values, basis = eigensystem(matrix)
    return congruent(basis.mT, matrix), basis, Diagonal(values.maximum(FLOOR * values[-1]))


def _log_of_exp(V: Tensor, eye: Tensor) -> tuple[Tensor, Tensor]:
    """Log_I Exp_I V, (N, n, n): V, or 2 |I + V/2| - 2 I where I + V/2 is not positive definite; and where that is.

    Only these are decomposed; whether there are any, a Cholesky factorisation tells at a fraction of the cost.
    """
    folded = _indefinite(torch.add(eye, V, alpha=0.5))
    if not bool(folded.any()):
        return V, folded
    result = V.clone()
    result[folded] = 2 * (spectral(eye + V[folded] / 2, Absolute())[0] - eye)
    return result, folded


def _indefinite(W: Tensor) -> Tensor:
    return torch.linalg.cholesky_ex(W.detach())[1] > 0

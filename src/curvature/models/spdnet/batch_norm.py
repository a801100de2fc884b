"""Riemannian batch normalisation: what the variants share, and those under affine-invariant and Lie group metrics."""

import warnings

import geoopt
import torch
from torch import Tensor, nn

from curvature.errors import ConfigError
from curvature.geometry.spd import affine_invariant, log_cholesky, matrix_exp, matrix_log, matrix_power, sym
from curvature.geometry.spd.spectral import InverseSqrt, Sqrt, spectral, warn_if_ill_conditioned

LIE_METRICS = ("aim", "lem", "lcm")


def spd_parameter(n: int) -> geoopt.ManifoldParameter:
    """A positive definite parameter that starts at the identity, in float64."""
    return geoopt.ManifoldParameter(torch.eye(n, dtype=torch.float64), manifold=geoopt.SymmetricPositiveDefinite())


class RiemannianBatchNorm(nn.Module):
    """Base: merges channels into the batch and decides which statistics to use.

    A batch of one matrix in training has no dispersion: it is normalised with the running statistics, which stay as
    they are, and a warning says so. Statistics are buffers; parameters and buffers are float64. With several processes
    each uses the statistics of its own share of the batch.

    Args:
        n: size of the matrices.
        momentum: weight of the batch in the running statistics, in [0, 1].
        eps: added to the variance, > 0.

    Raises:
        ConfigError: an argument is out of range.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, n: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        if n < 1:
            raise ConfigError("model.norm.n", n, "an integer >= 1")
        if not 0.0 <= momentum <= 1.0:
            raise ConfigError("model.norm.momentum", momentum, "a number in [0, 1]")
        if not eps > 0:
            raise ConfigError("model.norm.eps", eps, "a number > 0")
        self.n, self.momentum, self.eps = n, momentum, eps
        self.register_buffer("running_mean", torch.eye(n, dtype=torch.float64))
        self.register_buffer("running_var", torch.ones((), dtype=torch.float64))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))

    def forward(self, X: Tensor) -> Tensor:
        """Normalise X (B, n, n) or (B, h, n, n); the B h matrices share one set of statistics. The result is float64.

        Raises:
            ValueError: the matrices are not n x n.
        """
        if X.shape[-2:] != (self.n, self.n):
            raise ValueError(f"matrices of size {self.n} expected, got {tuple(X.shape)}")
        points = X.reshape(-1, self.n, self.n)
        if points.dtype == torch.float32:
            warn_if_ill_conditioned(torch.linalg.eigvalsh(points.detach()))
        from_batch = self.training and len(points) > 1
        if self.training and not from_batch:
            warnings.warn("a batch of one matrix is normalised with running statistics", RuntimeWarning, stacklevel=2)
        if from_batch:
            self.num_batches_tracked += 1
        return self.normalise(points.to(self.running_mean.dtype), from_batch).reshape(X.shape)

    def normalise(self, X: Tensor, from_batch: bool) -> Tensor:
        """Normalise X (N, n, n) with statistics of the batch, which update the running ones, or with the latter."""
        raise NotImplementedError

    @torch.no_grad()
    def _track_variance(self, variance: Tensor) -> None:
        self.running_var.lerp_(variance, self.momentum)


class AIMBatchNorm(RiemannianBatchNorm):
    """G^(1/2) B^(-1/2) X B^(-1/2) G^(1/2): SPDNetBN, without dispersion (Brooks et al. 2019).

    Args:
        n: size of the matrices.
        karcher_steps: steps of the mean from the arithmetic mean; None iterates to convergence.
        momentum: as in the base class.
        stats_grad: let gradients flow through the mean; the original treats it as a constant.
    """

    def __init__(self, n: int, karcher_steps: int | None = 1, momentum: float = 0.1, stats_grad: bool = False) -> None:
        super().__init__(n, momentum)
        self.karcher_steps, self.stats_grad = karcher_steps, stats_grad
        self.bias = spd_parameter(n)

    def normalise(self, X: Tensor, from_batch: bool) -> Tensor:
        mean = self.running_mean
        if from_batch:
            with torch.set_grad_enabled(self.stats_grad and torch.is_grad_enabled()):
                mean = affine_invariant.barycentre(X, self.karcher_steps)
            with torch.no_grad():
                self.running_mean.copy_(affine_invariant.geodesic(self.running_mean, mean, self.momentum))
        (inverse,) = spectral(mean, InverseSqrt())
        (root,) = spectral(self.bias, Sqrt())
        factor = root @ inverse
        return sym(factor @ X @ factor.mT)


class LieBatchNorm(RiemannianBatchNorm):
    """LieBN (Chen et al. 2024): translate, scale and translate again in a Lie group of positive definite matrices.

    ``lem`` works on log X; ``lcm`` on log-Cholesky coordinates of X^theta; ``aim`` on X^theta with the group action
    L X L^T of Cholesky factors, whose scaling is a matrix power. The variance carries 1/theta^2 (aim, lcm).
    Statistics are constants for the gradient.

    Args:
        n: size of the matrices.
        metric: ``aim``, ``lem`` or ``lcm``.
        theta: power deformation of aim and lcm, not 0.
        momentum, eps: as in the base class.
        karcher_steps: of the affine-invariant mean.

    Raises:
        ConfigError: an unknown metric, or theta = 0.
    """

    def __init__(
        self,
        n: int,
        metric: str = "aim",
        theta: float = 1.0,
        momentum: float = 0.1,
        eps: float = 1e-5,
        karcher_steps: int | None = 1,
    ) -> None:
        super().__init__(n, momentum, eps)
        if metric not in LIE_METRICS:
            raise ConfigError("model.norm.metric", metric, f"one of {', '.join(LIE_METRICS)}")
        if theta == 0:
            raise ConfigError("model.norm.theta", theta, "a number other than 0")
        self.metric, self.theta, self.karcher_steps = metric, theta, karcher_steps
        self.bias, self.scale = spd_parameter(n), nn.Parameter(torch.ones((), dtype=torch.float64))
        if metric != "aim":
            self.running_mean.zero_()

    def normalise(self, X: Tensor, from_batch: bool) -> Tensor:
        if self.metric == "aim":
            return self._normalise_group(X, from_batch)
        flat, bias = self._coordinates(X), self._coordinates(self.bias)
        mean, variance = self.running_mean, self.running_var
        if from_batch:
            mean = flat.detach().mean(0)
            deformation = self.theta**2 if self.metric == "lcm" else 1.0
            variance = (flat.detach() - mean).square().sum((-2, -1)).mean() / deformation
            self._track_variance(variance)
            self.running_mean.lerp_(mean, self.momentum)
        flat = self.scale / (variance + self.eps).sqrt() * (flat - mean) + bias
        if self.metric == "lem":
            return matrix_exp(flat)
        return matrix_power(sym(log_cholesky.from_coordinates(flat)), 1 / self.theta)

    def _coordinates(self, X: Tensor) -> Tensor:
        return matrix_log(X) if self.metric == "lem" else log_cholesky.coordinates(matrix_power(X, self.theta))

    def _normalise_group(self, X: Tensor, from_batch: bool) -> Tensor:
        Y = matrix_power(X, self.theta)
        mean, variance = self.running_mean, self.running_var
        if from_batch:
            mean = affine_invariant.barycentre(Y.detach(), self.karcher_steps)
            self.running_mean.copy_(affine_invariant.geodesic(self.running_mean, mean, self.momentum))
        factor = torch.linalg.cholesky(mean)
        left = torch.linalg.solve_triangular(factor, Y, upper=False)
        logs = matrix_log(torch.linalg.solve_triangular(factor, left.mT, upper=False))
        if from_batch:
            variance = logs.detach().square().sum((-2, -1)).mean() / self.theta**2
            self._track_variance(variance)
        scaled = matrix_exp(self.scale / (variance + self.eps).sqrt() * logs)
        bias = torch.linalg.cholesky(matrix_power(self.bias, self.theta))
        return matrix_power(sym(bias @ scaled @ bias.mT), 1 / self.theta)


class SPDMBN(RiemannianBatchNorm):
    """Batch normalisation with scheduled momentum (Kobler et al. 2022): G^(1/2) (B^(-1/2) X B^(-1/2))^c G^(1/2).

    In training c and B come from running statistics of their own, which start at the first batch's and whose momentum
    falls from 1 to ``final_momentum``; gradients flow through the current batch's share. Evaluation uses the buffers
    ``running_mean`` and ``running_var``, tracked with ``momentum``.

    Args:
        n: size of the matrices.
        momentum: of the statistics for evaluation.
        eps: added to the variance.
        karcher_steps: of the batch mean.
        final_momentum: batch size over the batch size that would need no running mean, in (0, 1].
        schedule_steps: batches K >= 2 until then.

    Raises:
        ConfigError: ``final_momentum`` or ``schedule_steps`` out of range.
    """

    training_mean: Tensor
    training_var: Tensor

    def __init__(
        self,
        n: int,
        momentum: float = 0.1,
        eps: float = 1e-5,
        karcher_steps: int | None = 1,
        final_momentum: float = 0.2,
        schedule_steps: int = 100,
    ) -> None:
        super().__init__(n, momentum, eps)
        if not 0.0 < final_momentum <= 1.0:
            raise ConfigError("model.norm.final_momentum", final_momentum, "a number in (0, 1]")
        if schedule_steps < 2:
            raise ConfigError("model.norm.schedule_steps", schedule_steps, "an integer >= 2")
        self.karcher_steps = karcher_steps
        self.final_momentum, self.schedule_steps = final_momentum, schedule_steps
        self.bias, self.scale = spd_parameter(n), nn.Parameter(torch.ones((), dtype=torch.float64))
        self.register_buffer("training_mean", torch.eye(n, dtype=torch.float64))
        self.register_buffer("training_var", torch.ones((), dtype=torch.float64))

    def training_momentum(self, batch: int) -> float:
        """Momentum at batch number ``batch`` >= 1."""
        K, end = self.schedule_steps, self.final_momentum
        return 1 - (end ** (max(K - batch, 0) / (K - 1)) - end)

    def normalise(self, X: Tensor, from_batch: bool) -> Tensor:
        mean, variance = self.running_mean, self.running_var
        if from_batch:
            eta = self.training_momentum(int(self.num_batches_tracked))
            batch_mean = affine_invariant.barycentre(X, self.karcher_steps)
            mean = affine_invariant.geodesic(self.training_mean, batch_mean, eta)
        (inverse,) = spectral(mean, InverseSqrt())
        logs = matrix_log(inverse @ X @ inverse)
        if from_batch:
            spread = logs.square().sum((-2, -1)).mean()
            variance = (1 - eta) * self.training_var + eta * spread
            with torch.no_grad():
                self.training_mean.copy_(mean)
                self.training_var.copy_(variance)
                self.running_mean.copy_(affine_invariant.geodesic(self.running_mean, batch_mean, self.momentum))
                self._track_variance(spread)
        (bias,) = spectral(self.bias, Sqrt())
        return sym(bias @ matrix_exp(self.scale / (variance + self.eps).sqrt() * logs) @ bias)

"""Mean-square dynamics of SGD linearised at an interpolating minimum, computed on the n x n side.

With output gradients ``g_i`` (rows of J) one step of SGD on the half-MSE acts on the distance to the minimum as
``theta <- (I - (eta/B) sum_{i in batch} g_i g_i^T) theta``. Its second moment evolves by a linear map that is symmetric
and keeps the cone of positive semi-definite matrices (Mulayoff & Michaeli, COLT 2024). In the eigenbasis of the Gram
matrix this map has r x r arguments, where r is the rank, however many parameters there are.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh

from curvature.errors import ConfigError, CurvatureError
from curvature.stability.sampling import noise_factor
from curvature.stability.spectrum import Sharpness, as_matrix

DENSE_LIMIT = 64
SECULAR_FLOOR = 1e-15
SECULAR_STEPS = 100


class Tightness(NamedTuple):
    """Each necessary condition as (critical learning rate) x metric / bound: 1 is tight, above 1 is violated.

    Attributes:
        trace: ``eta p tr(G) / 2`` (Wu & Su, ICML 2023, for p = 1); at most 1 for mean-square stability.
        frobenius: ``eta ||G||_F sqrt(p mu)`` (Wu, Wang & Su, NeurIPS 2022); at most 1 for loss stability.
        lambda_max: ``eta lambda_max / 2`` (gradient descent); at most 1.
        non_uniformity: ``eta s sqrt(p)`` (Wu, Ma & E, NeurIPS 2018); necessary for one-step contraction only, so it
            may exceed 1 here.
    """

    trace: float
    frobenius: float
    lambda_max: float
    non_uniformity: float


class LinearisedSGD:
    """SGD near an interpolating minimum, known by its Gram matrix.

    Args:
        gram: ``K = J J^T / n``, (n, n), symmetric positive semi-definite; array or tensor.

    Raises:
        ConfigError: not a finite, symmetric positive semi-definite matrix.

    Example:
        >>> LinearisedSGD.from_gradients(np.eye(4)).critical_learning_rate(batch_size=1)
        2.0
    """

    def __init__(self, gram: Any) -> None:
        self.gram = as_matrix(gram, "gram")
        n = self.samples = len(self.gram)
        largest = np.abs(self.gram).max()
        if self.gram.shape != (n, n) or np.abs(self.gram - self.gram.T).max() > 1e-8 * largest:
            raise ConfigError("gram", self.gram.shape, "a symmetric matrix, samples x samples")
        values, vectors = np.linalg.eigh((self.gram + self.gram.T) / 2)
        tolerance = 10 * n * np.finfo(np.float64).eps * max(values[-1], 0.0)
        if values[0] < -max(1e-8 * largest, tolerance):
            raise ConfigError("gram", f"eigenvalue {values[0]:.3g}", "a positive semi-definite matrix")
        keep = values > tolerance
        self.eigenvalues: np.ndarray = values[keep]
        self.basis: np.ndarray = vectors[:, keep]
        self._coordinates = self.basis * np.sqrt(self.eigenvalues)

    @classmethod
    def from_gradients(cls, gradients: Any) -> Self:
        """From output gradients (n, P), one row a sample."""
        rows = as_matrix(gradients, "gradients")
        return cls(rows @ rows.T / len(rows))

    @property
    def rank(self) -> int:
        """Number of non-zero eigenvalues."""
        return len(self.eigenvalues)

    @property
    def gradients(self) -> np.ndarray:
        """Output gradients (n, rank) in the eigenbasis of the Gauss-Newton matrix, in which nothing is stationary."""
        return np.sqrt(self.samples) * self._coordinates

    @cached_property
    def sharpness(self) -> Sharpness:
        """Trace, Frobenius norm and largest eigenvalue of the Gauss-Newton matrix."""
        values = self.eigenvalues
        largest = float(values[-1]) if self.rank else 0.0
        return Sharpness(float(values.sum()), float(np.linalg.norm(values)), largest)

    def critical_learning_rate(self, batch_size: int, replacement: bool = False) -> float:
        """Largest learning rate at which ``E||theta_t||^2`` stays bounded from every start in range(G).

        ``2 / lambda_max(C^-1 D)`` with ``C = (G x I + I x G)/2`` and ``D`` the second-order part; infinite for G = 0.
        """
        p = noise_factor(self.samples, batch_size, replacement)
        if not self.rank:
            return float("inf")
        if p == 0:
            return 2.0 / float(self.eigenvalues[-1])
        scale = np.sqrt(2.0 / (self.eigenvalues[:, None] + self.eigenvalues[None, :]))

        def apply(flat: np.ndarray) -> np.ndarray:
            moment = flat.reshape(*flat.shape[:-1], *scale.shape)
            return (scale * self._second_order(scale * moment, p)).reshape(flat.shape)

        return 2.0 / _top(apply, np.eye(self.rank).ravel())[0]

    def growth_factor(self, eta: float, batch_size: int, replacement: bool = False) -> float:
        """Asymptotic factor of ``E||theta_t||^2`` a step: stable iff it is at most 1.

        Directions outside range(G), along which nothing ever moves, do not count; 0 for G = 0.
        """
        return self.worst_case(eta, batch_size, replacement)[0]

    def worst_case(self, eta: float, batch_size: int, replacement: bool = False) -> tuple[float, np.ndarray]:
        """Growth factor, and the second moment of the residuals (n, n; trace 1) that grows by it.

        Raises:
            ConfigError: ``eta`` is not finite and above 0, or the batch cannot be drawn.
        """
        if not eta > 0 or not np.isfinite(eta):
            raise ConfigError("eta", eta, "a finite learning rate above 0")
        p = noise_factor(self.samples, batch_size, replacement)
        if not self.rank:
            return 0.0, np.zeros_like(self.gram)
        largest, moment = self._secular(eta, p)
        residuals = self._coordinates @ moment @ self._coordinates.T
        return largest, residuals / np.trace(residuals)

    def next_moment(self, moment: np.ndarray, eta: float, batch_size: int, replacement: bool = False) -> np.ndarray:
        """One step of the second moment ``E[r r^T]`` (n, n) of the residuals."""
        p = noise_factor(self.samples, batch_size, replacement)
        k = self.gram
        noise = k @ ((1 - p) * moment + p * self.samples * np.diag(np.diag(moment))) @ k
        return moment - eta * (k @ moment + moment @ k) + eta**2 * noise

    def noise_trace(self, residuals: np.ndarray) -> float:
        """``tr(S G)`` with S the covariance of single-sample gradients at residuals (n,)."""
        return float(residuals @ self._noise_form() @ residuals)

    def alignment(self, residuals: np.ndarray) -> float:
        """``tr(S G) / (2 L ||G||_F^2)``: how well the noise at residuals (n,) aligns with the sharp directions."""
        loss = residuals @ residuals / (2 * self.samples)
        return self.noise_trace(residuals) / (2 * loss * self.sharpness.frobenius**2)

    @cached_property
    def worst_alignment(self) -> float:
        """Smallest :meth:`alignment` over all residuals in range(K)."""
        if not self.rank:
            return 0.0
        form = self.basis.T @ self._noise_form() @ self.basis
        return float(self.samples * np.linalg.eigvalsh(form)[0] / self.sharpness.frobenius**2)

    def expected_next_loss(
        self, residuals: np.ndarray, eta: float, batch_size: int, replacement: bool = False
    ) -> float:
        """Exact ``E L`` after one linearised step from residuals (n,)."""
        p = noise_factor(self.samples, batch_size, replacement)
        n, step = self.samples, self.gram @ residuals
        loss = residuals @ residuals / (2 * n)
        drift = eta * (residuals @ step) / n
        curvature = eta**2 / 2 * (step @ step) / n
        return float(loss - drift + curvature + eta**2 * p / 2 * self.noise_trace(residuals))

    def contraction_learning_rate(self, batch_size: int, replacement: bool = False) -> float:
        """Largest learning rate at which one step never increases ``E||theta||^2`` (the criterion of Wu, Ma & E, 2018).

        ``(I - eta H)^2 + eta^2 p ((1/n) sum_i H_i^2 - H^2) <= I``; at most the critical one, infinite for G = 0.
        """
        p = noise_factor(self.samples, batch_size, replacement)
        if not self.rank:
            return float("inf")
        values = self.eigenvalues
        form = (1 - p) * np.diag(values**2) + p * self._mean_square()
        return float(2.0 / np.linalg.eigvalsh(form / np.sqrt(np.outer(values, values)))[-1])

    @cached_property
    def non_uniformity(self) -> float:
        """``s = sqrt(lambda_max((1/n) sum_i H_i^2 - H^2))`` with ``H_i = g_i g_i^T`` (Wu, Ma & E, 2018)."""
        if not self.rank:
            return 0.0
        largest = np.linalg.eigvalsh(self._mean_square() - np.diag(self.eigenvalues**2))[-1]
        return float(np.sqrt(max(largest, 0.0)))

    def tightness(self, batch_size: int, replacement: bool = False) -> Tightness:
        """How close to violation each necessary condition is at the critical learning rate."""
        p = noise_factor(self.samples, batch_size, replacement)
        eta = self.critical_learning_rate(batch_size, replacement)
        trace, frobenius, largest = self.sharpness
        return Tightness(
            trace=eta * p * trace / 2,
            frobenius=eta * frobenius * float(np.sqrt(p * max(self.worst_alignment, 0.0))),
            lambda_max=eta * largest / 2,
            non_uniformity=eta * self.non_uniformity * float(np.sqrt(p)),
        )

    def learning_rate_bounds(self, batch_size: int, replacement: bool = False) -> tuple[float, float]:
        """Two cheap upper bounds of the critical learning rate (Mulayoff & Michaeli, 2024).

        Returns:
            ``2 tr(H) / ((1-p) ||H||_F^2 + p mean||g_i||^4)``, and the one along the top eigenvector.
        """
        p = noise_factor(self.samples, batch_size, replacement)
        trace, frobenius, largest = self.sharpness
        quartic = self.samples * float(np.square(np.diag(self.gram)).sum())
        along_top = self.samples * np.square(self._coordinates[:, -1])
        variance = float(np.square(along_top - largest).mean())
        return 2 * trace / ((1 - p) * frobenius**2 + p * quartic), 2 * largest / (largest**2 + p * variance)

    def _second_order(self, moment: np.ndarray, p: float) -> np.ndarray:
        values, rows = self.eigenvalues, self._coordinates
        squares = ((rows @ moment) * rows).sum(-1)
        noise = np.swapaxes(rows * squares[..., None], -1, -2) @ rows
        return (1 - p) * values[:, None] * moment * values[None, :] + p * self.samples * noise

    def _mean_square(self) -> np.ndarray:
        """``(1/n) sum_i H_i^2`` in the eigenbasis."""
        rows = self._coordinates
        return self.samples * (rows * np.square(rows).sum(1)[:, None]).T @ rows

    def _noise_form(self) -> np.ndarray:
        squared = self.gram @ self.gram
        return np.diag(np.diag(squared)) - squared / self.samples

    def _secular(self, eta: float, p: float) -> tuple[float, np.ndarray]:
        """Top eigenpair of the map of moments, which is diagonal plus a term of rank n.

        With diagonal part D and second term V V^T, an eigenvalue z above all of D is where the largest eigenvalue of
        V^T (z - D)^-1 V, an n x n matrix, is 1. Newton's method on its reciprocal; the steps are Rayleigh quotients.
        Iterating the map itself would take as many steps as SGD does to converge.
        """
        values, rows, n = self.eigenvalues, self._coordinates, self.samples
        diagonal = (
            1.0 - eta * (values[:, None] + values[None, :]) + eta**2 * (1 - p) * values[:, None] * values[None, :]
        )
        lower, unit = float(diagonal.max()), np.zeros_like(diagonal)
        top = int(np.diag(diagonal).argmax())
        unit[top, top] = 1.0
        if p == 0:
            return lower, unit
        strength = p * n * eta**2

        def resolve(gap: float, start: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
            inverse = 1.0 / (gap + (lower - diagonal))

            def apply(u: np.ndarray) -> np.ndarray:
                moment = inverse * (np.swapaxes(rows * u[..., None], -1, -2) @ rows)
                return strength * ((rows @ moment) * rows).sum(-1)

            value, u = _top(apply, start, 1e-8, ncv=6)
            source = (rows * u[:, None]).T @ rows
            return value, source, inverse * source, u

        least, highest = SECULAR_FLOOR, strength * float(np.square(np.square(rows).sum(1)).sum())
        gap = min(highest, 1 - lower) if lower < 1 else highest
        u = np.ones(n)
        for _ in range(SECULAR_STEPS):
            value, source, moment, u = resolve(gap, u)
            if value < 1:
                highest = min(highest, gap)
            else:
                least = max(least, gap)
            step = (value - 1) * float((moment * source).sum() / np.square(moment).sum())
            if abs(step) <= 1e-14 * (lower + gap) + 1e-10 * gap:
                return lower + gap + step, moment
            gap = gap + step if least < gap + step < highest else float(np.sqrt(least * highest))
            if highest <= 2 * SECULAR_FLOOR:
                return lower, unit
        raise CurvatureError(f"the growth factor at eta={eta!r} was not found in {SECULAR_STEPS} steps")


def critical_learning_rate(gradients: Any, batch_size: int, replacement: bool = False) -> float:
    """Largest mean-square-stable learning rate at an interpolating minimum of the half-MSE.

    Args:
        gradients: output gradients (n, P), one row a sample.
        batch_size: samples a step; n without replacement is gradient descent.
        replacement: whether a batch may hold a sample twice.

    Raises:
        ConfigError: unusable gradients or batch size.
    """
    return LinearisedSGD.from_gradients(gradients).critical_learning_rate(batch_size, replacement)


def growth_factor(gradients: Any, eta: float, batch_size: int, replacement: bool = False) -> float:
    """Factor of ``E||theta||^2`` a step at learning rate ``eta``; arguments as :func:`critical_learning_rate`."""
    return LinearisedSGD.from_gradients(gradients).growth_factor(eta, batch_size, replacement)


def _top(
    apply: Callable[[np.ndarray], np.ndarray], start: np.ndarray, tolerance: float = 1e-12, ncv: int = 20
) -> tuple[float, np.ndarray]:
    """Top eigenpair of a symmetric matrix given by its products with rows (..., size), from ``start`` (size,)."""
    size = len(start)
    if size <= DENSE_LIMIT:
        matrix = apply(np.eye(size))
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        return float(values[-1]), vectors[:, -1]
    operator = LinearOperator((size, size), matvec=lambda v: apply(v.ravel()), dtype=np.float64)
    found, columns = eigsh(operator, k=1, which="LA", v0=start, ncv=ncv, tol=tolerance)
    return float(found[-1]), columns[:, -1]

"""The transfer measure of Zhang et al. (NeurIPS 2021) and its bound by the distance of head Hessians.

T(delta) is the supremum of [L_T(h) - L_T*] - [L_S(h) - L_S*] over heads h with L_S(h) - L_S* <= delta. With a common
minimiser, T(delta) <= (delta / mu) ||H_T - H_S||_2 + o(delta), mu the smallest eigenvalue of H_S. The o(delta) term is
O(delta^{3/2}) and real: at finite delta T can exceed the leading term. Exactly,
T / delta -> max(0, lambda_max(H_S^{-1} H_T) - 1), with equality at every delta for quadratic losses.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize
from scipy.special import expit, log_expit

Array = NDArray[np.float64]


def transfer_limit(source_hessian: Array, target_hessian: Array) -> float:
    """Limit of T(delta) / delta: (lambda_max(H_S^{-1} H_T) - 1)_+ for symmetric (k, k) matrices, H_S definite."""
    return max(0.0, float(linalg.eigh(target_hessian, source_hessian, eigvals_only=True)[-1]) - 1.0)


def transfer_bound(source_hessian: Array, target_hessian: Array) -> float:
    """The paper's bound on that limit: ||H_T - H_S||_2 / lambda_min(H_S)."""
    distance = np.abs(linalg.eigvalsh(target_hessian - source_hessian)).max()
    return float(distance / linalg.eigvalsh(source_hessian)[0])


@dataclass(frozen=True)
class LogisticDomain:
    """Inputs (n, k) whose labels follow the logistic model at ``optimum`` (k,), so that it minimises the mean loss."""

    inputs: Array
    optimum: Array

    def excess(self, head: Array) -> float:
        """L(head) - L(optimum)."""
        return self._loss(head) - self._loss(self.optimum)

    def gradient(self, head: Array) -> Array:
        """Of the mean loss at ``head``."""
        residual = expit(self.inputs @ head) - self._labels()
        return self.inputs.T @ residual / len(residual)

    def hessian(self) -> Array:
        """At the optimum."""
        p = self._labels()
        return (self.inputs * (p * (1 - p))[:, None]).T @ self.inputs / len(p)

    def _labels(self) -> Array:
        return np.asarray(expit(self.inputs @ self.optimum))

    def _loss(self, head: Array) -> float:
        logits, labels = self.inputs @ head, self._labels()
        return float(-(labels * log_expit(logits) + (1 - labels) * log_expit(-logits)).mean())


def transfer_measure(source: LogisticDomain, target: LogisticDomain, delta: float) -> float:
    """T(delta) of domains with the same optimum, by constrained ascent from both ends of every Hessian eigenvector."""
    hessian = source.hessian()
    root = linalg.cholesky(hessian, lower=True)
    scale = np.sqrt(2 * delta)
    inverse = scale * linalg.inv(root.T)

    def gain(w: Array) -> tuple[float, Array]:
        head = source.optimum + inverse @ w
        slope = inverse.T @ (target.gradient(head) - source.gradient(head))
        return -(target.excess(head) - source.excess(head)) / delta, -slope / delta

    inside = {
        "type": "ineq",
        "fun": lambda w: 1 - source.excess(source.optimum + inverse @ w) / delta,
        "jac": lambda w: -inverse.T @ source.gradient(source.optimum + inverse @ w) / delta,
    }
    _, vectors = linalg.eigh(linalg.inv(root) @ target.hessian() @ linalg.inv(root).T)
    best = 0.0
    for start in np.concatenate([vectors.T, -vectors.T]):
        options = {"maxiter": 200, "ftol": 1e-12}
        found = optimize.minimize(gain, 0.9 * start, jac=True, constraints=[inside], method="SLSQP", options=options)
        if inside["fun"](found.x) > -1e-6:  # type: ignore[operator]
            best = max(best, -float(found.fun))
    return delta * best

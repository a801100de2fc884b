"""Largest eigenvalue and trace of the Hessian."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from curvature.hessian.operator import Batches, exact_arithmetic, hessian

log = logging.getLogger(__name__)

DENSE_BELOW = 25
STEPS = 20
RESTARTS = 100


@dataclass(frozen=True)
class Eigenvalue:
    """An eigenvalue and how well it is known.

    Attributes:
        value: the Ritz value theta.
        residual: ||H v - theta v|| for its unit Ritz vector v.
        converged: the residual is below the tolerance times |theta|; 1e-3 is the default tolerance.
    """

    value: float
    residual: float
    converged: bool


def lambda_max(
    model: nn.Module,
    criterion: nn.Module,
    batches: Batches,
    parameters: Sequence[nn.Parameter] | None = None,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> Eigenvalue:
    """Largest algebraic eigenvalue of the Hessian of the mean loss, or of a diagonal block of it.

    ARPACK's implicitly restarted Lanczos iteration, which keeps its basis orthogonal, in Krylov spaces of at least 20
    dimensions; it stops when the Ritz residual |beta_k s_k|, which is ||H v - theta v|| up to rounding, is below
    ``tolerance`` times |theta|. Unlike power iteration it does not confuse the largest eigenvalue with the one of
    largest magnitude. After 100 restarts it gives up. The residual is then measured: if it is not below the tolerance,
    the result is marked as not converged, and a warning says so.

    Args:
        model, criterion, batches, parameters: see :func:`curvature.hessian.operator.hessian`.
        tolerance: relative size of the residual.
        seed: of the starting vector.
    """
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    with exact_arithmetic(model):
        operator = hessian(model, criterion, batches, parameters)
        size = operator.shape[0]
        if size < DENSE_BELOW:
            dense = operator @ torch.eye(size, dtype=operator.dtype, device=operator.device)
            return Eigenvalue(float(torch.linalg.eigvalsh((dense + dense.T) / 2)[-1]), 0.0, True)
        matvec = operator.to_scipy()
        start = np.random.default_rng(seed).standard_normal(size).astype(matvec.dtype)
        try:
            linear = LinearOperator(matvec.shape, matvec=matvec.matvec, dtype=matvec.dtype)
            values, vectors = eigsh(linear, k=1, which="LA", ncv=STEPS, tol=tolerance, v0=start, maxiter=RESTARTS)
        except ArpackNoConvergence as error:
            if len(error.eigenvalues) == 0:
                log.warning("the largest eigenvalue has not converged at all")
                return Eigenvalue(float("nan"), float("inf"), False)
            values, vectors = error.eigenvalues, error.eigenvectors
        value, vector = float(values[-1]), vectors[:, -1]
        residual = float(np.linalg.norm(matvec.matvec(vector) - value * vector))
    converged = residual <= tolerance * abs(value)
    if not converged:
        log.warning("the largest eigenvalue has not converged: %g with a residual of %.1g", value, residual)
    return Eigenvalue(value, residual, converged)


def trace(model: nn.Module, criterion: nn.Module, batches: Batches, probes: int = 64, seed: int = 0) -> float:
    """Hutchinson's estimate of the trace of the Hessian of the mean loss, from ``probes`` Rademacher vectors."""
    from curvlinops import hutchinson_trace

    device = next(model.parameters()).device
    with exact_arithmetic(model), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        return float(hutchinson_trace(hessian(model, criterion, batches), num_matvecs=probes))

"""Sharpness of the Gauss-Newton matrix from the n x n side."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from curvature.errors import ConfigError


class Sharpness(NamedTuple):
    """Trace, Frobenius norm and largest eigenvalue of a Gauss-Newton matrix; floats, or tensors of equal shape."""

    trace: Any
    frobenius: Any
    lambda_max: Any


def as_matrix(values: Any, name: str) -> np.ndarray:
    """``values`` (array, tensor or nested lists) as a finite float64 matrix.

    Raises:
        ConfigError: not two-dimensional, empty, or not finite.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ConfigError(name, matrix.shape, "a non-empty matrix")
    if not np.isfinite(matrix).all():
        raise ConfigError(name, "with NaN or infinite entries", "finite entries")
    return matrix


def gram(gradients: Tensor, samples: int | None = None) -> Tensor:
    """``K = J J^T / n``: same non-zero spectrum as ``G = J^T J / n``, the Gauss-Newton matrix of the half-MSE.

    At zero residual ``G`` is the Hessian of ``1/(2n) sum_i (f(x_i) - y_i)^2``.

    Args:
        gradients: rows of output gradients (..., rows, P); with C outputs a sample, stack n*C rows.
        samples: number ``n`` of samples; the number of rows by default.

    Returns:
        (..., rows, rows), dtype of ``gradients``.
    """
    return gradients @ gradients.mT / (samples or gradients.shape[-2])


def sharpness(matrix: Tensor) -> Sharpness:
    """Exact sharpness of a symmetric positive semi-definite matrix, or of a stack of them.

    Args:
        matrix: (..., n, n), a Gram matrix from :func:`gram` or a dense Gauss-Newton matrix.

    Returns:
        Tensors of shape (...).
    """
    return Sharpness(
        trace=matrix.diagonal(dim1=-2, dim2=-1).sum(-1),
        frobenius=torch.linalg.matrix_norm(matrix),
        lambda_max=torch.linalg.eigvalsh(matrix)[..., -1],
    )


def unbiased_squared_frobenius(gradients: Tensor) -> Tensor:
    """Unbiased estimate of the population ``||G||_F^2`` from per-sample gradients (n, P), n >= 2.

    The mean of ``(g_i . g_j)^2`` over pairs of different samples; ``||K||_F^2`` would be too high by ``E||g||^4 / n``.
    """
    n = gradients.shape[0]
    products = (gradients @ gradients.T).square()
    return (products.sum() - products.diagonal().sum()) / (n * (n - 1))

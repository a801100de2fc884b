"""The log-Cholesky metric: Euclidean in the strict lower triangle and the log-diagonal of the Cholesky factor.

All functions are batched over leading dimensions (..., n, n). Lin, Riemannian geometry of symmetric positive definite
matrices via Cholesky decomposition (2019).
"""

import torch
from torch import Tensor


def coordinates(P: Tensor) -> Tensor:
    """Lower triangle of the Cholesky factor of P (..., n, n) with the logarithm of its diagonal, (..., n, n)."""
    L = torch.linalg.cholesky(P)
    return L.tril(-1) + torch.diag_embed(_diagonal(L).log())


def from_coordinates(lower: Tensor) -> Tensor:
    """Inverse of :func:`coordinates`: P (..., n, n)."""
    L = lower.tril(-1) + torch.diag_embed(_diagonal(lower).exp())
    return L @ L.mT


def inner(point: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Inner product of symmetric tangent vectors (..., n, n), (...)."""
    L = torch.linalg.cholesky(point)
    X, Y = _to_factor(L, first), _to_factor(L, second)
    strict = (X.tril(-1) * Y.tril(-1)).sum((-2, -1))
    return strict + (_diagonal(X) * _diagonal(Y) / _diagonal(L) ** 2).sum(-1)


def distance(P: Tensor, Q: Tensor) -> Tensor:
    """Frobenius norm of the difference of coordinates, (...), of P and Q (..., n, n)."""
    return torch.linalg.matrix_norm(coordinates(P) - coordinates(Q))


def log(P: Tensor, Q: Tensor) -> Tensor:
    """Log_P Q, symmetric (..., n, n), of P and Q (..., n, n)."""
    L, K = torch.linalg.cholesky(P), torch.linalg.cholesky(Q)
    ratio = _diagonal(L) * (_diagonal(K) / _diagonal(L)).log()
    return _from_factor(L, (K - L).tril(-1) + torch.diag_embed(ratio))


def exp(P: Tensor, V: Tensor) -> Tensor:
    """Exp_P V, (..., n, n), of every symmetric V (..., n, n)."""
    L = torch.linalg.cholesky(P)
    X = _to_factor(L, V)
    K = (L + X).tril(-1) + torch.diag_embed(_diagonal(L) * (_diagonal(X) / _diagonal(L)).exp())
    return K @ K.mT


def geodesic(P: Tensor, Q: Tensor, t: float) -> Tensor:
    """Point (..., n, n) at time t of the geodesic from P (t = 0) to Q (t = 1), both (..., n, n)."""
    return from_coordinates((1 - t) * coordinates(P) + t * coordinates(Q))


def parallel_transport(P: Tensor, Q: Tensor, V: Tensor) -> Tensor:
    """Parallel transport of V from P to Q, all (..., n, n)."""
    L, K = torch.linalg.cholesky(P), torch.linalg.cholesky(Q)
    X = _to_factor(L, V)
    moved = X.tril(-1) + torch.diag_embed(_diagonal(K) / _diagonal(L) * _diagonal(X))
    return _from_factor(K, moved)


def barycentre(points: Tensor) -> Tensor:
    """Frechet mean (..., n, n) of ``points`` (..., N, n, n)."""
    return from_coordinates(coordinates(points).mean(-3))


def _diagonal(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1)


def _to_factor(L: Tensor, tangent: Tensor) -> Tensor:
    """Differential of the Cholesky factor: L (L^-1 V L^-T) with its strict upper part cut and its diagonal halved."""
    left = torch.linalg.solve_triangular(L, tangent, upper=False)
    inner_part = torch.linalg.solve_triangular(L, left.mT, upper=False)
    return L @ (inner_part.tril(-1) + torch.diag_embed(_diagonal(inner_part) / 2))


def _from_factor(L: Tensor, X: Tensor) -> Tensor:
    product = L @ X.mT
    return product + product.mT

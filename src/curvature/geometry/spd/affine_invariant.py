"""The affine-invariant metric g_P(S, S) = tr(P^-1 S P^-1 S), batched over leading dimensions (..., n, n).

Pennec, Fillard and Ayache, A Riemannian framework for tensor computing (2006).
"""

import torch
from torch import Tensor

from curvature.geometry.spd.spectral import InverseSqrt, Sqrt, matrix_exp, matrix_log, matrix_power, spectral, sym


def inner(point: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Inner product of symmetric tangent vectors (..., n, n), (...)."""
    factor = torch.linalg.cholesky(point)
    return (torch.cholesky_solve(first, factor) * torch.cholesky_solve(second, factor).mT).sum((-2, -1))


def distance(P: Tensor, Q: Tensor) -> Tensor:
    """Frobenius norm of log(P^(-1/2) Q P^(-1/2)), (...), of P and Q (..., n, n)."""
    (inverse,) = spectral(P, InverseSqrt())
    return torch.linalg.matrix_norm(matrix_log(inverse @ Q @ inverse))


def log(P: Tensor, Q: Tensor) -> Tensor:
    """Log_P Q, symmetric (..., n, n), of positive definite P and Q (..., n, n)."""
    root, inverse = spectral(P, Sqrt(), InverseSqrt())
    return sym(root @ matrix_log(inverse @ Q @ inverse) @ root)


def exp(P: Tensor, V: Tensor) -> Tensor:
    """Exp_P V, (..., n, n); the manifold is complete, so every symmetric V (..., n, n) is allowed."""
    root, inverse = spectral(P, Sqrt(), InverseSqrt())
    return sym(root @ matrix_exp(inverse @ V @ inverse) @ root)


def geodesic(P: Tensor, Q: Tensor, t: float) -> Tensor:
    """Point (..., n, n) at time t of the geodesic from P (t = 0) to Q (t = 1), both (..., n, n)."""
    root, inverse = spectral(P, Sqrt(), InverseSqrt())
    return sym(root @ matrix_power(sym(inverse @ Q @ inverse), t) @ root)


def parallel_transport(P: Tensor, Q: Tensor, V: Tensor) -> Tensor:
    """E V E^T with E = (Q P^-1)^(1/2): parallel transport of V from P to Q, all (..., n, n)."""
    root, inverse = spectral(P, Sqrt(), InverseSqrt())
    E = root @ matrix_power(sym(inverse @ Q @ inverse), 0.5) @ inverse
    return sym(E @ V @ E.mT)


def barycentre(points: Tensor, steps: int | None = None, tolerance: float = 1e-13, max_steps: int = 200) -> Tensor:
    """Frechet mean of ``points`` (..., N, n, n) by the Karcher flow B <- Exp_B(mean Log_B X_i).

    Args:
        points: (..., N, n, n).
        steps: number of steps from the arithmetic mean; None iterates until the mean tangent, in the norm at B, is
            below ``tolerance``. The unit step can oscillate for very dispersed points; then it is halved.
        tolerance: of the mean tangent.
        max_steps: limit without ``steps``.

    Returns:
        (..., n, n).
    """
    centre = sym(points.mean(-3))
    length, last = 1.0, float("inf")
    for _ in range(max_steps if steps is None else steps):
        root, inverse = spectral(centre, Sqrt(), InverseSqrt())
        tangent = matrix_log(inverse.unsqueeze(-3) @ points @ inverse.unsqueeze(-3)).mean(-3)
        if steps is None:
            size = float(torch.linalg.matrix_norm(tangent.detach()).max())
            if size <= tolerance:
                break
            length, last = (length / 2 if size > last else length), size
        centre = sym(root @ matrix_exp(length * tangent) @ root)
    return centre

"""The (generalised) Bures-Wasserstein metric on positive definite matrices, batched over leading dimensions.

The generalised metric with parameter M (Han et al. 2021) is g_P(S, S) = tr(Z S) / 2 with M Z P + P Z M = S. The map
P -> M^(-1/2) P M^(-1/2) is an isometry onto the case M = I, and every function here goes through it. Positive definite
matrices are incomplete under this metric: ``exp`` is the exponential map only where I + Z is positive definite.

Bhatia, Jain and Lim, On the Bures-Wasserstein distance between positive definite matrices (2019).
"""

import torch
from torch import Tensor

from curvature.geometry.spd.lyapunov import inverse_root, lyapunov
from curvature.geometry.spd.spectral import (
    Eigensystem,
    InverseSqrt,
    Sqrt,
    congruent,
    matrix_power,
    matrix_sqrt,
    spectral,
    sym,
    trace,
)


def inner(point: Tensor, first: Tensor, second: Tensor, M: Tensor | None = None) -> Tensor:
    """Inner product of two tangent vectors, (...).

    Args:
        point: P, (..., n, n).
        first, second: symmetric (..., n, n).
        M: (n, n) or (..., n, n), positive definite; default the identity.
    """
    if M is not None:
        _, inverse = spectral(M, Sqrt(), InverseSqrt())
        point, first, second = (congruent(inverse, value) for value in (point, first, second))
    return (lyapunov(point, first) * second).sum((-2, -1)) / 2


def squared_distance(P: Tensor, Q: Tensor, M: Tensor | None = None, theta: float = 1.0) -> Tensor:
    """tr P + tr Q - 2 tr (P^(1/2) Q P^(1/2))^(1/2) between the points that stand for P and Q, (...).

    Args:
        P, Q: (..., n, n).
        M: metric parameter, as in :func:`inner`.
        theta: not 0; the pullback metric under P -> P^theta, divided by theta^2.

    Raises:
        ValueError: ``theta`` is 0.
    """
    if theta == 0:
        raise ValueError("theta must not be 0")
    P, Q = matrix_power(P, theta), matrix_power(Q, theta)
    if M is not None:
        (inverse,) = spectral(M, InverseSqrt())
        P, Q = congruent(inverse, P), congruent(inverse, Q)
    cross = matrix_sqrt(congruent(matrix_sqrt(P), Q))
    return (trace(P) + trace(Q) - 2 * trace(cross)).clamp_min(0.0) / theta**2


def distance(P: Tensor, Q: Tensor, M: Tensor | None = None, theta: float = 1.0) -> Tensor:
    """Square root, (...), of :func:`squared_distance`; its derivative is taken as 0 where the distance is 0."""
    squared = squared_distance(P, Q, M, theta)
    apart = squared > 0
    return torch.where(apart, torch.where(apart, squared, 1.0).sqrt(), 0.0)


def log(P: Tensor, Q: Tensor, M: Tensor | None = None) -> Tensor:
    """Log_P Q = (P Q)^(1/2) + (Q P)^(1/2) - 2 P, all (..., n, n); M (n, n) or (..., n, n)."""
    if M is not None:
        root, inverse = spectral(M, Sqrt(), InverseSqrt())
        return congruent(root, log(congruent(inverse, P), congruent(inverse, Q)))
    return 2 * (_product_root(P, Q) - P)


def exp(P: Tensor, V: Tensor, M: Tensor | None = None) -> Tensor:
    """Exp_P V = (I + Z) P (I + Z), P Z + Z P = V, all (..., n, n); M (n, n) or (..., n, n)."""
    if M is not None:
        root, inverse = spectral(M, Sqrt(), InverseSqrt())
        return congruent(root, exp(congruent(inverse, P), congruent(inverse, V)))
    Z = lyapunov(P, V)
    step = P @ Z
    return P + sym(V) + sym(Z @ step)


def geodesic(
    P: Tensor, Q: Tensor, t: float | Tensor, M: Tensor | None = None, system: Eigensystem | None = None
) -> Tensor:
    """Point (..., n, n) at time t of the geodesic from P (t = 0) to Q (t = 1); t a number or (..., 1, 1).

    ``system`` is the eigensystem of P, if it is at hand and M is not given.
    """
    if M is not None:
        root, inverse = spectral(M, Sqrt(), InverseSqrt())
        return congruent(root, geodesic(congruent(inverse, P), congruent(inverse, Q), t))
    return (1 - t) ** 2 * P + t**2 * Q + 2 * t * (1 - t) * _product_root(P, Q, system)


def transport_to_identity(P: Tensor, V: Tensor) -> Tensor:
    """Parallel transport of V from P to the identity, all (..., n, n).

    Entries are multiplied by (2 / (l_i + l_j))^(1/2) in the eigenbasis of P.
    """
    return 2 * inverse_root(P, V)


def transport_from_identity(P: Tensor, V: Tensor) -> Tensor:
    """Parallel transport of V from the identity to P, all (..., n, n).

    Entries are multiplied by ((l_i + l_j) / 2)^(1/2) in the eigenbasis of P.
    """
    Z = inverse_root(P, V)
    return 2 * sym(P @ Z)


def parallel_transport(P: Tensor, Q: Tensor, V: Tensor, M: Tensor | None = None) -> Tensor:
    """Parallel transport of V along the geodesic from P to Q, all (..., n, n), where the two commute (relative to M).

    Raises:
        ValueError: P M^-1 Q is not symmetric; there is no closed form then.
    """
    if M is not None:
        root, inverse = spectral(M, Sqrt(), InverseSqrt())
        P, Q, V = (congruent(inverse, value) for value in (P, Q, V))
        return congruent(root, parallel_transport(P, Q, V))
    product = (P @ Q).detach()
    scale = torch.linalg.matrix_norm(product)
    if bool((torch.linalg.matrix_norm(product - product.mT) > 1e-6 * scale).any()):
        raise ValueError("parallel transport has a closed form only between points that commute")
    return transport_from_identity(Q, transport_to_identity(P, V))


def barycentre(
    points: Tensor,
    M: Tensor | None = None,
    steps: int | None = None,
    tolerance: float = 1e-14,
    max_steps: int = 1000,
) -> Tensor:
    """Minimiser of the mean squared distance to ``points``, (..., n, n).

    B <- B^(-1/2) [mean (B^(1/2) X_i B^(1/2))^(1/2)]^2 B^(-1/2) from the arithmetic mean (Alvarez-Esteban et al. 2016);
    a step is a Riemannian gradient step of length 1, and exact where all points commute.

    Args:
        points: X, (..., N, n, n).
        M: metric parameter, (n, n).
        steps: number of steps; None iterates until the relative change is below ``tolerance``.
        tolerance: of the change.
        max_steps: limit without ``steps``.
    """
    if M is not None:
        root, inverse = spectral(M, Sqrt(), InverseSqrt())
        return congruent(root, barycentre(congruent(inverse, points), None, steps, tolerance, max_steps))
    centre = sym(points.mean(-3))
    for _ in range(max_steps if steps is None else steps):
        previous = centre
        centre = barycentre_step(centre, points)
        if steps is None:
            change = torch.linalg.matrix_norm(centre.detach() - previous.detach())
            if bool((change <= tolerance * torch.linalg.matrix_norm(previous.detach())).all()):
                break
    return centre


def barycentre_step(centre: Tensor, points: Tensor) -> Tensor:
    """One step of :func:`barycentre` from ``centre`` (..., n, n), of ``points`` (..., N, n, n)."""
    root, inverse = spectral(centre, Sqrt(), InverseSqrt())
    lead = root if root.ndim == 2 else root.unsqueeze(-3)
    mean = matrix_sqrt(congruent(lead, points)).mean(-3)
    half = inverse @ mean
    return half @ half.mT


def _product_root(P: Tensor, Q: Tensor, system: Eigensystem | None = None) -> Tensor:
    """Symmetric part of (P Q)^(1/2)."""
    root, inverse = spectral(P, Sqrt(), InverseSqrt(), system=system)
    return congruent(root, matrix_sqrt(congruent(root, Q)), inverse)

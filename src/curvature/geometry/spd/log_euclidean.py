"""The log-Euclidean metric: the Euclidean one of log P, batched over leading dimensions (..., n, n).

Arsigny, Fillard, Pennec and Ayache, Geometric means in a novel vector space structure on SPD matrices (2007).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from curvature.geometry.spd.spectral import Log, eigensystem, matrix_exp, matrix_log, rotate, sym


def inner(point: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Inner product of symmetric tangent vectors (..., n, n), (...)."""
    logarithm = matrix_log(point)
    return (_to_logs(logarithm, first) * _to_logs(logarithm, second)).sum((-2, -1))


def distance(P: Tensor, Q: Tensor) -> Tensor:
    """Frobenius norm of log P - log Q, (...), of P and Q (..., n, n)."""
    return torch.linalg.matrix_norm(matrix_log(P) - matrix_log(Q))


def log(P: Tensor, Q: Tensor) -> Tensor:
    """Log_P Q: log Q - log P, as a tangent vector at P; all (..., n, n)."""
    logarithm = matrix_log(P)
    return _from_logs(logarithm, matrix_log(Q) - logarithm)


def exp(P: Tensor, V: Tensor) -> Tensor:
    """Exp_P V, (..., n, n), of every symmetric V (..., n, n)."""
    logarithm = matrix_log(P)
    return matrix_exp(logarithm + _to_logs(logarithm, V))


def geodesic(P: Tensor, Q: Tensor, t: float) -> Tensor:
    """Point (..., n, n) at time t of the geodesic from P (t = 0) to Q (t = 1), both (..., n, n)."""
    return matrix_exp((1 - t) * matrix_log(P) + t * matrix_log(Q))


def parallel_transport(P: Tensor, Q: Tensor, V: Tensor) -> Tensor:
    """Parallel transport of V from P to Q, all (..., n, n): equal differentials of the logarithm."""
    return _from_logs(matrix_log(Q), _to_logs(matrix_log(P), V))


def barycentre(points: Tensor) -> Tensor:
    """exp of the mean logarithm, (..., n, n), of ``points`` (..., N, n, n)."""
    return matrix_exp(matrix_log(points).mean(-3))


def _from_logs(logarithm: Tensor, direction: Tensor) -> Tensor:
    """Differential of exp at ``logarithm``: the upper right block of exp [[S, H], [0, S]] (Mathias 1996)."""
    logarithm, direction = torch.broadcast_tensors(logarithm, direction)
    n = logarithm.shape[-1]
    upper = torch.cat([logarithm, direction], -1)
    lower = torch.cat([torch.zeros_like(logarithm), logarithm], -1)
    return sym(torch.linalg.matrix_exp(torch.cat([upper, lower], -2))[..., :n, n:])


def _to_logs(logarithm: Tensor, tangent: Tensor) -> Tensor:
    """Inverse of :func:`_from_logs`: the differential of log at exp(``logarithm``)."""
    result: Tensor = _LogDifferential.apply(*torch.broadcast_tensors(logarithm, tangent))
    return result


class _LogDifferential(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logarithm: Tensor, tangent: Tensor) -> Tensor:
        values, vectors = eigensystem(logarithm)
        weights = Log().divided_differences(values.exp())
        result = rotate(vectors, weights * rotate(vectors.mT, sym(tangent)))
        ctx.save_for_backward(logarithm, result, weights, vectors)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        logarithm, result, weights, vectors = ctx.saved_tensors
        for_tangent = rotate(vectors, weights * rotate(vectors.mT, sym(gradient)))
        # implicit function theorem for dexp_S[result] = tangent
        with torch.enable_grad():
            leaf = logarithm.detach().requires_grad_()
            pairing = (for_tangent * _from_logs(leaf, result)).sum()
            (slope,) = torch.autograd.grad(pairing, leaf)
        return -slope, for_tangent

"""The Lyapunov operator A_P: S -> P S + S P and what Bures-Wasserstein geometry needs of it.

In the eigenbasis of P = U diag(l) U^T it multiplies entry (i, j) by l_i + l_j.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from curvature.geometry.spd.spectral import Diagonal, Eigensystem, eigensystem, rotate, sym


def lyapunov(point: Tensor, right: Tensor, system: Eigensystem | Diagonal | None = None) -> Tensor:
    """Solution Z, (..., n, n), of P Z + Z P = S, differentiable in both.

    Args:
        point: P, (..., n, n), positive definite.
        right: S, (..., n, n), symmetric; leading dimensions broadcast.
        system: eigensystem of P, if it is at hand.
    """
    solution: Tensor = _Lyapunov.apply(point, right, system)
    return solution


def inverse_root(point: Tensor, right: Tensor, system: Eigensystem | Diagonal | None = None) -> Tensor:
    """(2 A_P)^(-1/2) S, (..., n, n), differentiable in both.

    With it parallel transport along Bures-Wasserstein geodesics from P to the identity is 2 (2 A_P)^(-1/2) S, and from
    the identity to P it is A_P (2 A_P)^(-1/2) S. The derivative in P follows from that of the operator square root,
    R = S^(-1), S dS + dS S = 2 dA, and is regular where eigenvalues coincide. Arguments as in :func:`lyapunov`.
    """
    result: Tensor = _InverseRoot.apply(point, right, system)
    return result


def _sums(values: Tensor) -> Tensor:
    return values.unsqueeze(-1) + values.unsqueeze(-2)


class _Lyapunov(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, point: Tensor, right: Tensor, system: Eigensystem | Diagonal | None) -> Tensor:
        values, vectors = system or eigensystem(point)
        solution = rotate(vectors, rotate(vectors, sym(right), inverse=True) / _sums(values))
        ctx.shapes = point.shape, right.shape
        ctx.save_for_backward(values, vectors, solution)
        return solution

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        values, vectors, solution = ctx.saved_tensors
        point_shape, right_shape = ctx.shapes
        for_right = rotate(vectors, rotate(vectors, sym(gradient), inverse=True) / _sums(values))
        for_point = None
        if ctx.needs_input_grad[0]:
            for_point = (-2 * sym(solution @ for_right)).sum_to_size(point_shape)
        return for_point, for_right.sum_to_size(right_shape), None


class _InverseRoot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, point: Tensor, right: Tensor, system: Eigensystem | Diagonal | None) -> Tensor:
        values, vectors = system or eigensystem(point)
        roots = (2 * _sums(values)).sqrt()
        inner = rotate(vectors, sym(right), inverse=True) / roots
        ctx.shapes = point.shape, right.shape
        ctx.save_for_backward(roots, vectors, inner)
        return rotate(vectors, inner)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        roots, vectors, inner = ctx.saved_tensors
        point_shape, right_shape = ctx.shapes
        weighted = rotate(vectors, sym(gradient), inverse=True) / roots
        for_right = rotate(vectors, weighted).sum_to_size(right_shape)
        if not ctx.needs_input_grad[0]:
            return None, for_right, None
        kernel = 1 / (roots.unsqueeze(-2) + roots.unsqueeze(-3))
        if roots.dim() == 2:
            # sum over the batch first: n products of (n, B) with (B, n)
            left, right = (part.reshape(-1, *part.shape[-2:]).permute(2, 1, 0) for part in (weighted, inner))
            entries = ((left @ right.mT).permute(1, 2, 0) * kernel).sum(-1)
        else:
            entries = torch.einsum("...ij,...kj,...ikj->...ik", weighted, inner, kernel)
        for_point = rotate(vectors, -4 * sym(entries)).sum_to_size(point_shape)
        return for_point, for_right, None

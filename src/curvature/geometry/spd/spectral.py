"""Functions of symmetric matrices with the exact derivative, also where eigenvalues coincide.

For X = U diag(l) U^T the derivative of f(X) is U [f[l_i, l_j] (U^T dX U)_ij] U^T with the divided differences f[a, b]
(Daleckii and Krein 1965), which are f'(a) for equal eigenvalues. Differentiating through the eigenvectors instead
divides by zero there. Every function decomposes its matrix once and keeps the eigensystem for the backward pass.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

FLOOR = 1e-14
"""Smallest eigenvalue, relative to the largest, that functions of a positive definite matrix act on."""

SINGLE_PRECISION_LIMIT = 1e5


class Eigensystem(NamedTuple):
    """Ascending eigenvalues (..., n) and orthonormal eigenvectors (..., n, n), in columns."""

    values: Tensor
    vectors: Tensor


class Diagonal(NamedTuple):
    """Eigensystem of a diagonal matrix: its entries (..., n), ascending; the eigenvectors are the identity's."""

    values: Tensor
    vectors: None = None


class SpectralFunction(Protocol):
    """A scalar function and its divided differences."""

    positive: bool

    def __call__(self, values: Tensor) -> Tensor:
        """f at (..., n) eigenvalues."""

    def divided_differences(self, values: Tensor) -> Tensor:
        """f[l_i, l_j], (..., n, n)."""


@dataclass(frozen=True)
class Sqrt:
    """l ** 0.5."""

    positive = True

    def __call__(self, values: Tensor) -> Tensor:
        return values.sqrt()

    def divided_differences(self, values: Tensor) -> Tensor:
        a, b = _pairs(values.sqrt())
        return 1 / (a + b)


@dataclass(frozen=True)
class InverseSqrt:
    """l ** -0.5."""

    positive = True

    def __call__(self, values: Tensor) -> Tensor:
        return values.rsqrt()

    def divided_differences(self, values: Tensor) -> Tensor:
        a, b = _pairs(values.sqrt())
        return -1 / (a * b * (a + b))


@dataclass(frozen=True)
class Log:
    """log l."""

    positive = True

    def __call__(self, values: Tensor) -> Tensor:
        return values.log()

    def divided_differences(self, values: Tensor) -> Tensor:
        low, excess = _ordered(values)
        near = excess < 1e-7
        safe = torch.where(near, 1.0, excess)
        return torch.where(near, 1 - excess / 2, torch.log1p(safe) / safe) / low


@dataclass(frozen=True)
class Exp:
    """exp l."""

    positive = False

    def __call__(self, values: Tensor) -> Tensor:
        return values.exp()

    def divided_differences(self, values: Tensor) -> Tensor:
        a, b = _pairs(values)
        half = (a - b).abs() / 2
        near = half < 1e-4
        safe = torch.where(near, 1.0, half)
        # exp(max) (1 - exp(-2h)) / 2h does not overflow where exp(max) does not.
        far = -torch.expm1(-2 * safe) / (2 * safe) * torch.maximum(a, b).exp()
        return torch.where(near, (1 + half**2 / 6) * ((a + b) / 2).exp(), far)


@dataclass(frozen=True)
class Power:
    """l ** exponent."""

    exponent: float
    positive = True

    def __call__(self, values: Tensor) -> Tensor:
        return values**self.exponent

    def divided_differences(self, values: Tensor) -> Tensor:
        low, excess = _ordered(values)
        distance = torch.log1p(excess)
        near = distance < 1e-7
        safe = torch.where(near, 1.0, distance)
        p = self.exponent
        quotient = torch.expm1(p * safe) / torch.expm1(safe)
        return low ** (p - 1) * torch.where(near, p * (1 + (p - 1) * distance / 2), quotient)


@dataclass(frozen=True)
class Rectify:
    """min(max(l, threshold), ceiling): the ReEig of SPDNet, without a ceiling by default."""

    threshold: float
    ceiling: float = math.inf
    positive = False

    def __call__(self, values: Tensor) -> Tensor:
        return values.clamp(self.threshold, self.ceiling)

    def divided_differences(self, values: Tensor) -> Tensor:
        a, b = _pairs(values)
        mixed = (self(a) - self(b)) / torch.where(a == b, 1.0, a - b)
        slope = ((a > self.threshold) & (a < self.ceiling)).to(a.dtype)
        return torch.where(a == b, slope, mixed)


@dataclass(frozen=True)
class Absolute:
    """abs l."""

    positive = False

    def __call__(self, values: Tensor) -> Tensor:
        return values.abs()

    def divided_differences(self, values: Tensor) -> Tensor:
        a, b = _pairs(values)
        return torch.where(a * b > 0, a.sign(), (a + b) / (a.abs() + b.abs()).clamp_min(torch.finfo(a.dtype).tiny))


def sym(matrix: Tensor) -> Tensor:
    """(A + A^T) / 2 of A (..., n, n)."""
    return (matrix + matrix.mT).mul_(0.5)


def eigensystem(matrix: Tensor) -> Eigensystem:
    """Eigensystem of the symmetric part of ``matrix`` (..., n, n), without gradient."""
    values, vectors = torch.linalg.eigh(sym(matrix.detach()))
    return Eigensystem(values, vectors)


def spectral(
    matrix: Tensor, *functions: SpectralFunction, system: Eigensystem | Diagonal | None = None
) -> tuple[Tensor, ...]:
    """f(X) for each of ``functions``, from one decomposition.

    Args:
        matrix: X, (..., n, n); its symmetric part is used.
        functions: if one of them needs positive eigenvalues, eigenvalues are raised to ``FLOOR`` times the largest.
        system: eigensystem of X, if it is at hand.

    Returns:
        One (..., n, n) for each function. In float32 a condition number beyond 1e5 is warned of.
    """
    outputs: tuple[Tensor, ...] = _Spectral.apply(matrix, functions, system)
    return outputs


def trace(matrix: Tensor) -> Tensor:
    """Sum of the diagonal, (...), of (..., n, n)."""
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


def eigenvalues(matrix: Tensor) -> Tensor:
    """Ascending eigenvalues (..., n) of symmetric (..., n, n), with gradient U diag(g) U^T."""
    values: Tensor = _Eigenvalues.apply(matrix)
    return values


def matrix_sqrt(matrix: Tensor) -> Tensor:
    """X^(1/2) of (..., n, n)."""
    return spectral(matrix, Sqrt())[0]


def matrix_log(matrix: Tensor) -> Tensor:
    """log X of (..., n, n)."""
    return spectral(matrix, Log())[0]


def matrix_exp(matrix: Tensor) -> Tensor:
    """exp X of symmetric (..., n, n)."""
    return spectral(matrix, Exp())[0]


def matrix_power(matrix: Tensor, exponent: float) -> Tensor:
    """X^p of (..., n, n). Whole p >= 1 are products and need no decomposition."""
    if exponent >= 1 and float(exponent).is_integer():
        return torch.linalg.matrix_power(matrix, int(exponent)) if exponent > 1 else matrix
    return spectral(matrix, power_function(exponent))[0]


def power_function(exponent: float) -> SpectralFunction:
    """l ** exponent, as the square root or its inverse where it is one."""
    special: dict[float, SpectralFunction] = {0.5: Sqrt(), -0.5: InverseSqrt()}
    return special.get(exponent) or Power(exponent)


def rectify(matrix: Tensor, threshold: float, ceiling: float = math.inf) -> Tensor:
    """ReEig: eigenvalues of (..., n, n) below ``threshold`` are raised to it (Huang and Van Gool 2017), those above
    ``ceiling`` are lowered to it."""
    return spectral(matrix, Rectify(threshold, ceiling))[0]


def warn_if_ill_conditioned(values: Tensor) -> None:
    """Warn of float32 matrices with condition numbers beyond 1e5, whose square roots are noise.

    Args:
        values: ascending eigenvalues (..., n).
    """
    if values.dtype == torch.float32 and bool((values[..., -1] > SINGLE_PRECISION_LIMIT * values[..., 0]).any()):
        message = "float32 matrices with condition numbers beyond 1e5: use float64"
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def sandwich(vectors: Tensor | None, values: Tensor) -> Tensor:
    """U diag(values) U^T, (..., n, n), of U (..., n, n) and (..., n); without ``vectors`` U is the identity."""
    if vectors is None:
        return values.diag_embed()
    return (vectors * values.unsqueeze(-2)) @ vectors.mT


def rotate(vectors: Tensor | None, matrix: Tensor, inverse: bool = False) -> Tensor:
    """U A U^T, or with ``inverse`` U^T A U, all (..., n, n); without ``vectors`` U is the identity."""
    if vectors is None:
        return matrix
    return vectors.mT @ matrix @ vectors if inverse else vectors @ matrix @ vectors.mT


def congruent(factor: Tensor, matrix: Tensor, right: Tensor | None = None) -> Tensor:
    """A X A^T, or the symmetric part of A X B^T, (..., n, n).

    Args:
        factor: A; one (n, n) for all of ``matrix``, or (..., n, n).
        matrix: X, symmetric, (..., n, n).
        right: B, shaped as ``factor``.
    """
    other = factor if right is None else right
    if factor.ndim > 2 or matrix.ndim == 2:
        product = factor @ matrix @ other.mT
    else:
        # X A^T = (A X)^T: both products are then single ones of all rows, instead of one a matrix.
        n = matrix.shape[-1]
        left = (matrix.reshape(-1, n) @ factor.mT).view(matrix.shape).mT
        product = (left.reshape(-1, n) @ other.mT).view(matrix.shape)
    return product if right is None else sym(product)


class _Spectral(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, matrix: Tensor, functions: tuple[SpectralFunction, ...], system: Eigensystem | Diagonal | None
    ) -> tuple[Tensor, ...]:
        values, vectors = system or eigensystem(matrix)
        if any(function.positive for function in functions):
            warn_if_ill_conditioned(values)
            values = values.maximum(FLOOR * values[..., -1:])
        ctx.functions = functions
        ctx.save_for_backward(values, vectors)
        ctx.set_materialize_grads(False)
        return tuple(sandwich(vectors, function(values)) for function in functions)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None]:
        values, vectors = ctx.saved_tensors
        total: Tensor | None = None
        for function, gradient in zip(ctx.functions, gradients):
            if gradient is not None:
                part = function.divided_differences(values) * rotate(vectors, sym(gradient), inverse=True)
                total = part if total is None else total + part
        return None if total is None else rotate(vectors, total), None, None


class _Eigenvalues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        values, vectors = eigensystem(matrix)
        ctx.save_for_backward(vectors)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (vectors,) = ctx.saved_tensors
        return sandwich(vectors, gradient)


def _pairs(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.unsqueeze(-1), values.unsqueeze(-2)


def _ordered(values: Tensor) -> tuple[Tensor, Tensor]:
    """The smaller of every pair, and (larger - smaller) / smaller."""
    a, b = _pairs(values)
    low = torch.minimum(a, b)
    return low, (torch.maximum(a, b) - low) / low

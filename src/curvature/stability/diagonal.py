"""Diagonal linear nets ``f(x) = <a * b, x>`` (elementwise product): closed forms of step, curvature and norms."""

import torch
from torch import Tensor

from curvature.stability.family import State, clip_factor
from curvature.stability.spectrum import Sharpness


def gram(a: Tensor, b: Tensor, inputs: Tensor) -> Tensor:
    """``K = [(X b)(X b)^T + (X a)(X a)^T] / n`` with columns scaled; the gradient at x is (b x, a x).

    Args:
        a: (..., d).
        b: (..., d).
        inputs: (..., n, d), broadcast against the leading dimensions.

    Returns:
        (..., n, n).
    """
    weight = (a.square() + b.square())[..., None, :]
    return (inputs * weight) @ inputs.mT / inputs.shape[-2]


def trace(a: Tensor, b: Tensor, inputs: Tensor) -> Tensor:
    """``sum_j (a_j^2 + b_j^2) mean_i x_ij^2``; shapes as in :func:`gram`, result (...)."""
    return ((a.square() + b.square()) * inputs.square().mean(-2)).sum(-1)


def population_sharpness(a: Tensor, b: Tensor, variance: float = 1 / 3) -> Sharpness:
    """Sharpness for inputs with ``E x x^T = variance * I``: the eigenvalues are ``variance * (a_j^2 + b_j^2)``.

    Args:
        a: (..., d).
        b: (..., d).
        variance: of an input; 1/3 for the uniform law on [-1, 1].
    """
    values = variance * (a.square() + b.square())
    return Sharpness(values.sum(-1), torch.linalg.vector_norm(values, dim=-1), values.amax(-1))


def imbalance(a: Tensor, b: Tensor) -> Tensor:
    """``sum(a^2 + b^2) / (2 sum |a b|)``, (...), of a and b (..., d): trace over its least for this beta.

    At least 1, and 1 for balanced layers.
    """
    return (a.square() + b.square()).sum(-1) / (2 * (a * b).abs().sum(-1))


def norms(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """l1, l2 and linf norm of ``beta = a * b``, imbalance of the layers, l2 norm of all parameters; (...) each."""
    beta = a * b
    return {
        "l1": torch.linalg.vector_norm(beta, 1, dim=-1),
        "l2": torch.linalg.vector_norm(beta, dim=-1),
        "linf": torch.linalg.vector_norm(beta, torch.inf, dim=-1),
        "imbalance": imbalance(a, b),
        "weights": (a.square() + b.square()).sum(-1).sqrt(),
    }


def population_loss(beta: Tensor, truth: Tensor, variance: float = 1 / 3) -> Tensor:
    """Expected half squared error, (...), of ``beta`` (..., d) for inputs with ``E x x^T = variance * I``."""
    return variance / 2 * (beta - truth).square().sum(-1)


def balanced(beta: Tensor) -> tuple[Tensor, Tensor]:
    """Layers (a, b) with ``a * b = beta`` and ``|a| = |b|``: the flattest parameters of this predictor."""
    a = beta.abs().sqrt()
    return a, beta.sign() * a


class DiagonalFamily:
    """Replicas of diagonal linear nets; parameters ``a`` and ``b``, each (S, L, d). See :class:`Family`."""

    def predict(self, state: State, inputs: Tensor) -> Tensor:
        return torch.bmm(state["a"] * state["b"], inputs.mT)

    def step(self, state: State, inputs: Tensor, targets: Tensor, rate: Tensor, clip: float | None) -> Tensor | None:
        a, b = state["a"], state["b"]
        error = torch.bmm(a * b, inputs.mT)
        error -= targets[:, None]
        if targets.shape[1] > 1:
            error /= targets.shape[1]
        shared = torch.bmm(error, inputs)
        gradient_a, gradient_b = shared * b, shared.mul_(a)
        factor = None
        if clip is not None:
            squared = torch.linalg.vecdot(gradient_a, gradient_a) + torch.linalg.vecdot(gradient_b, gradient_b)
            factor = clip_factor(squared, clip)
            rate = rate * factor
        scale = rate[..., None]
        a.addcmul_(gradient_a, scale, value=-1)
        b.addcmul_(gradient_b, scale, value=-1)
        return factor

    def gram(self, state: State, inputs: Tensor) -> Tensor:
        return gram(state["a"], state["b"], inputs[:, None])

    def trace(self, state: State, inputs: Tensor) -> Tensor:
        return trace(state["a"], state["b"], inputs[:, None])

    def norms(self, state: State) -> dict[str, Tensor]:
        return norms(state["a"], state["b"])

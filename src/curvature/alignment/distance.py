"""Distances between the head Hessians of domains, without forming large Hessians."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curvature.alignment.domain import Domain
from curvature.alignment.head import augmented, head_hessian, probabilities

BLOCK = 4096
SMALL = 256


def hessian_inner_product(first: Domain, second: Domain) -> Tensor:
    """<H, H'>_F, (), from the samples' Gram matrices, in O(n n' (C + d)) operations and blocks of bounded memory."""
    extended = augmented(second.features)
    p = probabilities(second.logits)
    total = first.features.new_zeros(())
    for start in range(0, len(first.features), BLOCK):
        block = slice(start, start + BLOCK)
        features = augmented(first.features[block]) @ extended.mT
        total = total + (_covariance_products(probabilities(first.logits[block]), p) * features.square()).sum()
    return total / (len(first.features) * len(second.features))


def hessian_gram(domains: Sequence[Domain]) -> Tensor:
    """All inner products <H_e, H_f>_F, (E, E), by the cheaper of the Gram form and the dense Hessians."""
    features, logits = domains[0].features, domains[0].logits
    side = logits.shape[1] * (features.shape[1] + 1)
    if side**2 <= max(len(domain.features) for domain in domains) * sum(features.shape[1:] + logits.shape[1:]):
        flat = torch.stack([head_hessian(domain.features, domain.logits).flatten() for domain in domains])
        return flat @ flat.mT
    count = len(domains)
    gram = [[features.new_zeros(())] * count for _ in range(count)]
    for i in range(count):
        for j in range(i, count):
            gram[i][j] = gram[j][i] = hessian_inner_product(domains[i], domains[j])
    return torch.stack([torch.stack(row) for row in gram])


def head_hessian_gram_distance(domains: Sequence[Domain]) -> Tensor:
    """||H_e - Hbar||_F^2 of each domain, (E,), with Hbar the plain mean over domains."""
    gram = hessian_gram(domains)
    return (gram.diagonal() - 2 * gram.mean(0) + gram.mean()).clamp(min=0.0)


def pair_distance(first: Domain, second: Domain) -> Tensor:
    """||H - H'||_F, ()."""
    gram = hessian_gram([first, second])
    return (gram[0, 0] - 2 * gram[0, 1] + gram[1, 1]).clamp(min=0.0).sqrt()


def spectral_distance(first: Domain, second: Domain) -> Tensor:
    """||H - H'||_2, (): the largest |eigenvalue| of the difference, which is indefinite.

    The eigenvector is found without gradient (ARPACK on Hessian-vector products); the value is its Rayleigh quotient,
    whose derivative is that of the eigenvalue where it is simple.
    """
    return _extreme([first, second], [1.0, -1.0])


def _covariance_products(first: Tensor, second: Tensor) -> Tensor:
    """<S_a, S_b>_F for all pairs, (n, n')."""
    if first.shape[1] == 1:
        return (first * (1 - first)) @ (second * (1 - second)).mT
    dots = first @ second.mT
    return dots - first.square() @ second.mT - first @ second.square().mT + dots.square()


def _extreme(domains: Sequence[Domain], signs: Sequence[float]) -> Tensor:
    shape = domains[0].logits.shape[1], domains[0].features.shape[1] + 1

    def apply(vectors: Tensor) -> Tensor:
        return torch.stack([sign * domain.hvp(vectors) for sign, domain in zip(signs, domains)]).sum(0)

    with torch.no_grad():
        vector = _dominant(apply, shape, domains[0].features)
    return (vector * apply(vector)).sum().abs()


def _dominant(apply: Callable[[Tensor], Tensor], shape: tuple[int, int], like: Tensor) -> Tensor:
    from scipy.sparse.linalg import LinearOperator, eigsh

    size = shape[0] * shape[1]
    if size <= SMALL:
        basis = torch.eye(size, dtype=like.dtype, device=like.device).reshape(size, *shape)
        values, vectors = torch.linalg.eigh(apply(basis).reshape(size, size))
        return vectors[:, values.abs().argmax()].reshape(shape)

    def matvec(vector: NDArray[np.float64]) -> Any:
        return apply(torch.from_numpy(vector.reshape(shape)).to(like)).cpu().double().numpy().ravel()

    start = np.random.default_rng(0).standard_normal(size)
    operator = LinearOperator((size, size), matvec=matvec, dtype=np.float64)
    _, found = eigsh(operator, k=1, which="LM", v0=start, tol=1e-10 if like.dtype == torch.float64 else 1e-5)
    return torch.from_numpy(found.reshape(shape)).to(like)

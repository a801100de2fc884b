"""Statements of the paper that need no training, evaluated at random matrices in float64."""

from collections.abc import Iterable

import torch
from torch import Tensor

from curvature.geometry.spd import affine_invariant, bures_wasserstein, matrix_power
from curvature.models.spdnet.gbw_batch_norm import GBWBatchNorm

SIZE, SAMPLES, SCALE = 6, 30, 0.3
ILL_CONDITIONED = 1e5


def facts(seed: int) -> dict[str, float]:
    """All of them, by metric name; ``seed`` chooses the matrices."""
    generator = torch.Generator().manual_seed(seed)
    return metric_identities(generator) | metric_conditions(generator) | normalised_moments(generator)


def metric_identities(generator: torch.Generator) -> dict[str, float]:
    """Largest relative errors of: M = I is Bures-Wasserstein; at M = P the metric is a quarter of the affine one."""
    P, Q = (_random(generator, SAMPLES, 0.5, 2.0) for _ in range(2))
    S = _random(generator, SAMPLES, 0.1, 10.0) - _random(generator, SAMPLES, 0.1, 10.0)
    plain = bures_wasserstein.distance(P, Q)
    eye = bures_wasserstein.distance(P, Q, torch.eye(SIZE, dtype=P.dtype))
    local = bures_wasserstein.inner(P, S, S, M=P)
    affine = affine_invariant.inner(P, S, S) / 4
    return {
        "fact/bw_at_identity_error": float(((eye - plain) / plain).abs().max()),
        "fact/affine_at_point_error": float(((local - affine) / affine).abs().max()),
    }


def metric_conditions(generator: torch.Generator) -> dict[str, float]:
    """Exponents p in cond(metric at P) = cond(P)^p: 1 for Bures-Wasserstein and 2 for the affine-invariant metric."""
    P = _random(generator, 1, 1e-3, 1.0)[0]
    kappa = torch.linalg.cond(P).log()
    return {
        f"fact/condition_exponent_{name}": float(torch.linalg.cond(_gram(metric, P)).log() / kappa)
        for name, metric in (("bw", bures_wasserstein), ("aim", affine_invariant))
    }


@torch.no_grad()
def normalised_moments(generator: torch.Generator, theta: float = 0.5) -> dict[str, float]:
    """Errors of mean and variance of the layer's output inside the domain, with a converged barycentre, and the error
    of the mean with one step."""
    X, M, G = (
        _random(generator, SAMPLES, 0.5, 1.5),
        _random(generator, 1, 0.5, 2.0)[0],
        _random(generator, 1, 0.5, 2.0)[0],
    )
    results = {}
    for name, steps in (("converged", 60), ("one_step", 1)):
        norm = GBWBatchNorm(SIZE, theta=theta, karcher_steps=steps)
        norm.scale.fill_(SCALE)
        norm.metric.copy_(M)
        norm.bias.copy_(G)
        before, after = matrix_power(X, theta), matrix_power(norm(X), theta)
        target = matrix_power(G, theta)
        mean = bures_wasserstein.barycentre(after, M)
        results[f"fact/mean_error_{name}"] = float((mean - target).abs().max())
        if steps > 1:
            variances = [
                float(bures_wasserstein.squared_distance(bures_wasserstein.barycentre(Y, M), Y, M).mean()) / theta**2
                for Y in (before, after)
            ]
            expected = SCALE**2 * variances[0] / (variances[0] + norm.eps)
            results["fact/variance_error"] = abs(variances[1] - expected)
            results["fact/folded"] = float(norm.folded)
    return results


def conditioning(batches: Iterable[Tensor], ridge: float = 1e-6) -> dict[str, float]:
    """How ill-conditioned all matrices of ``batches`` (each (N, n, n)) are, as they are and with ``ridge`` times the
    largest eigenvalue added."""
    values = torch.cat([torch.linalg.eigvalsh(X)[:, [0, -1]] for X in batches])
    largest, smallest = values[:, 1], values[:, 0].clamp_min(1e-300)
    condition = largest / smallest
    ridged = (largest * (1 + ridge)) / (smallest + ridge * largest)
    return {
        "data/condition_median": float(condition.median()),
        "data/ill_conditioned": float((condition > ILL_CONDITIONED).double().mean()),
        "data/condition_ridged_min": float(ridged.min()),
    }


def _gram(metric: object, P: Tensor) -> Tensor:
    n = P.shape[-1]
    rows, columns = torch.triu_indices(n, n)
    basis = torch.zeros(len(rows), n, n, dtype=P.dtype)
    weights = torch.where(rows == columns, 1.0, 0.5).to(P.dtype).sqrt()
    index = torch.arange(len(rows))
    basis[index, rows, columns] = weights
    basis[index, columns, rows] = weights
    grid = len(rows), len(rows), n, n
    result: Tensor = metric.inner(P, basis[:, None].expand(grid), basis[None].expand(grid))  # type: ignore[attr-defined]
    return result


def _random(generator: torch.Generator, count: int, low: float, high: float) -> Tensor:
    vectors = torch.linalg.qr(torch.randn(count, SIZE, SIZE, dtype=torch.float64, generator=generator))[0]
    values = low * (high / low) ** torch.rand(count, SIZE, dtype=torch.float64, generator=generator)
    return (vectors * values.unsqueeze(-2)) @ vectors.mT

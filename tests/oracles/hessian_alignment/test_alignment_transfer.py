"""Oracle 10: the transfer measure against exact limits and bounds."""

import numpy as np
import pytest
import torch

from curvature.alignment.attack import head_attack
from curvature.alignment.domain import Domain
from curvature.alignment.head import augmented
from curvature.alignment.transfer import LogisticDomain, transfer_bound, transfer_limit, transfer_measure


def definite(seed, size=4):
    matrix = np.random.default_rng(seed).standard_normal((size, 2 * size))
    return matrix @ matrix.T / size


@pytest.mark.parametrize("seed", range(5))
def test_limit_of_quadratics_is_attained_and_below_the_bound(seed):
    source, target = definite(seed), definite(seed + 100)
    limit = transfer_limit(source, target)
    assert limit <= transfer_bound(source, target) + 1e-12
    root = np.linalg.inv(np.linalg.cholesky(source)).T
    directions = root @ np.random.default_rng(seed).standard_normal((4, 200_000))
    ratios = np.einsum("in,ij,jn->n", directions, target, directions) / np.einsum(
        "in,ij,jn->n", directions, source, directions
    )
    assert max(0.0, ratios.max() - 1) <= limit + 1e-10
    assert limit == pytest.approx(max(0.0, ratios.max() - 1), rel=0.02, abs=0.02)
    assert transfer_limit(source, source) == pytest.approx(0.0, abs=1e-10)
    assert transfer_limit(source, 0.5 * source) == 0.0


def logistic_pair(seed=0):
    generator = np.random.default_rng(seed)
    optimum = np.array([1.0, -0.5, 0.3])
    inputs = generator.standard_normal((2, 1000, 3))
    return LogisticDomain(inputs[0], optimum), LogisticDomain(inputs[1] * [1.5, 1.0, 0.7], optimum)


def test_logistic_gradient_and_hessian_are_those_of_the_loss():
    source, _ = logistic_pair()
    np.testing.assert_allclose(source.gradient(source.optimum), 0, atol=1e-15)
    shift = 1e-5 * np.eye(3)
    numeric = [(source.gradient(source.optimum + s) - source.gradient(source.optimum - s)) / 2e-5 for s in shift]
    np.testing.assert_allclose(source.hessian(), numeric, atol=1e-9)
    head = source.optimum + 0.3
    slope = [(source.excess(head + s) - source.excess(head - s)) / 2e-5 for s in shift]
    np.testing.assert_allclose(source.gradient(head), slope, atol=1e-8)


def test_measure_converges_to_the_limit_with_order_one_half_and_is_monotone():
    source, target = logistic_pair()
    limit = transfer_limit(source.hessian(), target.hessian())
    deltas = np.array([1e-2, 1e-3, 1e-4, 1e-5])
    values = np.array([transfer_measure(source, target, d) for d in deltas])
    assert (np.diff(values) < 0).all()
    errors = np.abs(values / deltas - limit)
    order = np.polyfit(np.log(deltas), np.log(errors), 1)[0]
    assert 0.4 < order < 1.1
    assert errors[-1] < 0.02 * limit
    assert transfer_measure(source, source, 1e-2) == pytest.approx(0.0, abs=1e-8)


def test_measure_is_no_smaller_than_random_search_finds():
    source, target = logistic_pair(1)
    delta = 1e-2
    best = transfer_measure(source, target, delta)
    generator = np.random.default_rng(0)
    root = np.linalg.inv(np.linalg.cholesky(source.hessian())).T
    for _ in range(3000):
        head = source.optimum + 1.1 * np.sqrt(2 * delta) * root @ (u := generator.standard_normal(3)) / np.linalg.norm(
            u
        )
        if (loss := source.excess(head)) <= delta:
            assert target.excess(head) - loss <= best + 1e-9


def test_attack_stays_in_the_ball_and_opens_the_gap():
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(1, 4, generator=generator, dtype=torch.float64)
    sides = []
    for scale in (1.0, 2.0):
        z = scale * torch.randn(200, 3, generator=generator, dtype=torch.float64)
        logits = augmented(z) @ head.mT
        labels = (torch.rand(200, generator=generator) < logits[:, 0].sigmoid()).long()
        sides.append(Domain(z, logits, labels))
    near, far = (head_attack(head, *sides, delta=delta) for delta in (0.1, 1.0))
    expected = float(sides[1].loss - sides[0].loss)
    assert near.gap_before == pytest.approx(expected, abs=1e-12)
    assert near.gap_before < near.gap_after < far.gap_after
    gap_slope = (sides[1].gradient - sides[0].gradient).norm()
    assert near.gap_after - near.gap_before <= 0.1 * float(gap_slope) + 0.02

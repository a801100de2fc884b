"""Closed forms of mixtures against autograd and Monte Carlo; the low-rank Hessian identities; distances; orders."""

import math

import pytest
import torch

from curvature.samplers.distances import gaussian_w2, median_bandwidth, mmd, moment_w2, sliced_w2
from curvature.samplers.targets import GaussianMixture, power_law_gaussian, random_mixture, ring

F64 = torch.float64
LEVELS = [(0.99, math.sqrt(1 - 0.99**2)), (0.6, 0.8), (0.1, math.sqrt(0.99))]


def mixture():
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(5, 4, generator=generator, dtype=F64)
    return GaussianMixture(means, torch.tensor([0.2, 0.1, 0.05, 0.3], dtype=F64))


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_score_and_hessian_are_derivatives_of_the_log_density(alpha, sigma):
    target = mixture()
    x = torch.randn(4, dtype=F64, generator=torch.Generator().manual_seed(0))
    log_prob = target.noised(alpha, sigma).log_prob
    torch.testing.assert_close(target.score(x, alpha, sigma), torch.func.grad(log_prob)(x), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(target.hessian(x, alpha, sigma), torch.func.hessian(log_prob)(x), rtol=1e-10, atol=1e-11)


def test_density_integrates_to_one():
    target = ring(3, 1.0, 0.3)
    axis = torch.linspace(-4, 4, 401, dtype=F64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    assert float(target.log_prob(grid).exp().sum() * 0.02**2) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_residual_of_the_rank_one_hessian(alpha, sigma):
    target = mixture()
    x = target.noised(alpha, sigma).sample(200, torch.Generator().manual_seed(0))
    score = target.score(x, alpha, sigma)
    residual = -target.hessian(x, alpha, sigma) - score[:, :, None] * score[:, None, :]
    closed = (torch.eye(4, dtype=F64) - target.noise_second_moment(x, alpha, sigma)) / sigma**2
    assert ((residual - closed).norm() / closed.norm()) < 1e-10
    largest = torch.linalg.eigvalsh(-target.hessian(x, alpha, sigma)).max()
    assert largest <= (1 + 1e-10) / sigma**2


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_rank_one_hessian_is_right_on_average(alpha, sigma):
    target = mixture()
    x = target.noised(alpha, sigma).sample(200_000, torch.Generator().manual_seed(0))
    score = target.score(x, alpha, sigma)
    gap = score[:, :, None] * score[:, None, :] + target.hessian(x, alpha, sigma)
    error = gap.std(0) / math.sqrt(len(x))
    assert (gap.mean(0).abs() < 5 * error).all()


def test_gaussian_data_has_a_constant_hessian():
    target = power_law_gaussian(6)
    x = torch.randn(3, 6, dtype=F64)
    expected = -torch.diag(1 / (0.36 * target.variances + 0.64)).expand(3, 6, 6)
    torch.testing.assert_close(target.hessian(x, 0.6, 0.8), expected)


def test_bound_for_bounded_data():
    generator = torch.Generator().manual_seed(2)
    target = GaussianMixture(torch.randn(6, 3, generator=generator, dtype=F64), torch.zeros(3, dtype=F64))
    for alpha, sigma in LEVELS:
        x = target.noised(alpha, sigma).sample(1000, generator)
        score = target.score(x, alpha, sigma)
        gap = -target.hessian(x, alpha, sigma) - score[:, :, None] * score[:, None, :]
        reach = (x[:, None] - alpha * target.means).square().sum(-1).max(1).values / sigma**2
        assert (torch.linalg.matrix_norm(gap, 2) <= (1 + reach) / sigma**2).all()


def test_gaussian_w2_closed_forms():
    zero, one = torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64)
    a, b = torch.diag(torch.tensor([4.0, 1.0], dtype=F64)), torch.eye(2, dtype=F64)
    assert gaussian_w2(zero, a, zero, b) == pytest.approx(1.0)
    assert gaussian_w2(zero, b, one, b) == pytest.approx(math.sqrt(2))
    q = torch.linalg.qr(torch.randn(2, 2, dtype=F64)).Q
    assert gaussian_w2(zero, q @ a @ q.T, q @ one, q @ b @ q.T) == pytest.approx(gaussian_w2(zero, a, one, b))


def test_distances_vanish_on_the_law_and_see_a_shift():
    target = random_mixture(8, 4)
    draws = target.sample(4000, torch.Generator().manual_seed(5))
    width = median_bandwidth(target)
    assert abs(mmd(draws, target, width)) < 1e-3
    assert sliced_w2(draws, target) < 0.03
    assert moment_w2(draws, target) < 0.05
    moved = draws + 0.5 / math.sqrt(8)
    assert sliced_w2(moved, target) == pytest.approx(0.5 / math.sqrt(8), rel=0.15)
    assert moment_w2(moved, target) == pytest.approx(0.5, rel=0.05)
    assert mmd(moved, target, width) > 10 * abs(mmd(draws, target, width))


def test_mmd_closed_form_against_monte_carlo():
    target = ring(3, 1.0, 0.2)
    generator = torch.Generator().manual_seed(7)
    x, y = 0.7 * target.sample(1500, generator), target.sample(1500, generator)

    def kernel(a, b):
        return (torch.cdist(a, b).square() / -0.5).exp()

    def off_diagonal(matrix):
        return (matrix.sum() - matrix.trace()) / (len(matrix) * (len(matrix) - 1))

    sampled = off_diagonal(kernel(x, x)) - 2 * kernel(x, y).mean() + off_diagonal(kernel(y, y))
    assert mmd(x, target, 0.5) == pytest.approx(float(sampled), abs=0.01)

"""O2-O7 and C1, C2: the mean-square stability threshold and growth factor against brute force and by hand."""

import numpy as np
import pytest
from dense_sgd import dense_growth, dense_threshold, random_gradients

from curvature.errors import ConfigError
from curvature.stability import LinearisedSGD, critical_learning_rate, growth_factor, noise_factor

SETS = range(18)


@pytest.mark.parametrize("seed", SETS)
@pytest.mark.parametrize(("batch_size", "replacement"), [(1, False), (2, False), (2, True), (3, True)])
def test_o4_threshold_and_growth_equal_those_over_all_batches(seed, batch_size, replacement):
    gradients = random_gradients(seed, samples=4 + seed % 2, parameters=3 + seed % 5)
    ours = critical_learning_rate(gradients, batch_size, replacement)
    assert ours == pytest.approx(dense_threshold(gradients, batch_size, replacement), rel=1e-10)
    assert growth_factor(gradients, ours, batch_size, replacement) == pytest.approx(1, abs=1e-10)
    for factor in (0.3, 0.95, 1.1, 2.0):
        expected = dense_growth(gradients, factor * ours, batch_size, replacement)
        assert growth_factor(gradients, factor * ours, batch_size, replacement) == pytest.approx(expected, rel=1e-8)


def test_o4_repeated_application_of_the_recursion_grows_by_the_factor():
    gradients = random_gradients(4, samples=7, parameters=12)
    sgd = LinearisedSGD.from_gradients(gradients)
    eta = 1.3 * sgd.critical_learning_rate(2)
    moment = sgd.gram / np.trace(sgd.gram)
    growth = 0.0
    for _ in range(3000):
        moment = sgd.next_moment(moment, eta, 2)
        growth = np.trace(moment)
        moment /= growth
    factor, worst = sgd.worst_case(eta, 2)
    assert growth == pytest.approx(factor, rel=1e-8)
    np.testing.assert_allclose(moment, worst, atol=1e-6)


def test_large_problems_take_the_iterative_path_and_agree_with_the_dense_one():
    gradients = random_gradients(0, samples=90, parameters=9)
    sgd = LinearisedSGD.from_gradients(gradients)
    assert sgd.rank == 9 and sgd.samples == 90
    h = gradients.T @ gradients / 90
    c = (np.kron(h, np.eye(9)) + np.kron(np.eye(9), h)) / 2
    d = sum(np.kron(np.outer(g, g), np.outer(g, g)) for g in gradients) / 90
    eta = sgd.critical_learning_rate(1)
    root = np.linalg.inv(np.linalg.cholesky(c))
    assert eta == pytest.approx(2 / np.linalg.eigvalsh(root @ d @ root.T)[-1], rel=1e-10)
    for factor in (0.2, 0.9, 1.5):
        step = factor * eta
        dense = np.linalg.eigvalsh(np.eye(81) - 2 * step * c + step**2 * d)[-1]
        assert sgd.growth_factor(step, 1) == pytest.approx(dense, rel=1e-10)


def test_rank_deficient_sets_do_not_inject_stationary_directions():
    """Repeated samples leave K singular; the factor is that of the distinct ones."""
    gradients = random_gradients(1, samples=4, parameters=6)
    repeated = np.concatenate([gradients, gradients])
    assert LinearisedSGD.from_gradients(repeated).rank == 4
    eta = critical_learning_rate(gradients, 1)
    assert critical_learning_rate(repeated, 1) == pytest.approx(eta, rel=1e-10)
    for factor in (0.5, 1.5):
        assert growth_factor(repeated, factor * eta, 1) == pytest.approx(growth_factor(gradients, factor * eta, 1))
    slow = growth_factor(np.ones((5, 1)), 0.5, 1)
    assert slow == pytest.approx(0.25, rel=1e-12)


def test_no_gradient_at_all_is_stable_at_every_rate():
    flat = LinearisedSGD.from_gradients(np.zeros((3, 2)))
    assert flat.critical_learning_rate(1) == float("inf")
    assert flat.growth_factor(1.0, 1) == 0
    assert flat.sharpness == (0, 0, 0)
    assert flat.worst_alignment == flat.non_uniformity == 0


def test_o2_orthogonal_gradients_of_equal_norm_make_the_trace_bound_tight():
    sgd = LinearisedSGD.from_gradients(1.7 * np.eye(5))
    assert sgd.critical_learning_rate(1) == pytest.approx(0.692041522491, rel=1e-11)
    assert sgd.sharpness.trace == pytest.approx(1.7**2)
    assert sgd.tightness(1).trace == pytest.approx(1, abs=1e-12)
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((9, 5)))[0]
    assert critical_learning_rate(1.7 * rotation.T, 1) == pytest.approx(2 / 1.7**2, rel=1e-10)


@pytest.mark.parametrize("seed", SETS)
def test_o3_c2_gradient_descent_is_stable_up_to_two_over_lambda_max(seed):
    gradients = random_gradients(seed)
    sgd = LinearisedSGD.from_gradients(gradients)
    n = len(gradients)
    eta = sgd.critical_learning_rate(n)
    assert eta == pytest.approx(2 / np.linalg.eigvalsh(gradients.T @ gradients / n)[-1], rel=1e-10)
    assert eta == pytest.approx(dense_threshold(gradients, n, False), rel=1e-10)
    assert sgd.growth_factor(1.01 * eta, n) == pytest.approx(1.0404, rel=1e-10)


@pytest.mark.parametrize("seed", SETS)
def test_o5_threshold_grows_with_the_batch_and_depends_on_it_through_p(seed):
    gradients = random_gradients(seed)
    sgd = LinearisedSGD.from_gradients(gradients)
    for replacement in (False, True):
        rates = [sgd.critical_learning_rate(b, replacement) for b in range(1, len(gradients) + 1)]
        assert np.all(np.diff(rates) >= -1e-10 * rates[0])
    four = LinearisedSGD.from_gradients(random_gradients(seed, samples=4))
    assert noise_factor(4, 3, True) == pytest.approx(noise_factor(4, 2, False))
    assert four.critical_learning_rate(3, True) == pytest.approx(four.critical_learning_rate(2, False), rel=1e-10)


def test_o6_trace_bound_holds_for_single_samples_and_in_general_with_p():
    """300 random sets: the bound of the paper is close to attained, and false for larger batches."""
    tightest, tightest_frobenius, two, full = 0.0, 0.0, 0.0, 0.0
    for seed in range(300):
        sgd = LinearisedSGD.from_gradients(random_gradients(seed))
        n, trace = sgd.samples, sgd.sharpness.trace
        single = sgd.tightness(1)
        tightest = max(tightest, single.trace)
        tightest_frobenius = max(tightest_frobenius, single.frobenius)
        two = max(two, sgd.critical_learning_rate(2) * trace / 2)
        full = max(full, sgd.critical_learning_rate(n) * trace / 2)
        for batch_size in (1, 2, n - 1, n):
            for replacement in (False, True):
                ratios = sgd.tightness(batch_size, replacement)
                assert max(ratios[:3]) <= 1 + 1e-9
                bounds = sgd.learning_rate_bounds(batch_size, replacement)
                assert sgd.critical_learning_rate(batch_size, replacement) <= min(bounds) * (1 + 1e-9)
    assert 0.9 < tightest <= 1
    assert tightest_frobenius <= 1
    assert two > 1.2 and full > 1.5


def test_non_uniformity_condition_of_2018_is_not_necessary_for_mean_square_stability():
    """P1: necessary for contraction in one step only; two values on a line give s and the threshold by hand."""
    sgd = LinearisedSGD.from_gradients(np.array([[1.0], [2.0]]))
    assert sgd.non_uniformity == pytest.approx(np.sqrt((1 + 16) / 2 - 2.5**2))
    worst = max(LinearisedSGD.from_gradients(random_gradients(s)).tightness(1).non_uniformity for s in range(300))
    assert worst <= 1.1


@pytest.mark.parametrize("seed", SETS)
def test_non_uniformity_equals_its_dense_definition(seed):
    gradients = random_gradients(seed)
    squares = np.stack([np.outer(g, g) @ np.outer(g, g) for g in gradients]).mean(0)
    h = gradients.T @ gradients / len(gradients)
    expected = np.sqrt(np.linalg.eigvalsh(squares - h @ h)[-1])
    assert LinearisedSGD.from_gradients(gradients).non_uniformity == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_o7_scalar_case(batch_size):
    values = np.array([[1.0], [2.0], [4.0]])
    second, fourth = (values**2).mean(), (values**4).mean()
    p = noise_factor(3, batch_size)
    expected = 2 * second / (p * fourth + (1 - p) * second**2)
    assert critical_learning_rate(values, batch_size) == pytest.approx(expected, rel=1e-12)
    if batch_size == 1:
        assert expected == pytest.approx(14 / 91)


@pytest.mark.parametrize("seed", SETS)
def test_p1_contraction_in_one_step_is_stronger_than_stability_and_implies_both_bounds_of_2018(seed):
    gradients = random_gradients(seed)
    sgd = LinearisedSGD.from_gradients(gradients)
    squares = np.stack([np.outer(g, g) @ np.outer(g, g) for g in gradients]).mean(0)
    h = gradients.T @ gradients / len(gradients)
    identity = np.eye(len(h))
    for batch_size in (1, 2, len(gradients)):
        p = noise_factor(len(gradients), batch_size)
        eta = sgd.contraction_learning_rate(batch_size)
        assert eta <= sgd.critical_learning_rate(batch_size) * (1 + 1e-9)
        assert eta * sgd.sharpness.lambda_max <= 2 * (1 + 1e-9)
        assert eta * sgd.non_uniformity * np.sqrt(p) <= 1 + 1e-9
        for factor in (1 - 1e-6, 1 + 1e-6):
            step = (identity - factor * eta * h) @ (identity - factor * eta * h)
            growth = np.linalg.eigvalsh(step + (factor * eta) ** 2 * p * (squares - h @ h) - identity)[-1]
            assert growth <= 1e-12 if factor < 1 else growth > 0


def test_spectral_form_of_the_bound():
    """sum_k lambda_k / (1 - (eta/2)(1-p) lambda_k) <= 2/(p eta) at the threshold."""
    for seed in SETS:
        sgd = LinearisedSGD.from_gradients(random_gradients(seed))
        for batch_size in range(1, sgd.samples):
            p, eta = noise_factor(sgd.samples, batch_size), sgd.critical_learning_rate(batch_size)
            weights = 1 - eta / 2 * (1 - p) * sgd.eigenvalues
            assert np.all(weights > 0)
            assert (sgd.eigenvalues / weights).sum() <= 2 / (p * eta) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: critical_learning_rate(np.eye(3), 0), "batch_size=0"),
        (lambda: critical_learning_rate(np.eye(3), 4), "batch_size=4"),
        (lambda: growth_factor(np.eye(3), 0.0, 1), "eta=0.0"),
        (lambda: growth_factor(np.eye(3), float("nan"), 1), "eta=nan"),
        (lambda: critical_learning_rate(np.full((2, 2), np.nan), 1), "NaN"),
        (lambda: critical_learning_rate(np.ones(3), 1), "gradients"),
        (lambda: LinearisedSGD(np.diag([1.0, -1.0])), "positive semi-definite"),
        (lambda: LinearisedSGD(np.array([[1.0, 1.0], [0.0, 1.0]])), "symmetric"),
        (lambda: LinearisedSGD(np.ones((2, 3))), "symmetric"),
    ],
)
def test_unusable_arguments_are_named(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_single_sample_is_gradient_descent():
    assert noise_factor(1, 1) == 0
    assert critical_learning_rate([[3.0, 4.0]], 1) == pytest.approx(2 / 25)
    assert critical_learning_rate([[3.0, 4.0]], 1, replacement=True) == pytest.approx(2 / 25)

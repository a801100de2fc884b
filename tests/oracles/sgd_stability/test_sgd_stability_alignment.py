"""O8, O9 and C3: expected loss after one step, alignment of noise and curvature, worst case."""

import numpy as np
import pytest
from dense_sgd import all_batches, random_gradients

from curvature.stability import LinearisedSGD, noise_factor

SETS = range(12)


def residuals_of(gradients, seed):
    theta = np.random.default_rng([seed, 8]).standard_normal(gradients.shape[1])
    return gradients @ theta


@pytest.mark.parametrize("seed", SETS)
@pytest.mark.parametrize(("batch_size", "replacement"), [(1, False), (2, False), (3, False), (2, True), (3, True)])
def test_o8_expected_loss_equals_the_mean_over_all_batches(seed, batch_size, replacement):
    gradients = random_gradients(seed)
    sgd = LinearisedSGD.from_gradients(gradients)
    residuals, eta, n = residuals_of(gradients, seed), 0.37, len(gradients)
    losses = []
    for batch in all_batches(n, batch_size, replacement):
        chosen = list(batch)
        after = residuals - eta / batch_size * gradients @ (gradients[chosen].T @ residuals[chosen])
        losses.append(after @ after / (2 * n))
    expected = sgd.expected_next_loss(residuals, eta, batch_size, replacement)
    assert expected == pytest.approx(np.mean(losses), rel=1e-12)
    p = noise_factor(n, batch_size, replacement)
    loss = residuals @ residuals / (2 * n)
    floor = eta**2 * p * sgd.alignment(residuals) * sgd.sharpness.frobenius**2 * loss
    assert expected >= floor * (1 - 1e-12)


@pytest.mark.parametrize("seed", SETS)
def test_o8_recursion_of_the_second_moment_gives_the_same_loss(seed):
    gradients = random_gradients(seed)
    sgd = LinearisedSGD.from_gradients(gradients)
    residuals = residuals_of(gradients, seed)
    moment = sgd.next_moment(np.outer(residuals, residuals), 0.2, 2)
    assert np.trace(moment) / (2 * sgd.samples) == pytest.approx(sgd.expected_next_loss(residuals, 0.2, 2), rel=1e-12)


@pytest.mark.parametrize("seed", SETS)
def test_o9_noise_trace_equals_its_dense_definition(seed):
    gradients = random_gradients(seed)
    n = len(gradients)
    residuals = residuals_of(gradients, seed)
    h = gradients.T @ gradients / n
    mean = gradients.T @ residuals / n
    noise = (gradients.T * residuals**2) @ gradients / n - np.outer(mean, mean)
    sgd = LinearisedSGD.from_gradients(gradients)
    assert sgd.noise_trace(residuals) == pytest.approx(np.trace(noise @ h), rel=1e-10)


@pytest.mark.parametrize("seed", SETS)
def test_o9_worst_alignment_is_the_minimum_over_the_range(seed):
    gradients = random_gradients(seed)
    sgd = LinearisedSGD.from_gradients(gradients)
    generator = np.random.default_rng(seed)
    random = [sgd.alignment(gradients @ generator.standard_normal(gradients.shape[1])) for _ in range(200)]
    assert min(random) >= sgd.worst_alignment - 1e-10
    form = sgd.basis.T @ (np.diag(np.diag(sgd.gram @ sgd.gram)) - sgd.gram @ sgd.gram / sgd.samples) @ sgd.basis
    minimiser = sgd.basis @ np.linalg.eigh(form)[1][:, 0]
    assert sgd.alignment(minimiser) == pytest.approx(sgd.worst_alignment, abs=1e-10)


@pytest.mark.parametrize("seed", SETS)
def test_o9_mean_alignment_of_single_residuals(seed):
    sgd = LinearisedSGD.from_gradients(random_gradients(seed))
    n = sgd.samples
    assert np.mean([sgd.alignment(row) for row in np.eye(n)]) == pytest.approx(1 - 1 / n, rel=1e-10)


def test_o9_gaussian_inputs_have_alignment_above_one():
    """For g ~ N(0, G): mu = 1 + theta^T G^3 theta / (theta^T G theta ||G||_F^2) in the population."""
    generator = np.random.default_rng(1)
    scale = np.array([2.0, 1.0, 0.5, 0.3])
    theta = np.array([0.3, -1.0, 0.5, 2.0])
    variances = scale**2
    expected = 1 + (theta**2 @ variances**3) / ((theta**2 @ variances) * (variances**2).sum())
    measured = []
    for _ in range(40):
        gradients = generator.standard_normal((500, 4)) * scale
        measured.append(LinearisedSGD.from_gradients(gradients).alignment(gradients @ theta))
    error = np.std(measured) / np.sqrt(len(measured))
    assert np.mean(measured) == pytest.approx(expected, abs=4 * error)
    assert 4 * error < expected - 1


def test_c3_loss_stability_bound_over_random_sets():
    """eta_star ||G||_F sqrt(mu0 / B) <= 1 with batches drawn with replacement."""
    for seed in range(100):
        sgd = LinearisedSGD.from_gradients(random_gradients(seed))
        for batch_size in (1, 2, 4):
            eta = sgd.critical_learning_rate(batch_size, replacement=True)
            ratio = eta * sgd.sharpness.frobenius * np.sqrt(max(sgd.worst_alignment, 0) / batch_size)
            assert ratio <= 1 + 1e-9

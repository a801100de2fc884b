"""Almost-sure exponents of linearised SGD against scalar cases by hand, gradient descent, and Jensen's inequality."""

import numpy as np
import pytest
from dense_sgd import random_gradients

from curvature.errors import ConfigError
from curvature.stability import LinearisedSGD
from curvature.stability.paths import almost_sure_exponent


def test_scalar_exponent_is_the_mean_logarithm():
    values = np.array([[1.0], [2.0], [0.5]])
    eta = 0.3
    expected = np.log(np.abs(1 - eta * values[:, 0] ** 2)).mean()
    found = almost_sure_exponent(LinearisedSGD.from_gradients(values), eta, 1, steps=40_000)
    assert found.error < 0.01
    assert found.value == pytest.approx(expected, abs=4 * found.error)


def test_a_minimum_may_be_kept_by_almost_every_path_and_left_in_mean_square():
    """Factors 3/4 and -5/4: mean square 17/16, mean logarithm half of log(15/16)."""
    sgd = LinearisedSGD.from_gradients(np.array([[1.0], [3.0]]))
    assert sgd.growth_factor(0.25, 1) == pytest.approx(17 / 16)
    found = almost_sure_exponent(sgd, 0.25, 1, steps=40_000)
    assert found.value + 4 * found.error < 0
    assert found.value == pytest.approx(np.log(15 / 16) / 2, abs=4 * found.error)


@pytest.mark.parametrize("factor", [0.5, 1.1])
def test_gradient_descent_grows_by_its_largest_factor(factor):
    sgd = LinearisedSGD.from_gradients(random_gradients(3, samples=6, parameters=9))
    eta = factor * sgd.critical_learning_rate(6)
    expected = np.log(np.abs(1 - eta * sgd.eigenvalues).max())
    assert almost_sure_exponent(sgd, eta, 6, steps=4000).value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("batch_size", [1, 2])
def test_exponent_is_at_most_half_the_logarithm_of_the_growth_factor(seed, batch_size):
    sgd = LinearisedSGD.from_gradients(random_gradients(seed))
    eta = 1.5 * sgd.critical_learning_rate(batch_size)
    found = almost_sure_exponent(sgd, eta, batch_size, steps=4000)
    assert found.value <= np.log(sgd.growth_factor(eta, batch_size)) / 2 + 4 * found.error


def test_a_step_that_lands_on_the_minimum_never_leaves_it():
    assert almost_sure_exponent(LinearisedSGD.from_gradients([[2.0]]), 0.25, 1).value == -np.inf


@pytest.mark.parametrize(("gradients", "steps", "key"), [([[1.0]], 199, "steps"), ([[0.0]], 1000, "gram")])
def test_unusable_arguments_are_named(gradients, steps, key):
    with pytest.raises(ConfigError, match=key):
        almost_sure_exponent(LinearisedSGD.from_gradients(gradients), 0.1, 1, steps=steps)

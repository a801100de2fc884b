"""Intervals and p-values against textbook numbers."""

import math

import numpy as np
import pytest

from curvature.claims.statistics import bootstrap_interval, mean_effect, rank_effect, slope_effect


def test_t_interval_of_five_values():
    """Mean 3, standard error sqrt(2.5/5), t(0.975, 4) = 2.776445."""
    effect = mean_effect([1, 2, 3, 4, 5])
    half = 2.7764451 * math.sqrt(0.5)
    assert (effect.value, effect.n) == (3.0, 5)
    assert (effect.low, effect.high) == pytest.approx((3 - half, 3 + half), rel=1e-6)


def test_sign_flip_p_value_is_exact():
    """Five positive values: 2 of the 32 sign patterns are as extreme."""
    assert mean_effect([1, 2, 3, 4, 5]).p == pytest.approx(2 / 32)


def test_one_value_has_no_interval():
    effect = mean_effect([7.0])
    assert (effect.low, effect.high) == (-math.inf, math.inf)
    assert math.isnan(effect.p)


def test_interval_covers_the_truth_at_its_nominal_level():
    rng = np.random.default_rng(0)
    effects = [mean_effect(rng.normal(size=5)) for _ in range(400)]
    covered = sum(effect.low <= 0 <= effect.high for effect in effects)
    assert 0.92 < covered / 400 < 0.98


def test_bootstrap_of_equal_values_is_a_point():
    assert bootstrap_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
    low, high = bootstrap_interval([0.0, 1.0, 2.0, 3.0])
    assert low < 1.5 < high


def test_slope_of_a_power_law_is_its_exponent():
    x = np.array([1.0, 2.0, 5.0, 10.0])
    effect = slope_effect(x, 7 * x**-0.75)
    assert effect.value == pytest.approx(-0.75)
    assert effect.high - effect.low < 1e-6
    assert math.isnan(slope_effect([2, 2, 2], [1, 2, 3]).value)


def test_rank_correlation_of_one_swap():
    """rho = 1 - 6 sum d^2 / (n (n^2 - 1)) = 0.9 for one neighbouring swap among five."""
    effect = rank_effect([1, 2, 3, 4, 5], [1, 2, 4, 3, 5])
    assert effect.value == pytest.approx(0.9)
    assert effect.low < 0.9 < effect.high <= 1.0
    assert math.isnan(rank_effect([1, 2, 3], [1, 2, 3]).value)

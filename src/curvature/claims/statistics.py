"""The statistics behind verdicts: two-sided 95 % intervals and exact tests, all from scipy.

Decisions use Student's t interval of the per-seed values. With the five or so seeds that papers and we can afford, the
bootstrap's interval covers far less than its nominal level; it is shown beside, not decided on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Effect:
    """An estimate with its uncertainty.

    Attributes:
        value: estimate (mean, slope or correlation).
        low, high: bounds of the two-sided 95 % interval; infinite if there are too few values.
        p: two-sided p-value of no effect; nan where there is no test.
        n: number of values.
    """

    value: float
    low: float
    high: float
    p: float
    n: int


def mean_effect(values: Sequence[float]) -> Effect:
    """Mean of per-seed values, t interval, and sign-flip permutation p-value (exact up to 2^14 flips)."""
    from scipy import stats

    sample = np.asarray(values, dtype=float)
    n = len(sample)
    mean = float(sample.mean())
    if n < 2:
        return Effect(mean, -np.inf, np.inf, np.nan, n)
    error = float(stats.sem(sample))
    half = error * float(stats.t.ppf(0.5 + LEVEL / 2, n - 1))
    test = stats.permutation_test(
        (sample,), np.mean, permutation_type="samples", n_resamples=2**14, rng=np.random.default_rng(0)
    )
    return Effect(mean, mean - half, mean + half, float(test.pvalue), n)


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """Percentile bootstrap 95 % interval of the mean; both ends are the mean if all values are equal."""
    from scipy import stats

    sample = np.asarray(values, dtype=float)
    if len(sample) < 2 or np.ptp(sample) == 0:
        return float(sample.mean()), float(sample.mean())
    rng = np.random.default_rng(0)
    found = stats.bootstrap((sample,), np.mean, confidence_level=LEVEL, method="percentile", rng=rng)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def slope_effect(x: Sequence[float], y: Sequence[float]) -> Effect:
    """Least-squares slope of log y over log x with its t interval."""
    from scipy import stats

    logs = np.log(np.asarray(x, dtype=float)), np.log(np.asarray(y, dtype=float))
    n = len(logs[0])
    if n < 3 or np.ptp(logs[0]) == 0:
        return Effect(np.nan, -np.inf, np.inf, np.nan, n)
    fit = stats.linregress(*logs)
    half = float(fit.stderr) * float(stats.t.ppf(0.5 + LEVEL / 2, n - 2))
    return Effect(float(fit.slope), float(fit.slope) - half, float(fit.slope) + half, float(fit.pvalue), n)


def rank_effect(x: Sequence[float], y: Sequence[float]) -> Effect:
    """Spearman's rank correlation with Fisher's interval (Bonett and Wright's variance) and its p-value."""
    from scipy import stats

    n = len(x)
    if n < 4 or len(set(x)) < 2 or len(set(y)) < 2:
        return Effect(np.nan, -1.0, 1.0, np.nan, n)
    found = stats.spearmanr(x, y)
    rho = float(found.statistic)
    half = float(stats.norm.ppf(0.5 + LEVEL / 2)) * np.sqrt((1 + rho**2 / 2) / (n - 3))
    centre = np.arctanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12))
    return Effect(rho, float(np.tanh(centre - half)), float(np.tanh(centre + half)), float(found.pvalue), n)

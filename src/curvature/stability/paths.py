"""Single paths of linearised SGD: what happens almost surely, where the second moment says what happens on average."""

import numpy as np

from curvature.errors import ConfigError
from curvature.stability.estimators import Estimate
from curvature.stability.linearised import LinearisedSGD
from curvature.stability.sampling import batch_order

BLOCKS = 20


def almost_sure_exponent(
    sgd: LinearisedSGD,
    eta: float,
    batch_size: int,
    replacement: bool = False,
    steps: int = 20_000,
    seed: int = 0,
) -> Estimate:
    """Top Lyapunov exponent of the products of ``I - (eta/B) sum g_i g_i^T``: mean growth of ``log ||theta||`` a step.

    Almost every path settles at the minimum if it is below 0 and leaves if it is above (Furstenberg & Kesten, 1960). It
    is at most half the logarithm of :meth:`LinearisedSGD.growth_factor`, so that a minimum can be unstable in mean
    square and still be kept by almost every path.

    Args:
        sgd: linearisation at the minimum, of rank 1 at least.
        eta: learning rate above 0.
        batch_size: samples a step.
        replacement: whether a batch may hold a sample twice.
        steps: length of the path, at least 200; its first tenth is left out.
        seed: of the path.

    Returns:
        The mean, and its standard error over 20 blocks of steps.

    Raises:
        ConfigError: a path that is too short, or no curvature.
    """
    if steps < 10 * BLOCKS:
        raise ConfigError("steps", steps, f"at least {10 * BLOCKS}")
    if not sgd.rank:
        raise ConfigError("gram", "zero", "a matrix with a positive eigenvalue")
    rows = sgd.gradients
    order = batch_order(seed, 0, steps, sgd.samples, batch_size, replacement).numpy()
    theta = np.random.default_rng([seed, 4]).standard_normal(sgd.rank)
    logs = np.empty(steps)
    for step, batch in enumerate(order):
        chosen = rows[batch]
        theta -= eta / batch_size * (chosen @ theta) @ chosen
        length = np.sqrt(theta @ theta)
        if not length > 0:
            return Estimate(-np.inf, 0.0)
        logs[step] = length
        theta /= length
    blocks = np.array([block.mean() for block in np.array_split(np.log(logs[steps // 10 :]), BLOCKS)])
    return Estimate(float(blocks.mean()), float(blocks.std(ddof=1) / np.sqrt(BLOCKS)))

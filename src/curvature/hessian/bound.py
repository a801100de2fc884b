"""The generalisation bound behind sharpness-aware minimisation."""

import math

from curvature.errors import ConfigError


def generalisation_bound(
    worst_loss: float, weight_norm: float, rho: float, parameters: int, examples: int, delta: float = 0.05
) -> float:
    """Bound on the expected loss by the worst training loss in a ball around w (Foret et al. 2021, theorem 2).

    With probability 1 - ``delta`` over the n training examples, if Gaussian noise on the k weights does not lower the
    expected loss,

        L_D(w) <= max_{||e|| <= rho} L_S(w + e)
                  + sqrt((k log(1 + ||w||^2 / rho^2 (1 + sqrt(log(n) / k))^2) + 4 log(n / delta)) / (n - 1)),

    without the term of order log(n + k) that the theorem adds below the root. For networks it is vacuous: k is far
    above n.

    Args:
        worst_loss: max over the ball of the training loss; SAM's loss at w + e is its first-order estimate.
        weight_norm: ||w||, of all weights.
        rho: radius of the ball, > 0, in the units of the weights.
        parameters: k, >= 1.
        examples: n, >= 2.
        delta: probability of failure, in (0, 1).

    Raises:
        ConfigError: an argument outside its range.
    """
    for key, value, least in (("parameters", parameters, 1), ("examples", examples, 2)):
        if value < least:
            raise ConfigError(key, value, f"an integer >= {least}")
    if not 0.0 < rho < math.inf:
        raise ConfigError("rho", rho, "a finite number > 0")
    if not 0.0 < delta < 1.0:
        raise ConfigError("delta", delta, "a number above 0 and below 1")
    spread = (weight_norm / rho) ** 2 * (1.0 + math.sqrt(math.log(examples) / parameters)) ** 2
    complexity = parameters * math.log1p(spread) + 4.0 * math.log(examples / delta)
    return worst_loss + math.sqrt(complexity / (examples - 1))

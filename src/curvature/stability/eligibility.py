"""Which runs the stability theorems say anything about."""

from dataclasses import dataclass

CONVERGED = 1e-6
QUIET_SHARE = 0.2


@dataclass(frozen=True)
class Conduct:
    """What matters of one run.

    Attributes:
        loss: final half-MSE on the whole training set.
        label_variance: variance of the training targets.
        steps: steps taken.
        last_clipped: last step, from 0, whose gradient was clipped; -1 if none was.
        diverged: whether it became infinite or NaN.
        constant_rate: whether the learning rate was the same in all steps.
    """

    loss: float
    label_variance: float
    steps: int
    last_clipped: int = -1
    diverged: bool = False
    constant_rate: bool = True


def ineligible(run: Conduct) -> str | None:
    """Why ``run`` cannot confirm or refute a stability bound, or None if it can.

    Eligible runs converged (loss below 1e-6 of the label variance) at a constant learning rate without any clipping
    in the last 20% of their steps. All others are ``not testable``, never passes or failures.
    """
    if run.diverged:
        return "diverged"
    if not run.constant_rate:
        return "learning rate decayed"
    if not run.loss < CONVERGED * run.label_variance:
        return "not converged"
    if run.last_clipped >= (1 - QUIET_SHARE) * run.steps:
        return "clipped"
    return None

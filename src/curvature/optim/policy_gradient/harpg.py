"""HARPG and relatives: momentum corrected by Hessian-vector products along the last step."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from curvature.optim.policy_gradient.ascent import Ascent, Oracle, spread_over


class HARPG(Ascent):
    """d_t = (1 - eta_t)(d_{t-1} + B(tau', x) (theta_t - theta_{t-1})) + eta_t g(tau_t, theta_t).

    x = q theta_t + (1 - q) theta_{t-1} with q ~ U[0, 1), tau' is sampled at x and independent of tau_t, so that the
    correction is unbiased for the change of the gradient since the last step; eta_t = 2/(t+2). Steps are
    gamma_0 (2/(t+2))^(1/2) d_t, or gamma_0 2/(t+2) d_t/|d_t| if normalised: N-HARPG (Fatkhullin et al. 2023). Two
    samples a step, one at t = 0; theta_{t-1} and d are the state.

    Args:
        params, oracle, lr, replicas, seed: see :class:`Ascent`.
        normalized: N-HARPG.
        eta_power: of eta_t.
        gamma_power: of the step size; None is 1 if normalised, else 1/2.
    """

    def __init__(
        self,
        params: Iterable[Any],
        oracle: Oracle,
        lr: float = 0.1,
        normalized: bool = True,
        eta_power: float = 1.0,
        gamma_power: float | None = None,
        replicas: bool = False,
        seed: int = 0,
    ) -> None:
        power = (1.0 if normalized else 0.5) if gamma_power is None else gamma_power
        super().__init__(params, oracle, lr, power, eta_power, normalized, replicas, seed)

    def _direct(self, t: int, parameters: list[Tensor]) -> Sequence[Tensor]:
        if t == 0:
            self._remember("previous", [p.clone() for p in parameters])
            return self.oracle.gradient(parameters)
        previous, q = self._recall("previous"), self._uniform(t, parameters[0])
        last = [p - old for p, old in zip(parameters, previous)]
        between = [old + spread_over(q, step) * step for old, step in zip(previous, last)]
        change = self.oracle.hessian_vector_product(between, last)
        gradient = self.oracle.gradient(parameters)
        for old, p in zip(previous, parameters):
            old.copy_(p)
        return [(d + v).lerp(g, self.eta(t)) for d, v, g in zip(self.direction, change, gradient)]


class SHARP(HARPG):
    """N-HARPG's recursion with eta_t and gamma_t both falling as t^(-2/3) (Salehkaleybar et al. 2022)."""

    def __init__(
        self,
        params: Iterable[Any],
        oracle: Oracle,
        lr: float = 0.1,
        eta_power: float = 2 / 3,
        gamma_power: float = 2 / 3,
        replicas: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(params, oracle, lr, True, eta_power, gamma_power, replicas, seed)

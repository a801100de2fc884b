"""N-PG-IGT: normalised policy gradient with implicit gradient transport."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from torch import Tensor

from curvature.errors import ConfigError
from curvature.optim.policy_gradient.ascent import Ascent, Oracle

VARIANTS = ("paper", "official")


class NPGIGT(Ascent):
    """Momentum whose gradients are taken ahead, so that to first order the average is a gradient at theta_t.

    With x_t = theta_t + (1 - eta_t)/eta_t (theta_t - theta_{t-1}):
    d_t = (1 - eta_t) d_{t-1} + eta_t g(tau_t, x_t) with tau_t sampled at x_t; steps of length gamma_t along d_t;
    eta_t = (2/(t+2))^(4/5), gamma_t = gamma_0 2/(t+2) (Fatkhullin et al. 2023). One sample a step, no second-order
    information, no importance weights; theta_{t-1} and d are the state. The parameters never move to x_t.

    Args:
        params, oracle, lr, replicas, seed: see :class:`Ascent`.
        eta_power: of eta_t.
        gamma_power: of the step length.
        variant: ``paper``; ``official`` looks ahead with the eta of the step before, as the authors' code does.

    Raises:
        ConfigError: an unknown variant, besides those of :class:`Ascent`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        oracle: Oracle,
        lr: float = 0.1,
        eta_power: float = 4 / 5,
        gamma_power: float = 1.0,
        variant: Literal["paper", "official"] = "paper",
        replicas: bool = False,
        seed: int = 0,
    ) -> None:
        if variant not in VARIANTS:
            raise ConfigError("optimizer.variant", variant, f"one of {', '.join(VARIANTS)}")
        super().__init__(params, oracle, lr, gamma_power, eta_power, True, replicas, seed)
        self.variant = variant

    def _direct(self, t: int, parameters: list[Tensor]) -> Sequence[Tensor]:
        if t == 0:
            self._remember("previous", [p.clone() for p in parameters])
            return self.oracle.gradient(parameters)
        eta = self.eta(t)
        reach = eta if self.variant == "paper" else self.eta(t - 1)
        previous = self._recall("previous")
        ahead = [p + (1 - reach) / reach * (p - old) for p, old in zip(parameters, previous)]
        for old, p in zip(previous, parameters):
            old.copy_(p)
        return [d.lerp(new, eta) for d, new in zip(self.direction, self.oracle.gradient(ahead))]

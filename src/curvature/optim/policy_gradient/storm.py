"""STORM-PG: recursive momentum corrected with importance weights."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from curvature.errors import ConfigError
from curvature.optim.policy_gradient.ascent import Ascent, Oracle


class StormPG(Ascent):
    """d_t = g(tau_t, theta_t) + (1 - a)(d_{t-1} - w g(tau_t, theta_{t-1})), constant step (Yuan et al. 2020).

    w = p(tau_t|theta_{t-1}) / p(tau_t|theta_t).

    Args:
        params, oracle, lr, replicas, seed: see :class:`Ascent`.
        momentum: a, in (0, 1].
        normalized: divide steps by the norm of d_t.

    Raises:
        ConfigError: ``momentum`` out of range, besides those of :class:`Ascent`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        oracle: Oracle,
        lr: float = 0.01,
        momentum: float = 0.1,
        normalized: bool = False,
        replicas: bool = False,
        seed: int = 0,
    ) -> None:
        if not 0 < momentum <= 1:
            raise ConfigError("optimizer.momentum", momentum, "in (0, 1]")
        super().__init__(params, oracle, lr, 0.0, 0.0, normalized, replicas, seed)
        self.momentum = momentum

    def _direct(self, t: int, parameters: list[Tensor]) -> Sequence[Tensor]:
        if t == 0:
            self._remember("previous", [p.clone() for p in parameters])
            return self.oracle.gradient(parameters)
        previous = self._recall("previous")
        here, before = self.oracle.gradient_pair(parameters, previous)
        for old, p in zip(previous, parameters):
            old.copy_(p)
        return [g + (1 - self.momentum) * (d - b) for g, d, b in zip(here, self.direction, before)]

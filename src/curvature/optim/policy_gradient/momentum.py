"""First-order baselines: vanilla policy gradient, its normalised form, and normalised momentum."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from curvature.optim.policy_gradient.ascent import Ascent, Oracle


class VanillaPG(Ascent):
    """d_t = g(tau_t, theta_t), gamma_t = gamma_0 (2/(t+2))^(2/3), without normalisation (REINFORCE).

    Args:
        params, oracle, lr, replicas, seed: see :class:`Ascent`.
        gamma_power: of the step size.
    """

    def __init__(
        self,
        params: Iterable[Any],
        oracle: Oracle,
        lr: float = 0.05,
        gamma_power: float = 2 / 3,
        normalized: bool = False,
        replicas: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(params, oracle, lr, gamma_power, 0.0, normalized, replicas, seed)

    def _direct(self, t: int, parameters: list[Tensor]) -> Sequence[Tensor]:
        return self.oracle.gradient(parameters)


class NormalizedPG(VanillaPG):
    """:class:`VanillaPG` with steps of length gamma_t; called ``nsgdm`` in the authors' runner."""

    def __init__(
        self,
        params: Iterable[Any],
        oracle: Oracle,
        lr: float = 0.1,
        gamma_power: float = 2 / 3,
        replicas: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(params, oracle, lr, gamma_power, True, replicas, seed)


class MomentumPG(Ascent):
    """d_t = (1 - eta_t) d_{t-1} + eta_t g(tau_t, theta_t), steps of length gamma_0 2/(t+2).

    Args:
        params, oracle, lr, replicas, seed: see :class:`Ascent`.
        eta_power: of eta_t; 2/3 balances staleness against noise.
        gamma_power: of the step length.
    """

    def __init__(
        self,
        params: Iterable[Any],
        oracle: Oracle,
        lr: float = 0.1,
        eta_power: float = 2 / 3,
        gamma_power: float = 1.0,
        replicas: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(params, oracle, lr, gamma_power, eta_power, True, replicas, seed)

    def _direct(self, t: int, parameters: list[Tensor]) -> Sequence[Tensor]:
        gradient = self.oracle.gradient(parameters)
        if t == 0:
            return gradient
        return [old.lerp(new, self.eta(t)) for old, new in zip(self.direction, gradient)]

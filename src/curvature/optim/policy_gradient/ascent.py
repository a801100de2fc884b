"""What the policy-gradient methods share: schedules, one global norm, a direction that is remembered."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from curvature.data.seeds import derive
from curvature.errors import ConfigError

Vector = tuple[Tensor, ...]
LARGEST_POWER = 4
"""Powers of the methods are at most 1; far beyond, b^power underflows."""


class Oracle(Protocol):
    """Fresh stochastic derivatives of the objective at any point, e.g. :class:`curvature.rl.PolicyOracle`."""

    def gradient(self, parameters: Sequence[Tensor]) -> Vector:
        """Estimate of the gradient, shaped as ``parameters``, from a sample at them."""

    def hessian_vector_product(self, parameters: Sequence[Tensor], direction: Sequence[Tensor]) -> Vector:
        """Estimate of the Hessian times ``direction``, shaped as it, from a sample at ``parameters``."""

    def gradient_pair(self, parameters: Sequence[Tensor], previous: Sequence[Tensor]) -> tuple[Vector, Vector]:
        """Estimates of the gradients at both points, shaped as they are, from one sample at ``parameters``."""


class Ascent(torch.optim.Optimizer):
    """theta_{t+1} = theta_t + gamma_t d_t, or + gamma_t d_t / |d_t|, with a direction d_t that the subclass maintains.

    With b = 2 / (t + 2), gamma_t = gamma_0 b^gamma_power and eta_t = b^eta_power, for t = 0, 1, ... The norm is taken
    over all parameters together. A step whose direction is zero or not finite is not taken.

    Args:
        params: one group of parameters, named or not, in the order that ``oracle`` expects.
        oracle: gives the stochastic derivatives.
        lr: gamma_0, > 0.
        gamma_power: from 0 to 4; 0 keeps the step size constant.
        eta_power: from 0 to 4.
        normalized: whether d_t is divided by its norm.
        replicas: the first axis of every parameter counts independent problems; each has its own norm.
        seed: of the method's own random numbers, which are a function of (seed, t).

    Raises:
        ConfigError: a constant out of range, or more than one parameter group.
    """

    def __init__(
        self,
        params: Iterable[Any],
        oracle: Oracle,
        lr: float,
        gamma_power: float,
        eta_power: float = 0.0,
        normalized: bool = True,
        replicas: bool = False,
        seed: int = 0,
    ) -> None:
        if not lr > 0:
            raise ConfigError("optimizer.lr", lr, "a positive number")
        for name, power in (("gamma_power", gamma_power), ("eta_power", eta_power)):
            if not 0 <= power <= LARGEST_POWER:
                raise ConfigError(f"optimizer.{name}", power, f"a number from 0 to {LARGEST_POWER}")
        super().__init__(params, {"lr": lr, "t": 0})
        if len(self.param_groups) != 1:
            raise ConfigError("optimizer.params", len(self.param_groups), "one group: the direction is global")
        self.oracle, self.normalized, self.replicas, self.seed = oracle, normalized, replicas, seed
        self.gamma_power, self.eta_power = gamma_power, eta_power

    @property
    def parameters(self) -> list[Tensor]:
        """theta_t."""
        return list(self.param_groups[0]["params"])

    @property
    def iteration(self) -> int:
        """t, the number of steps taken."""
        return int(self.param_groups[0]["t"])

    @property
    def direction(self) -> list[Tensor]:
        """d of the step taken last.

        Raises:
            RuntimeError: no step has been taken.
        """
        return self._recall("direction")

    def eta(self, t: int) -> float:
        """Weight of the new estimate at step t."""
        return float((2 / (t + 2)) ** self.eta_power)

    def gamma(self, t: int) -> float:
        """Step size at step t."""
        return float(self.param_groups[0]["lr"] * (2 / (t + 2)) ** self.gamma_power)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Tensor:  # type: ignore[override]
        """Draw what the method needs, update d, move.

        Args:
            closure: not used; the oracle gives the derivatives.

        Returns:
            |d_t|: a scalar, or (R,) with replicas.
        """
        t, parameters = self.iteration, self.parameters
        direction = self._direct(t, parameters)
        self._remember("direction", direction)
        norm = self._norm(direction)
        moves = (norm > 0) & norm.isfinite()
        scale = torch.where(moves, self.gamma(t) / norm if self.normalized else torch.full_like(norm, self.gamma(t)), 0)
        for parameter, part in zip(parameters, direction):
            factor = spread_over(scale, part)
            parameter.add_(torch.where(factor > 0, factor * part, 0))
        self.param_groups[0]["t"] = t + 1
        return norm

    @abstractmethod
    def _direct(self, t: int, parameters: list[Tensor]) -> Sequence[Tensor]:
        """d_t."""

    def _norm(self, vector: Sequence[Tensor]) -> Tensor:
        if self.replicas:
            return torch.stack([part.flatten(1).square().sum(1) for part in vector]).sum(0).sqrt()
        return torch.stack([part.square().sum() for part in vector]).sum().sqrt()

    def _uniform(self, t: int, like: Tensor) -> Tensor:
        """q_t ~ U[0, 1), one for each replica, shaped to multiply parameters."""
        generator = torch.Generator().manual_seed(derive("segment", self.seed, t))
        count = len(like) if self.replicas else 1
        draw = torch.rand(count, generator=generator, dtype=torch.float64).to(like)
        return draw if self.replicas else draw[0]

    def _remember(self, name: str, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values):
            self.state[parameter][name] = value.detach()

    def _recall(self, name: str) -> list[Tensor]:
        try:
            return [self.state[parameter][name] for parameter in self.parameters]
        except KeyError:
            raise RuntimeError(f"there is no {name} before the first step") from None


def spread_over(factor: Tensor, part: Tensor) -> Tensor:
    """``factor`` (R,) or scalar, shaped to multiply ``part`` (R, ...)."""
    return factor.view(-1, *[1] * (part.ndim - 1)) if factor.ndim else factor

"""A noise-free function with known error recursions: it isolates what momentum does about staleness."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Cubic:
    """Ascent on -f with f'(x) = a x + c x^2 / 2 in one dimension, for each of R independent starts.

    Args:
        linear: a.
        quadratic: c.
        replicas: R.
        low, high: starts are uniform in [low, high).
    """

    def __init__(
        self, linear: float = 1.0, quadratic: float = 1.0, replicas: int = 16, low: float = 0.5, high: float = 1.0
    ) -> None:
        self.linear, self.quadratic, self.replicas, self.low, self.high = linear, quadratic, replicas, low, high

    def start(self, seed: int) -> "Point":
        """A module with the one parameter (R, 1)."""
        draw = torch.rand(self.replicas, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return Point(self.low + (self.high - self.low) * draw)

    def gradient(self, x: Tensor) -> Tensor:
        """-f'(x), of the shape of ``x``."""
        return -(self.linear * x + self.quadratic / 2 * x.square())

    def evaluate(
        self, policy: Any, parameters: Sequence[Tensor], direction: Sequence[Tensor] | None, count: int, seed: int
    ) -> dict[str, Tensor]:
        """For each replica ``gap`` f(x) - f(0) and, of ``direction``, ``error`` |d + f'(x)|."""
        x = parameters[0].detach()
        metrics = {"gap": (self.linear / 2 * x.square() + self.quadratic / 6 * x**3).squeeze(-1)}
        if direction is not None:
            metrics["error"] = (direction[0] - self.gradient(x)).norm(dim=-1)
        return metrics


class Point(nn.Module):
    """A parameter without a network.

    Args:
        value: where it starts.
    """

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(value)


class CubicOracle:
    """Exact derivatives; counts like :class:`curvature.rl.oracle.PolicyOracle`, each call being one trajectory.

    Args:
        cubic: the function.
    """

    def __init__(self, cubic: Cubic) -> None:
        self.cubic = cubic
        self.counts = dict.fromkeys(("trajectories", "steps", "gradients", "products", "ratios"), 0)

    def gradient(self, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """-f' at the parameters."""
        self._count("gradients")
        return (self.cubic.gradient(parameters[0]),)

    def hessian_vector_product(self, parameters: Sequence[Tensor], direction: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """-f'' at the parameters times the direction."""
        self._count("products")
        return (-(self.cubic.linear + self.cubic.quadratic * parameters[0]) * direction[0],)

    def gradient_pair(
        self, parameters: Sequence[Tensor], previous: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """-f' at both points."""
        self._count("ratios")
        return (self.cubic.gradient(parameters[0]),), (self.cubic.gradient(previous[0]),)

    def state_dict(self) -> dict[str, Any]:
        """The counts."""
        return {"counts": dict(self.counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.counts = dict(state["counts"])

    def _count(self, kind: str) -> None:
        self.counts[kind] += 1
        self.counts["trajectories"] += 1

"""Riemannian SGD with momentum for stacks of class subspaces (Wang et al., ICCV 2023, section 3)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from curvature.errors import ConfigError
from curvature.geometry import grassmann
from curvature.optim.passes import evaluated

TRANSPORTS = ("projection", "raw", "exact")
RETRACTIONS = ("exp", "qr", "polar")


class RiemannianSGD(Optimizer):
    """SGD with momentum on Gr(n, k), for parameters of shape (C, n, k) with orthonormal columns.

    One step, with D the Euclidean gradient and P the horizontal projection at S:

    * ``projection``: G = P D, M = momentum * P M_prev + G (P approximates parallel transport);
    * ``exact``: as above with M_prev carried by exact parallel transport when S moved;
    * ``raw``: the buffer accumulates unprojected D and is projected for the move only, as in the released code;

    then S moves along the geodesic in the direction -M for time lr. Weight decay does not exist here: it is meaningless
    on a subspace. A step is computed in the precision of the parameters also under autocast.

    Args:
        params: tensors (C, n, k), or groups of them.
        lr: step length along the geodesic; > 0.
        momentum: in [0, 1).
        transport: one of ``projection``, ``raw``, ``exact``.
        reorth_every: restore exact orthonormality every so many steps of a parameter; 0 never does.
        retraction: ``exp``, the geodesic; ``qr`` or ``polar`` orthonormalise S - lr * M, which agrees with it up to
            third order in lr. ``exact`` transport belongs to ``exp``.
        maximize: ascend instead.

    Raises:
        ConfigError: an argument is out of range, or a parameter is not (C, n, k) with n >= k.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        transport: str = "projection",
        reorth_every: int = 5,
        retraction: str = "exp",
        maximize: bool = False,
    ) -> None:
        if not lr > 0:
            raise ConfigError("optimizer.lr", lr, "a number > 0")
        if not 0.0 <= momentum < 1.0:
            raise ConfigError("optimizer.momentum", momentum, "a number in [0, 1)")
        if transport not in TRANSPORTS:
            raise ConfigError("optimizer.transport", transport, f"one of {', '.join(TRANSPORTS)}")
        if retraction not in RETRACTIONS:
            raise ConfigError("optimizer.retraction", retraction, f"one of {', '.join(RETRACTIONS)}")
        if transport == "exact" and retraction != "exp":
            raise ConfigError("optimizer.retraction", retraction, "exp, along which transport=exact carries momentum")
        if reorth_every < 0:
            raise ConfigError("optimizer.reorth_every", reorth_every, "an integer >= 0")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "transport": transport,
            "reorth_every": reorth_every,
            "retraction": retraction,
            "maximize": maximize,
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            for point in group["params"]:
                if point.dim() != 3 or point.shape[-2] < point.shape[-1]:
                    shape = tuple(point.shape)
                    raise ConfigError("optimizer.params", shape, "class subspaces of shape (C, n, k) with n >= k")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; returns what ``closure`` returns."""
        loss = evaluated(closure)
        for group in self.param_groups:
            points = [point for point in group["params"] if point.grad is not None]
            if points:
                # Manual optimisation steps inside the autocast region of the training step.
                with torch.autocast(device_type=points[0].device.type, enabled=False):
                    self._accumulate(points, group)
                    for point in points:
                        self._move(point, group)
        return loss

    def _accumulate(self, points: list[Tensor], group: dict[str, Any]) -> None:
        for point in points:
            assert point.grad is not None
            state = self.state[point]
            if not state:
                state["step"] = 0
                state["momentum_buffer"] = torch.zeros_like(point)
            buffer = state["momentum_buffer"]
            # One pass over memory, which is what a step costs. Ascent moves the other way along the same buffer.
            torch.add(point.grad, buffer, alpha=group["momentum"], out=buffer)

    def _move(self, point: Tensor, group: dict[str, Any]) -> None:
        state = self.state[point]
        buffer: Tensor = state["momentum_buffer"]
        # Projection is linear, so projecting the sum projects the old buffer and the gradient; an exactly transported
        # buffer is horizontal already.
        direction = buffer.clone() if group["transport"] == "raw" else buffer
        grassmann.project_(point, direction)
        lr = float(group["lr"]) if group["maximize"] else -float(group["lr"])
        moved = _retract(point, direction, lr, group["retraction"])
        if group["transport"] == "exact":
            buffer.copy_(grassmann.transport(point, direction, buffer, lr))
        state["step"] += 1
        if group["reorth_every"] and state["step"] % group["reorth_every"] == 0:
            moved = grassmann.restore(moved)
        point.copy_(moved)


def _retract(point: Tensor, tangent: Tensor, step: float, kind: str) -> Tensor:
    if kind == "exp":
        return grassmann.exp(point, tangent, step)
    moved = torch.add(point, tangent, alpha=step)
    return grassmann.polar(moved) if kind == "polar" else grassmann.reorthonormalise(moved)[0]

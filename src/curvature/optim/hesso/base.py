"""Base optimisers of HESSO and the direction in which they are about to move a parameter."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from curvature.errors import ConfigError
from curvature.optim.passes import evaluated

VARIANTS = ("sgd", "adam", "adamw")
ADAMS = ("torch", "oto")
DIRECTIONS = ("variant", "raw")

Scaled = Mapping[Tensor, Sequence[Callable[[float], None]]]


def base_optimizer(variant: str, params: Iterable[Any], adam: str = "torch", **options: Any) -> Optimizer:
    """SGD, ``torch.optim.Adam`` or ``AdamW``, or with ``adam="oto"`` the released code's Adam.

    Args:
        variant: one of ``sgd``, ``adam``, ``adamw``.
        params: as for ``torch.optim``.
        adam: ``torch``, or ``oto`` (see :class:`OTOAdam`).
        **options: of the chosen optimiser; those of the others must be absent.

    Raises:
        ConfigError: an unknown variant or Adam.
    """
    if variant not in VARIANTS:
        raise ConfigError("optimizer.variant", variant, f"one of {', '.join(VARIANTS)}")
    if adam not in ADAMS:
        raise ConfigError("optimizer.adam", adam, f"one of {', '.join(ADAMS)}")
    if variant == "sgd":
        return MaskedSGD(params, **options)
    if adam == "oto":
        return OTOAdam(params, decoupled=variant == "adamw", **options)
    return (AdamW if variant == "adamw" else Adam)(params, **options)


class MaskedSGD(SGD):
    """``torch.optim.SGD``, but gradients enter through a mask once slices are masked.

    What is zero stays zero at no cost in memory traffic, which is what a plain SGD step consists of: setting it to zero
    again after every step would take half as long as the step. On a CPU parameters are updated one by one, which for a
    dozen tensors is a few percent faster than torch's step.

    Attributes:
        masks: parameter -> factors that broadcast to it, 0 where it is removed and 1 elsewhere.

    Raises:
        ConfigError: Nesterov momentum or maximisation.
    """

    def __init__(self, params: Iterable[Any], **options: Any) -> None:
        super().__init__(params, **options)
        for key in ("nesterov", "maximize"):
            if any(group[key] for group in self.param_groups):
                raise ConfigError(f"optimizer.{key}", True, "false")
        self.masks: dict[Tensor, Tensor] = {}

    def _delegates(self) -> bool:
        """Whether torch's own step does as well, and is wanted or faster."""
        if self.masks:
            return False
        wanted = any(group[key] for group in self.param_groups for key in ("foreach", "fused", "differentiable"))
        return wanted or self.param_groups[0]["params"][0].device.type != "cpu"

    @torch.no_grad()
    def mask(self, masks: dict[Tensor, Tensor]) -> None:
        """Use ``masks`` from now on, and forget the momentum of what they remove."""
        self.masks = masks
        for p, keep in masks.items():
            if (buffer := self.state.get(p, {}).get("momentum_buffer")) is not None:
                buffer.mul_(keep)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; returns what ``closure`` returns."""
        loss = evaluated(closure)
        self.update()
        return loss

    def update(self, scaled: Scaled | None = None, factor: float = 1.0) -> None:
        """The update of a step, without gradients to be recorded and without what torch does around a step.

        Args:
            scaled: parameter -> what to call with ``factor`` once it is updated, while it is still in the cache. What
                belongs to no parameter of this optimiser is called at the end.
            factor: see ``scaled``.
        """
        if self._delegates():
            super().step()
            waiting = scaled or {}
        else:
            waiting = self._update_and_scale(scaled or {}, factor)
        for scales in waiting.values():
            for scale in scales:
                scale(factor)

    def _update_and_scale(self, scaled: Scaled, factor: float) -> Scaled:
        """Those of ``scaled`` whose parameters are not among this optimiser's."""
        met = 0
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)
                if p in scaled:
                    met += 1
                    for scale in scaled[p]:
                        scale(factor)
        if met == len(scaled):
            return {}
        own = {p for group in self.param_groups for p in group["params"]}
        return {p: scales for p, scales in scaled.items() if p not in own}

    def _update(self, p: Tensor, group: dict[str, Any]) -> None:
        g, keep, rate = _gradient(p, group), self.masks.get(p) if self.masks else None, float(group["lr"])
        if group["momentum"]:
            p.add_(self._momentum(p, g, keep, group), alpha=-rate)
        else:
            _add(p, g, keep, -rate)

    def _momentum(self, p: Tensor, g: Tensor, keep: Tensor | None, group: dict[str, Any]) -> Tensor:
        buffer: Tensor | None = self.state[p].get("momentum_buffer")
        if buffer is None:
            buffer = self.state[p]["momentum_buffer"] = torch.clone(g if keep is None else g * keep).detach()
        else:
            _add(buffer.mul_(group["momentum"]), g, keep, 1 - group["dampening"])
        return buffer


def _add(target: Tensor, g: Tensor, keep: Tensor | None, factor: float) -> None:
    if keep is None:
        target.add_(g, alpha=factor)
    else:
        target.addcmul_(g, keep, value=factor)


class OTOAdam(Optimizer):
    """The Adam of the released OTO code: the moments begin at g and g^2 instead of (1 - beta) times that.

    With bias correction on top, a constant gradient moves a weight by lr * sqrt(1 - beta2^t) / (1 - beta1^t) in step t,
    a warm-up of about a thousand steps in which early gradients dominate the second moment.

    Args:
        params: tensors or groups.
        lr: step size.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
        weight_decay: coupled, or decoupled as in AdamW.
        decoupled: which of the two.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"decoupled_weight_decay": decoupled})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; returns what ``closure`` returns."""
        loss = evaluated(closure)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state, (beta1, beta2) = self.state[p], group["betas"]
                g = _gradient(p, group)
                if not state:
                    state["step"], state["exp_avg"], state["exp_avg_sq"] = 0, g.clone(), g * g
                else:
                    state["exp_avg"].lerp_(g, 1 - beta1)
                    state["exp_avg_sq"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
                state["step"] += 1
                if group["decoupled_weight_decay"]:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(_corrected(state["exp_avg"], state["exp_avg_sq"], state["step"], group), alpha=-group["lr"])
        return loss


@torch.no_grad()
def update_direction(optimizer: Optimizer, p: Tensor, group: dict[str, Any], raw: bool = False) -> Tensor:
    """The d of the coming update x <- x - lr * d of ``p``, from its gradient and the optimiser's state.

    Coupled weight decay is part of d, decoupled is not. Without a gradient d is zero.

    Args:
        optimizer: SGD, Adam, AdamW or OTOAdam.
        p: one of its parameters.
        group: the group of ``p``.
        raw: the plain gradient instead.
    """
    if p.grad is None:
        return torch.zeros_like(p)
    if raw:
        return p.grad.detach()
    g, state = _gradient(p, group), optimizer.state.get(p, {})
    if isinstance(optimizer, SGD):
        buffer = state.get("momentum_buffer")
        if not group["momentum"] or buffer is None:
            return g
        return group["momentum"] * buffer + (1 - group["dampening"]) * g
    beta1, beta2 = group["betas"]
    if not state:
        first, second = (g, g * g) if isinstance(optimizer, OTOAdam) else ((1 - beta1) * g, (1 - beta2) * g * g)
        return _corrected(first, second, 1, group)
    first = torch.lerp(state["exp_avg"], g, 1 - beta1)
    second = beta2 * state["exp_avg_sq"] + (1 - beta2) * g * g
    return _corrected(first, second, int(state["step"]) + 1, group)


def known(optimizer: Optimizer) -> bool:
    """Whether :func:`update_direction` knows how ``optimizer`` moves."""
    return type(optimizer) in (SGD, MaskedSGD, Adam, AdamW, OTOAdam)


def _gradient(p: Tensor, group: dict[str, Any]) -> Tensor:
    assert p.grad is not None
    coupled = group["weight_decay"] and not group.get("decoupled_weight_decay")
    return p.grad.add(p, alpha=group["weight_decay"]) if coupled else p.grad


def _corrected(first: Tensor, second: Tensor, step: int, group: dict[str, Any]) -> Tensor:
    beta1, beta2 = group["betas"]
    return (first / (1 - beta1**step)) / ((second / (1 - beta2**step)).sqrt() + group["eps"])

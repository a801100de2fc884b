"""The ascent step of sharpness-aware minimisation: from w to w + e, in place and without host synchronisation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LOW_PRECISION = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Part:
    """Parameters of one device and dtype that share a geometry.

    Attributes:
        params: weights w; overwritten by w + e.
        grads: gradients g of the same shapes; overwritten.
        saved: copies of w, only read.
        eta: None for the Euclidean ball; otherwise the ball is measured in T_w = |w| + eta (ASAM).
    """

    params: list[Tensor]
    grads: list[Tensor]
    saved: list[Tensor]
    eta: float | None

    def tilted_norms(self) -> Sequence[Tensor]:
        """Per tensor ||T_w g||. The gradients become T_w g and, with ``eta``, the weights become T_w."""
        if self.eta is not None:
            torch._foreach_abs_(self.params)
            torch._foreach_add_(self.params, self.eta)
            torch._foreach_mul_(self.grads, self.params)
        return torch._foreach_norm(self.grads)

    def move(self, scale: Tensor) -> None:
        """Weights become w + scale T_w^2 g; to be called after :meth:`tilted_norms`."""
        scale = scale.to(self.params[0])
        if self.eta is None:
            torch._foreach_mul_(self.grads, scale)
            torch._foreach_add_(self.params, self.grads)
        else:
            torch._foreach_mul_(self.params, self.grads)
            torch._foreach_mul_(self.params, scale)
            torch._foreach_add_(self.params, self.saved)


class LowPrecisionPart(Part):
    """The same in float32, one tensor at a time; only the sum w + e is rounded to the dtype of the weights."""

    def tilted_norms(self) -> Sequence[Tensor]:
        return [torch.linalg.vector_norm(self._tilt(w) * g.float()) for w, g in zip(self.saved, self.grads)]

    def move(self, scale: Tensor) -> None:
        for p, w, g in zip(self.params, self.saved, self.grads):
            p.copy_(w.float().add_(self._tilt(w) ** 2 * g.float() * scale.to(p.device)))

    def _tilt(self, w: Tensor) -> Tensor:
        return torch.ones((), device=w.device) if self.eta is None else w.float().abs_().add_(self.eta)


def ascend(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    saved: Sequence[Tensor],
    etas: Iterable[float | None],
    rho: float | Tensor,
    eps: float,
) -> Tensor:
    """Move the weights in place to w + e, e = rho T_w^2 g / ||T_w g||, the maximiser of e.g over ||T_w^-1 e|| <= rho.

    The norm runs over all parameters jointly and stays a tensor. Where it is below ``eps``, ``eps`` takes its place, so
    that a zero gradient gives e = 0. Norms and e are formed in float32 or better. The gradients are used up.

    Args:
        params: weights w.
        grads: gradients, one per weight.
        saved: copies of w, one per weight.
        etas: per weight, None where T_w is the identity (SAM), else T_w = |w| + eta (ASAM, Kwon et al. 2021, eq. 5).
        rho: radius of the ball, in the units of the weights (of T_w^-1 times them for ASAM).
        eps: smallest denominator.

    Returns:
        ||T_w g||, a tensor of no dimensions.
    """
    parts = _parts(params, grads, saved, etas)
    norm = torch.linalg.vector_norm(stack_scalars([norm for part in parts for norm in part.tilted_norms()]))
    scale = rho / norm.clamp(min=eps)
    for part in parts:
        part.move(scale)
    return norm


def stack_scalars(values: Sequence[Tensor]) -> Tensor:
    """Tensors of no dimensions as one of shape (len(values),), on the first one's device, in the widest dtype."""
    kinds = {(value.device, value.dtype) for value in values}
    if len(kinds) == 1:
        return torch.stack(list(values))
    widest = torch.float64 if any(dtype == torch.float64 for _, dtype in kinds) else torch.float32
    return torch.stack([value.to(values[0].device, widest) for value in values])


def _parts(
    params: Sequence[Tensor], grads: Sequence[Tensor], saved: Sequence[Tensor], etas: Iterable[float | None]
) -> list[Part]:
    members: dict[tuple[torch.device, torch.dtype, float | None], tuple[list[Tensor], list[Tensor], list[Tensor]]] = {}
    for param, grad, copy, eta in zip(params, grads, saved, etas):
        lists = members.setdefault((param.device, param.dtype, eta), ([], [], []))
        lists[0].append(param)
        lists[1].append(grad)
        lists[2].append(copy)
    return [
        (LowPrecisionPart if dtype in LOW_PRECISION else Part)(*lists, eta=eta)
        for (_, dtype, eta), lists in members.items()
    ]

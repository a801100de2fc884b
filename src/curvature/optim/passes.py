"""What the evaluations of the loss within one step of an optimiser are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Closure = Callable[[], Any]


def evaluated(closure: Closure | None) -> Any:
    """What ``closure`` returns, called with gradients; None without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


@dataclass(frozen=True)
class Pass:
    """Which evaluation of the closure is under way.

    Attributes:
        chunk: index of the chunk of the batch, from 0.
        perturbed: the weights are w + e, not w.
        local: gradients must stay on this process; in DDP forward and backward belong inside ``no_sync()``.
    """

    chunk: int = 0
    perturbed: bool = False
    local: bool = False


def chunks_of(
    closure: Closure | Sequence[Closure] | None, weights: Sequence[float] | None
) -> tuple[list[Closure], list[float]]:
    """One closure for every chunk, and the chunks' shares, which sum to 1; arguments as of ``SAM.step``.

    Raises:
        TypeError: no closure.
        ValueError: other than one positive weight for each closure.
    """
    if closure is None:
        raise TypeError("SAM evaluates the loss twice: call step(closure); float16 loss scaling, which cannot, is out")
    if isinstance(closure, Sequence):
        closures = list(closure)
        weights = [1.0] * len(closures) if weights is None else weights
    else:
        weights = [1.0] if weights is None else weights
        closures = [closure] * len(weights)
    if len(closures) != len(weights) or not closures or not all(weight > 0 for weight in weights):
        raise ValueError(f"{len(closures)} chunks need as many positive weights, not {list(weights)}")
    return closures, [weight / sum(weights) for weight in weights]


def mean_loss(losses: list[Any], shares: list[float]) -> Any:
    """Mean over chunks, detached; None if a closure returned no loss."""
    values = [loss.detach() if isinstance(loss, Tensor) else loss for loss in losses]
    if any(value is None for value in values):
        return None
    return sum(share * value for share, value in zip(shares, values)) if len(values) > 1 else values[0]

"""The Hessian of a mean loss over a fixed set of batches as a curvlinops operator."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

Batches = Sequence[tuple[Tensor, Tensor]]


@contextmanager
def exact_arithmetic(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no autocast, no TF32, and attention by the kernel that has a second derivative."""
    training = {module: module.training for module in model.modules()}
    precision = torch.get_float32_matmul_precision()
    model.eval()
    torch.set_float32_matmul_precision("highest")
    device = next(model.parameters()).device.type
    try:
        with torch.autocast(device, enabled=False), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for module, mode in training.items():
            module.training = mode


def hessian(
    model: nn.Module, criterion: nn.Module, batches: Batches, parameters: Sequence[nn.Parameter] | None = None
) -> Any:
    """Hessian of the mean loss over ``batches`` with respect to ``parameters`` (all trainable ones by default).

    Args:
        model: maps inputs to predictions.
        criterion: mean loss of (predictions, labels).
        batches: pairs (inputs, labels), in the dtype of the model.
        parameters: a diagonal block of the Hessian belongs to a part of the parameters.

    Returns:
        ``curvlinops.HessianLinearOperator`` of shape (P, P). Use it inside :func:`exact_arithmetic`.
    """
    from curvlinops import HessianLinearOperator

    chosen = [p for p in (parameters if parameters is not None else model.parameters()) if p.requires_grad]
    return HessianLinearOperator(model, criterion, chosen, list(batches), check_deterministic=False)

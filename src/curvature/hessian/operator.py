"""The Hessian of a mean loss over a fixed set of batches as a curvlinops operator."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

Batches = Sequence[tuple[Tensor, Tensor]]


@contextmanager
def exact_arithmetic(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no autocast, no TF32, and attention by the kernel that has a second derivative.

    TF32 is off in matrix products and in cuDNN's convolutions, whose default it is. All is restored afterwards.
    """
    training = {module: module.training for module in model.modules()}
    precision, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    model.eval()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    device = next(model.parameters()).device.type
    try:
        with torch.autocast(device, enabled=False), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = convolutions
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
        A ``curvlinops.HessianLinearOperator`` of shape (P, P) that differentiates in reverse mode twice. Use it inside
        :func:`exact_arithmetic`.
    """
    chosen = [p for p in (parameters if parameters is not None else model.parameters()) if p.requires_grad]
    return _reverse_over_reverse()(model, criterion, chosen, list(batches), check_deterministic=False)


@cache
def _reverse_over_reverse() -> Any:
    from curvlinops import HessianLinearOperator

    class ReverseHessian(HessianLinearOperator):
        # curvlinops goes forward over reverse, which is wrong by per cents in the rows of LayerNorm weights of timm's
        # transformers (torch 2.13): the product is then not even symmetric.
        def _matmat_batch(self, X: Tensor, y: Tensor, M: list[Tensor]) -> list[Tensor]:
            parameters = list(self._params)
            with torch.enable_grad():
                loss = self._loss_func(self._model_func(X), y)
                gradients = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
                live = [index for index, gradient in enumerate(gradients) if gradient.requires_grad]
                if not live:
                    return [torch.zeros_like(entries) for entries in M]
                columns = []
                for column in range(M[0].shape[-1]):
                    products = torch.autograd.grad(
                        [gradients[index] for index in live],
                        parameters,
                        [M[index][..., column] for index in live],
                        retain_graph=True,
                        materialize_grads=True,
                    )
                    columns.append(products)
            return [torch.stack(parts, dim=-1).detach() for parts in zip(*columns, strict=True)]

    return ReverseHessian

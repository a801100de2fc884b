"""The loss at and around the weights: mean loss, average flatness, weight norm."""

import torch
from torch import nn

from curvature.hessian.operator import Batches, exact_arithmetic


@torch.no_grad()
def mean_loss(model: nn.Module, criterion: nn.Module, batches: Batches) -> float:
    """Mean loss over all examples of ``batches``, in evaluation mode."""
    with exact_arithmetic(model):
        total = sum(float(criterion(model(inputs), labels)) * len(labels) for inputs, labels in batches)
    return total / sum(len(labels) for _, labels in batches)


@torch.no_grad()
def average_flatness(
    model: nn.Module, criterion: nn.Module, batches: Batches, sigma: float, draws: int = 20, seed: int = 0
) -> float:
    """L_N: mean of L(w + sigma z) over ``draws`` standard normal z (Chen et al. 2022, section 3).

    The draws depend on ``seed`` and the parameters' shapes only, so arms of one architecture see the same ones. The
    weights are restored exactly.
    """
    parameters: list[torch.Tensor] = [p for p in model.parameters() if p.requires_grad]
    saved = [p.clone() for p in parameters]
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    try:
        for _ in range(draws):
            for parameter, weight in zip(parameters, saved, strict=True):
                noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(weight + sigma * noise.to(weight))
            total += mean_loss(model, criterion, batches)
    finally:
        torch._foreach_copy_(parameters, saved)
    return total / draws


def weight_norm(model: nn.Module) -> float:
    """Euclidean norm of all trainable parameters together."""
    norms = torch._foreach_norm([p.detach() for p in model.parameters() if p.requires_grad])
    return float(torch.linalg.vector_norm(torch.stack(list(norms))))

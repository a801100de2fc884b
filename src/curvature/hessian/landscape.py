"""The loss at and around the weights: mean loss, average flatness, surface along two directions, weight norm."""

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


@torch.no_grad()
def filter_normalised_direction(model: nn.Module, seed: int) -> list[torch.Tensor]:
    """A random direction, one tensor for each trainable parameter, scaled to the weights (Li et al. 2018, section 4).

    Each filter (slice of the first axis) of a weight with two or more axes is normal noise of that filter's norm;
    biases and scales, with one axis, do not move. The noise depends on ``seed`` and the shapes alone.
    """
    generator = torch.Generator().manual_seed(seed)
    direction = []
    for parameter in (p for p in model.parameters() if p.requires_grad):
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
        if parameter.ndim < 2:
            direction.append(torch.zeros_like(parameter))
            continue
        rows, lengths = noise.flatten(1), parameter.flatten(1).norm(dim=1, keepdim=True)
        direction.append((rows * (lengths / rows.norm(dim=1, keepdim=True))).view_as(parameter))
    return direction


@torch.no_grad()
def loss_surface(
    model: nn.Module, criterion: nn.Module, batches: Batches, radius: float = 1.0, points: int = 21, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean loss at w + a u + b v for two filter-normalised directions u and v.

    Args:
        model, criterion, batches: see :func:`mean_loss`; the weights are restored exactly.
        radius: largest |a| and |b|.
        points: grid points along each axis; odd, so that w is one of them.
        seed: of the directions; equal seeds give arms of one architecture the same noise.

    Returns:
        The coordinates (points,) and the losses (points, points), rows by a.
    """
    parameters: list[torch.Tensor] = [p for p in model.parameters() if p.requires_grad]
    saved = [p.clone() for p in parameters]
    u, v = filter_normalised_direction(model, 2 * seed), filter_normalised_direction(model, 2 * seed + 1)
    coordinates = torch.linspace(-radius, radius, points, dtype=torch.float64)
    losses = torch.empty(points, points, dtype=torch.float64)
    try:
        for row, a in enumerate(coordinates.tolist()):
            for column, b in enumerate(coordinates.tolist()):
                for parameter, weight, first, second in zip(parameters, saved, u, v, strict=True):
                    parameter.copy_(weight + a * first + b * second)
                losses[row, column] = mean_loss(model, criterion, batches)
    finally:
        torch._foreach_copy_(parameters, saved)
    return coordinates, losses


def weight_norm(model: nn.Module) -> float:
    """Euclidean norm of all trainable parameters together."""
    norms = torch._foreach_norm([p.detach() for p in model.parameters() if p.requires_grad])
    return float(torch.linalg.vector_norm(torch.stack(list(norms))))

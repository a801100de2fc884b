"""Random heads and domains in float64, and the dense quantities that autograd gives for them."""

import torch
from torch import nn

from curvature.alignment.domain import Domain, observe
from curvature.alignment.head import augmented, mean_loss
from curvature.models.mlp import MLP, HeadedNetwork


def network(classes: int, width: int = 3, seed: int = 0) -> HeadedNetwork:
    torch.manual_seed(seed)
    backbone = MLP([4, width], batch_norm=False, activate_output=False)
    return HeadedNetwork(backbone, nn.Linear, width, classes).double()


def batches(classes: int, sizes=(7, 5, 9), seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for index, size in enumerate(sizes):
        inputs = torch.randn(size, 4, generator=generator, dtype=torch.float64) * (1 + 0.3 * index)
        pairs.append((inputs, torch.randint(0, max(classes, 2), (size,), generator=generator)))
    return pairs


def domains(classes: int, sizes=(7, 5, 9), width: int = 3, seed: int = 0):
    net = network(classes, width, seed)
    return net, [observe(net, *batch) for batch in batches(classes, sizes, seed)]


def theta(net: HeadedNetwork) -> torch.Tensor:
    return torch.cat([net.head.weight, net.head.bias.unsqueeze(1)], dim=1)


def autograd_loss(head: torch.Tensor, domain: Domain) -> torch.Tensor:
    return mean_loss(augmented(domain.features) @ head.mT, domain.labels)


def dense_gradient(net: HeadedNetwork, domain: Domain) -> torch.Tensor:
    head = theta(net).detach().requires_grad_()
    return torch.autograd.grad(autograd_loss(head, domain), head)[0]


def dense_hessian(net: HeadedNetwork, domain: Domain) -> torch.Tensor:
    head = theta(net).detach()
    found = torch.autograd.functional.hessian(lambda h: autograd_loss(h, domain), head)
    return found.reshape(head.numel(), head.numel()).detach()


def close(a, b, tolerance: float = 1e-10) -> None:
    a, b = (torch.as_tensor(value, dtype=torch.float64) for value in (a, b))
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)

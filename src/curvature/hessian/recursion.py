"""The layer-wise Hessian recursion of feed-forward networks, for one example."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import grad, hessian, vmap

from curvature.errors import ConfigError


@dataclass(frozen=True)
class LayerHessian:
    """Hessian of the loss of one example with respect to the weight (m, n) of a linear layer.

    Attributes:
        inputs: a_{k-1}, (n,), what the layer receives.
        preactivation: Hc_k, (m, m), the Hessian with respect to its output h_k.
    """

    inputs: Tensor
    preactivation: Tensor

    def dense(self) -> Tensor:
        """Hc_k (x) a a^T, (m n, m n), for the weight flattened row by row."""
        return torch.kron(self.preactivation.contiguous(), torch.outer(self.inputs, self.inputs))

    def lambda_max(self) -> float:
        """||a||^2 lambda_max(Hc_k), or 0 if that is negative and n > 1: the outer product has a null space."""
        value = float(self.inputs @ self.inputs * torch.linalg.eigvalsh(self.preactivation)[-1])
        return max(value, 0.0) if len(self.inputs) > 1 else value


def layer_hessians(network: nn.Sequential, criterion: nn.Module, example: Tensor, label: Tensor) -> list[LayerHessian]:
    """Hessian blocks of every linear layer by the recursion that Chen et al. 2022 cite (Botev et al. 2017, eq. 7).

    With B_k = diag(f'(h_k)) and D_k = diag(f''(h_k) dL/da_k), Hc_k = B_k W_{k+1}^T Hc_{k+1} W_{k+1} B_k + D_k. It holds
    for one example; the Hessian of a mean loss is the mean of the dense blocks, which does not factor.

    Args:
        network: ``nn.Linear`` layers, each but the last followed by one element-wise activation.
        criterion: mean loss of (logits, labels).
        example: (n,).
        label: ().

    Returns:
        One entry per linear layer, from the input to the output.

    Raises:
        ConfigError: another architecture.
    """
    linears, activations = list(network)[::2], list(network)[1::2]
    if len(network) % 2 == 0 or not all(isinstance(layer, nn.Linear) for layer in linears):
        raise ConfigError("network", type(network).__name__, "linear layers with one activation between each two")
    received, outputs = [example.detach()], []
    with torch.no_grad():
        for index, linear in enumerate(linears):
            outputs.append(linear(received[-1]))
            if index < len(activations):
                received.append(activations[index](outputs[-1]))

    def loss(logits: Tensor) -> Tensor:
        return criterion(logits[None], label[None])

    gradient, curvature = grad(loss)(outputs[-1]), hessian(loss)(outputs[-1])
    found = [LayerHessian(received[-1], curvature)]
    for index in reversed(range(len(activations))):
        weight: Tensor = linears[index + 1].weight.detach()  # type: ignore[operator]
        slope, bend = grad(activations[index]), grad(grad(activations[index]))
        first, second = vmap(slope)(outputs[index]), vmap(bend)(outputs[index])
        upstream = weight.T @ gradient
        curvature = first[:, None] * (weight.T @ curvature @ weight) * first + torch.diag(second * upstream)
        gradient = first * upstream
        found.append(LayerHessian(received[index], curvature))
    return found[::-1]

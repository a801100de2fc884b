"""Replicas of any net with one output a sample, differentiated by torch.func."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

from curvature.stability.family import State, clip_factor
from curvature.stability.spectrum import gram


def output_gradients(module: nn.Module, inputs: Tensor, parameters: dict[str, Tensor] | None = None) -> Tensor:
    """Gradients of each output at each sample with respect to all parameters, flattened in their order.

    Args:
        module: a net that maps (n, ...) to (n,) or (n, C) without mixing samples.
        inputs: (n, ...).
        parameters: used instead of the module's own.

    Returns:
        (n, P), or (n * C, P) for C outputs a sample; divide by n, not n * C (see :func:`spectrum.gram`).
    """
    values = {name: p.detach() for name, p in module.named_parameters()} if parameters is None else parameters

    def output(current: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(module, current, (sample[None],)).reshape(-1)

    jacobian = vmap(jacrev(output), in_dims=(None, 0))(values, inputs)
    return torch.cat([part.flatten(2) for part in jacobian.values()], dim=-1).flatten(0, 1)


class AutogradFamily:
    """Replicas of ``module`` (its own parameters are not used). See :class:`Family`.

    Args:
        module: a net that maps (n, ...) to (n,) or (n, 1) without mixing samples and without randomness.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def predict(self, state: State, inputs: Tensor) -> Tensor:
        return self._map(self._output)(state, inputs)

    def step(self, state: State, inputs: Tensor, targets: Tensor, rate: Tensor, clip: float | None) -> Tensor | None:
        def loss(current: State, batch: Tensor, wanted: Tensor) -> Tensor:
            return (self._output(current, batch) - wanted).square().mean() / 2

        gradients = self._map(grad(loss), extra=1)(state, inputs, targets)
        factor = None
        if clip is not None:
            squared = torch.stack([g.flatten(2).square().sum(-1) for g in gradients.values()]).sum(0)
            factor = clip_factor(squared, clip)
            rate = rate * factor
        for name, gradient in gradients.items():
            scale = rate.view(*rate.shape, *[1] * (gradient.ndim - 2))
            state[name].addcmul_(gradient, scale, value=-1)
        return factor

    def gram(self, state: State, inputs: Tensor) -> Tensor:
        seeds, lanes = next(iter(state.values())).shape[:2]
        rows = [
            torch.stack([gram(self._gradients(state, inputs, seed, lane)) for lane in range(lanes)])
            for seed in range(seeds)
        ]
        return torch.stack(rows)

    def trace(self, state: State, inputs: Tensor) -> Tensor:
        return self.gram(state, inputs).diagonal(dim1=-2, dim2=-1).sum(-1)

    def norms(self, state: State) -> dict[str, Tensor]:
        squared = torch.stack([p.flatten(2).square().sum(-1) for p in state.values()]).sum(0)
        return {"weights": squared.sqrt()}

    def _gradients(self, state: State, inputs: Tensor, seed: int, lane: int) -> Tensor:
        return output_gradients(self.module, inputs[seed], {name: p[seed, lane] for name, p in state.items()})

    def _output(self, current: State, batch: Tensor) -> Tensor:
        return functional_call(self.module, current, (batch,)).reshape(len(batch))

    @staticmethod
    def _map(function: Callable[..., Any], extra: int = 0) -> Callable[..., Any]:
        """Over seeds, and within a seed over lanes that share everything but the state."""
        shared = (None,) * (1 + extra)
        return vmap(vmap(function, in_dims=(0, *shared)))

"""Condition number of the neural tangent kernel."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from curvature.errors import ConfigError
from curvature.hessian.operator import exact_arithmetic

MODES = ("per_logit", "sum_logits", "trace")
DEGENERATE = 1e-12
ELEMENTS_AT_ONCE = 2**26


@dataclass(frozen=True)
class TangentKernel:
    """Spectrum of a tangent kernel; for ``per_logit`` each field is a mean over the logits.

    Attributes:
        condition_number: lambda_1 / lambda_N; infinite if lambda_N <= 1e-12 lambda_1.
        largest: lambda_1.
        smallest: lambda_N.
    """

    condition_number: float
    largest: float
    smallest: float


def ntk_condition_number(
    model: nn.Module, inputs: Tensor, mode: str = "per_logit", elements_at_once: int = ELEMENTS_AT_ONCE
) -> TangentKernel:
    """Condition number of Theta = J J^T over the trainable parameters (Chen et al. 2022, section 3; Jacot et al. 2018).

    The exact kernel of N inputs and C logits has N C rows. ``per_logit`` averages over its C diagonal blocks
    J_c J_c^T; ``trace`` takes the one matrix (1/C) sum_c J_c J_c^T; ``sum_logits`` differentiates the sum of the logits
    with respect to parameters whose name contains "weight". The model is evaluated in evaluation mode. Measure at
    initialisation, with a classifier that is not zero: behind a zero one all gradients of the backbone vanish.

    Args:
        model: maps (B, ...) to logits (B, C), in float64.
        inputs: (N, ...), float64.
        mode: ``per_logit``, ``sum_logits`` or ``trace``.
        elements_at_once: bound on the numbers of a Jacobian held at a time. Parameter tensors are taken in groups that
            respect it, and each group costs another pass.

    Raises:
        ConfigError: an unknown mode, or inputs or parameters that are not float64.
    """
    if mode not in MODES:
        raise ConfigError("mode", mode, f"one of {', '.join(MODES)}")
    if inputs.dtype != torch.float64 or any(p.dtype != torch.float64 for p in model.parameters()):
        raise ConfigError("inputs", str(inputs.dtype), "a model and inputs in float64")
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if mode == "sum_logits":
        kernels = [_kernel(model, inputs, _only_weights(named), Tensor.sum, elements_at_once)]
    else:
        with torch.no_grad(), exact_arithmetic(model):
            classes = model(inputs[:1]).shape[-1]
        kernels = [_kernel(model, inputs, named, _logit(c), elements_at_once) for c in range(classes)]
    if mode == "trace":
        kernels = [torch.stack(kernels).mean(0)]
    spectra = [_spectrum(kernel) for kernel in kernels]
    return TangentKernel(*(sum(values) / len(spectra) for values in zip(*spectra, strict=True)))


def tangent_kernel(
    model: nn.Module,
    inputs: Tensor,
    logit: int,
    parameters: Sequence[str] | None = None,
    elements_at_once: int = ELEMENTS_AT_ONCE,
) -> Tensor:
    """Theta of one logit, (N, N): inner products of the gradients of f(x_i)[logit] and f(x_j)[logit].

    Args:
        model, inputs, elements_at_once: see :func:`ntk_condition_number`; any floating dtype.
        logit: index of the output.
        parameters: names of the parameters to differentiate by, by default all trainable ones.
    """
    named = {n: p for n, p in model.named_parameters() if (p.requires_grad if parameters is None else n in parameters)}
    return _kernel(model, inputs, named, _logit(logit), elements_at_once)


def _kernel(
    model: nn.Module,
    inputs: Tensor,
    named: dict[str, nn.Parameter],
    output: Callable[[Tensor], Tensor],
    elements_at_once: int,
) -> Tensor:
    count = len(inputs)
    kernel = torch.zeros(count, count, dtype=inputs.dtype, device=inputs.device)
    with exact_arithmetic(model):
        for group in _groups(named, max(elements_at_once // count, 1)):

            def scalar(chosen: dict[str, Tensor], example: Tensor) -> Tensor:
                return output(functional_call(model, chosen, (example[None],))[0])

            chosen = {name: parameter.detach() for name, parameter in group.items()}
            for jacobian in vmap(grad(scalar), in_dims=(None, 0))(chosen, inputs).values():
                rows = jacobian.detach().reshape(count, -1)
                kernel += rows @ rows.T
    return kernel


def _groups(named: dict[str, nn.Parameter], limit: int) -> Iterator[dict[str, nn.Parameter]]:
    group: dict[str, nn.Parameter] = {}
    size = 0
    for name, parameter in named.items():
        if group and size + parameter.numel() > limit:
            yield group
            group, size = {}, 0
        group[name] = parameter
        size += parameter.numel()
    if group:
        yield group


def _logit(index: int) -> Callable[[Tensor], Tensor]:
    return lambda logits: logits[index]


def _only_weights(named: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in named.items() if "weight" in name}


def _spectrum(kernel: Tensor) -> tuple[float, float, float]:
    values = torch.linalg.eigvalsh(kernel)
    smallest, largest = float(values[0]), float(values[-1])
    condition = largest / smallest if smallest > DEGENERATE * largest else float("inf")
    return condition, largest, smallest

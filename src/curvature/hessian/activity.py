"""How many hidden units are switched on."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from curvature.hessian.operator import Batches

ACTIVATIONS = (nn.ReLU, nn.GELU)


def activation_layers(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Activation modules by block, from the input to the output.

    Blocks are the entries of the attribute ``blocks`` (timm's ViT and Mixer: one activation per MLP) or of ``layer1``
    to ``layer4`` (ResNet); any other network has one block per activation.
    """
    blocks: Sequence[nn.Module] = list(getattr(model, "blocks", []))
    if not blocks:
        stages = [getattr(model, f"layer{index}", []) for index in range(1, 5)]
        blocks = [block for stage in stages for block in stage]
    if blocks:
        found: list[list[nn.Module]] = [[m for m in block.modules() if isinstance(m, ACTIVATIONS)] for block in blocks]
    else:
        found = [[m] for m in model.modules() if isinstance(m, ACTIVATIONS)]
    return {f"layer{index}": layers for index, layers in enumerate(found, start=1) if layers}


@torch.no_grad()
def active_fraction(
    model: nn.Module, batches: Batches, layers: Mapping[str, Sequence[nn.Module]] | None = None
) -> dict[str, float]:
    """Share of (sample, token, hidden unit) whose post-activation is > 0, per block, in evaluation mode.

    Args:
        model: the network.
        batches: pairs (inputs, labels); labels are not used.
        layers: activation modules by name, by default :func:`activation_layers`. A block's share is the mean over its
            activations.
    """
    layers = activation_layers(model) if layers is None else layers
    active: dict[nn.Module, list[Tensor | int]] = {m: [torch.zeros(()), 0] for group in layers.values() for m in group}

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        entry = active[module]
        entry[0] = entry[0] + (output > 0).sum().cpu()
        entry[1] = entry[1] + output.numel()

    hooks = [module.register_forward_hook(count) for module in active]
    training = model.training
    model.eval()
    try:
        for inputs, _ in batches:
            model(inputs)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    shares = {module: float(on) / max(int(total), 1) for module, (on, total) in active.items()}
    return {name: sum(shares[m] for m in group) / len(group) for name, group in layers.items()}

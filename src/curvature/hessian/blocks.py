"""Diagonal blocks of the Hessian that belong to parts of a network."""

from collections.abc import Mapping, Sequence

from torch import nn

from curvature.errors import ConfigError
from curvature.hessian.operator import Batches
from curvature.hessian.spectrum import Eigenvalue, lambda_max

EMBEDDINGS = ("patch_embed", "pos_embed", "cls_token", "reg_token", "stem", "conv1", "bn1")
MIXERS = {"attn": "attention", "mlp": "mlp", "mlp_tokens": "token_mixing", "mlp_channels": "channel_mixing"}


def parameter_blocks(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Trainable parameters of timm's ViT, MLP-Mixer and ResNet by part, as in Table 3 of Chen et al. 2022.

    ``embedding`` is everything before the first block; ``attention`` and ``mlp`` (ViT) or ``token_mixing`` and
    ``channel_mixing`` (Mixer) hold these parts of all blocks together, without their normalisation; ``block<i>`` is the
    i-th block, from 1, with everything in it. The classifier is in none.

    Raises:
        ConfigError: the model has neither ``blocks`` nor ``layer1``.
    """
    prefixes = _block_prefixes(model)
    if not prefixes:
        raise ConfigError("model", type(model).__name__, "a network with an attribute blocks, or layer1 to layer4")
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.split(".")[0] in EMBEDDINGS:
            found.setdefault("embedding", []).append(parameter)
        for index, prefix in enumerate(prefixes, start=1):
            if name.startswith(f"{prefix}."):
                part = MIXERS.get(name.removeprefix(f"{prefix}.").split(".")[0])
                for key in (f"block{index}", part):
                    if key is not None:
                        found.setdefault(key, []).append(parameter)
    return found


def block_lambda_max(
    model: nn.Module,
    criterion: nn.Module,
    batches: Batches,
    blocks: Mapping[str, Sequence[nn.Parameter]] | None = None,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> dict[str, Eigenvalue]:
    """Largest algebraic eigenvalue of each diagonal block; none exceeds that of the whole Hessian (interlacing).

    Args:
        model, criterion, batches, tolerance, seed: see :func:`curvature.hessian.spectrum.lambda_max`.
        blocks: parameters by name, by default :func:`parameter_blocks`.
    """
    chosen = parameter_blocks(model) if blocks is None else blocks
    return {
        name: lambda_max(model, criterion, batches, parameters, tolerance, seed) for name, parameters in chosen.items()
    }


def _block_prefixes(model: nn.Module) -> list[str]:
    stages = [name for name in ("blocks", "layer1", "layer2", "layer3", "layer4") if hasattr(model, name)]
    return [f"{stage}.{child}" for stage in stages for child, _ in getattr(model, stage).named_children()]

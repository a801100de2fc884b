"""What the class token of a vision transformer attends to."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from curvature.errors import ConfigError


@torch.no_grad()
def class_attention(model: nn.Module, images: Tensor) -> Tensor:
    """Attention of the class token to the patches in the last block, (B, heads, patches), in evaluation mode.

    Args:
        model: timm's ``VisionTransformer`` with a class token; it is not changed.
        images: (B, C, H, W).

    Returns:
        Shares; over the patches they sum to one less the class token's attention to itself.

    Raises:
        ConfigError: a model without class token.
    """
    if getattr(model, "cls_token", None) is None:
        raise ConfigError("model", type(model).__name__, "a vision transformer with a class token")
    from timm.utils import AttentionExtract

    network: Any = copy.deepcopy(model)
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    found = AttentionExtract(network, names=["*attn.attn_drop"], method="hook")(images)
    last: Tensor = list(found.values())[-1]
    return last[:, :, 0, network.num_prefix_tokens :]


def entropy(attention: Tensor) -> Tensor:
    """Entropy in nats, (...), of attention (..., patches) normalised to sum to one; log(patches) is uniform."""
    shares = attention / attention.sum(-1, keepdim=True)
    return -torch.special.xlogy(shares, shares).sum(-1)

"""ViT, MLP-Mixer and ResNet of any size, built by timm."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from curvature.errors import ConfigError

INITIALISATIONS = ("paper", "library")


def vision_transformer(
    image_shape: Sequence[int],
    num_classes: int,
    patch_size: int,
    width: int,
    depth: int,
    heads: int,
    mlp_width: int,
    pool: str = "token",
    drop_rate: float = 0.0,
    tanh_gelu: bool = True,
    initialisation: str = "paper",
    zero_head: bool = True,
    head_bias: float = 0.0,
) -> nn.Module:
    """Vision transformer (Dosovitskiy et al. 2021), pre-norm, LayerNorm epsilon 1e-6.

    Args:
        image_shape: (C, H, W) with H = W.
        num_classes: length of the logits.
        patch_size: side of a square patch; it divides H.
        width: embedding dimension.
        depth: number of blocks.
        heads: attention heads; they divide ``width``.
        mlp_width: hidden units of a block's MLP.
        pool: ``token`` classifies the class token, ``avg`` the mean over patches.
        drop_rate: dropout after the MLPs, the projections and the position embedding.
        tanh_gelu: the tanh approximation of GELU, as in the paper's code.
        initialisation: ``paper``: Xavier-uniform weights (queries, keys and values each on their own), MLP biases of
            standard deviation 1e-6, position embedding of 0.02, class token zero; ``library``: timm's.
        zero_head: the classifier's weights begin at zero.
        head_bias: every bias of the classifier at the beginning; -10 goes with the sigmoid loss.

    Raises:
        ConfigError: sizes that do not fit together.
    """
    _check_patches(image_shape, patch_size, depth)
    if heads < 1 or width % heads:
        raise ConfigError("model.heads", heads, f"a divisor of the width, {width}")
    if pool not in ("token", "avg"):
        raise ConfigError("model.pool", pool, "token or avg")
    from timm.models.vision_transformer import VisionTransformer

    network = VisionTransformer(
        img_size=image_shape[-1],
        patch_size=patch_size,
        in_chans=image_shape[0],
        num_classes=num_classes,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=mlp_width / width,
        global_pool=pool,  # type: ignore[arg-type]
        proj_drop_rate=drop_rate,
        pos_drop_rate=drop_rate,
        act_layer=_gelu(tanh_gelu),
    )
    return _initialised(network, initialisation, zero_head, head_bias)


def mlp_mixer(
    image_shape: Sequence[int],
    num_classes: int,
    patch_size: int,
    width: int,
    depth: int,
    tokens_mlp_width: int,
    channels_mlp_width: int,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    tanh_gelu: bool = True,
    initialisation: str = "paper",
    zero_head: bool = True,
    head_bias: float = 0.0,
) -> nn.Module:
    """MLP-Mixer (Tolstikhin et al. 2021), LayerNorm epsilon 1e-6; arguments as in :func:`vision_transformer`.

    Args:
        tokens_mlp_width: hidden units of the token-mixing MLPs.
        channels_mlp_width: hidden units of the channel-mixing MLPs.
        drop_path_rate: stochastic depth, the share of samples that skip a block.
    """
    _check_patches(image_shape, patch_size, depth)
    from timm.models.mlp_mixer import MlpMixer

    network = MlpMixer(
        img_size=image_shape[-1],
        patch_size=patch_size,
        in_chans=image_shape[0],
        num_classes=num_classes,
        embed_dim=width,
        num_blocks=depth,
        mlp_ratio=(tokens_mlp_width / width, channels_mlp_width / width),
        proj_drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
        act_layer=_gelu(tanh_gelu),  # type: ignore[arg-type]
    )
    return _initialised(network, initialisation, zero_head, head_bias)


def resnet(
    image_shape: Sequence[int],
    num_classes: int,
    layers: Sequence[int],
    width: int = 64,
    bottleneck: bool = True,
    small_stem: bool = False,
    zero_head: bool = False,
    channels_last: bool = False,
) -> nn.Module:
    """ResNet with batch normalisation (He et al. 2016).

    Args:
        image_shape: (C, H, W).
        num_classes: length of the logits.
        layers: residual blocks per stage, one to four stages; widths double from stage to stage.
        width: channels of the first stage; timm's stem has 64.
        bottleneck: bottleneck blocks instead of basic ones.
        small_stem: one 3x3 convolution without pooling, for small images.
        zero_head: the classifier begins at zero.
        channels_last: weights in NHWC order, which convolutions, here and with bf16 on GPUs, run faster with. The
            function is the same up to rounding.

    Raises:
        ConfigError: no stages or too many.
    """
    if not 1 <= len(layers) <= 4:
        raise ConfigError("model.layers", list(layers), "one to four stages")
    from timm.models.resnet import BasicBlock, Bottleneck, ResNet

    network: Any = ResNet(
        Bottleneck if bottleneck else BasicBlock,  # type: ignore[arg-type]
        tuple(layers),
        num_classes=num_classes,
        in_chans=image_shape[0],
        channels=tuple(width * 2**stage for stage in range(len(layers))),
    )
    for stage in range(len(layers) + 1, 5):
        network.add_module(f"layer{stage}", nn.Sequential())
    if small_stem:
        network.conv1 = nn.Conv2d(image_shape[0], network.bn1.num_features, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    if zero_head:
        nn.init.zeros_(network.fc.weight)
        nn.init.zeros_(network.fc.bias)
    result: nn.Module = network.to(memory_format=torch.channels_last) if channels_last else network
    return result


def vgg16_bn(image_shape: Sequence[int], num_classes: int) -> nn.Module:
    """VGG-16 with batch normalisation and a single linear layer, as is usual for 32x32 images.

    Args:
        image_shape: (3, H, W), H and W multiples of 32.
        num_classes: length of the logits.

    Raises:
        ConfigError: other channels or sizes.
    """
    channels, height, width = image_shape
    if channels != 3 or height % 32 or width % 32:
        raise ConfigError("data.image_shape", list(image_shape), "three channels, height and width multiples of 32")
    from torchvision.models import vgg16_bn as whole

    features = whole(num_classes=1).features
    return nn.Sequential(features, nn.Flatten(), nn.Linear(512 * (height // 32) * (width // 32), num_classes))


def parameter_count(build: Callable[[], nn.Module]) -> int:
    """Number of parameters of what ``build`` returns, without allocating them."""
    import torch

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


def _check_patches(image_shape: Sequence[int], patch_size: int, depth: int) -> None:
    side = image_shape[-1]
    if image_shape[-2] != side:
        raise ConfigError("data.image_shape", list(image_shape), "square images")
    if patch_size < 1 or side % patch_size:
        raise ConfigError("model.patch_size", patch_size, f"a divisor of the image's side, {side}")
    if depth < 1:
        raise ConfigError("model.depth", depth, "an integer >= 1")


def _gelu(tanh: bool) -> Callable[[], nn.Module]:
    return lambda: nn.GELU(approximate="tanh" if tanh else "none")


def _initialised(network: Any, initialisation: str, zero_head: bool, head_bias: float) -> nn.Module:
    if initialisation not in INITIALISATIONS:
        raise ConfigError("model.initialisation", initialisation, f"one of {', '.join(INITIALISATIONS)}")
    if initialisation == "paper":
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Linear):
                # timm keeps queries, keys and values in one matrix, whose height would enter Xavier's bound.
                for part in layer.weight.chunk(3 if name.endswith("attn.qkv") else 1):
                    nn.init.xavier_uniform_(part)
                if layer.bias is not None:
                    inside_mlp = "mlp" in name
                    nn.init.normal_(layer.bias, std=1e-6) if inside_mlp else nn.init.zeros_(layer.bias)
        if getattr(network, "cls_token", None) is not None:
            nn.init.zeros_(network.cls_token)
        if getattr(network, "pos_embed", None) is not None:
            nn.init.normal_(network.pos_embed, std=0.02)
    if zero_head:
        nn.init.zeros_(network.head.weight)
    if zero_head or head_bias:
        nn.init.constant_(network.head.bias, head_bias)
    result: nn.Module = network
    return result

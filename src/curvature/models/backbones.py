"""Feature extractors from timm, without their classifiers."""

from typing import Any

from torch import nn

from curvature.errors import ConfigError


def timm_backbone(name: str, drop_path_rate: float = 0.0, image_size: int | None = None) -> nn.Module:
    """A timm network with random weights that maps images (B, 3, H, W) to pooled features (B, n).

    Args:
        name: of a timm architecture, e.g. ``resnet50d``.
        drop_path_rate: stochastic depth, in [0, 1).
        image_size: H = W, for architectures that are built for one size; None is timm's default.

    Raises:
        ConfigError: timm does not know ``name``.
    """
    import timm

    if not timm.is_model(name):
        hint = timm.list_models(f"*{name[:6]}*")[:5] or ["a name of timm.list_models()"]
        raise ConfigError("model.backbone.name", name, f"an architecture of timm, e.g. {', '.join(hint)}")
    options: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    if drop_path_rate:
        options["drop_path_rate"] = drop_path_rate
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **options)
    return network

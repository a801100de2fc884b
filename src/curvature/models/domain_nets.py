"""Networks of the domain-generalisation papers: features and a linear head, with the features at hand."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from curvature.errors import ConfigError
from curvature.models.mlp import MLP, HeadedNetwork


def headed_mlp(widths: Sequence[int], num_classes: int = 1) -> HeadedNetwork:
    """ReLU network of ``widths`` from the flattened input to the features, Xavier-uniform weights and zero biases.

    Args:
        widths: e.g. [392, 390, 390] for Colored MNIST at 14x14.
        num_classes: logits; 1 makes a logistic head.

    Raises:
        ConfigError: ``num_classes`` is below 1.
    """
    if num_classes < 1:
        raise ConfigError("model.num_classes", num_classes, "an integer >= 1")
    network = HeadedNetwork(MLP(widths, batch_norm=False), nn.Linear, widths[-1], num_classes)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return network


class ConvFeatures(nn.Sequential):
    """DomainBed's features for small images: four 3x3 convolutions, each with ReLU and then group normalisation.

    Args:
        channels: of the input (B, channels, H, W).
        width: w; the layers have w, 2w (stride 2), 2w and 2w channels; w = 64 in DomainBed. Output (B, 2w).

    Raises:
        ConfigError: a ``width`` that is no multiple of 8.
    """

    def __init__(self, channels: int, width: int = 64) -> None:
        if width % 8:
            raise ConfigError("model.width", width, "a multiple of 8, the number of groups")
        layers: list[nn.Module] = []
        sizes = [(channels, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 1), (2 * width, 2 * width, 1)]
        for fan_in, fan_out, stride in sizes:
            layers += [nn.Conv2d(fan_in, fan_out, 3, stride, padding=1), nn.ReLU(), nn.GroupNorm(8, fan_out)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def headed_cnn(channels: int, num_classes: int, width: int = 64) -> HeadedNetwork:
    """:class:`ConvFeatures` with a linear head on its 2 * width features."""
    return HeadedNetwork(ConvFeatures(channels, width), nn.Linear, 2 * width, num_classes)


class FrozenNormFeatures(nn.Module):
    """Features of a timm network whose batch normalisation stays in evaluation mode, as in DomainBed's tables.

    Args:
        name: timm model.
        pretrained: load its weights.
        dropout: of the features.
    """

    def __init__(self, name: str = "resnet50", pretrained: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        import timm

        self.body = timm.create_model(name, pretrained=pretrained, num_classes=0)
        self.num_features: int = self.body.num_features  # type: ignore[assignment]
        self.dropout = nn.Dropout(dropout)

    def train(self, mode: bool = True) -> "FrozenNormFeatures":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        features: Tensor = self.dropout(self.body(inputs))
        return features


def headed_timm(name: str, num_classes: int, pretrained: bool = True, dropout: float = 0.0) -> HeadedNetwork:
    """A timm network without its classifier, batch normalisation frozen, and a linear head."""
    backbone = FrozenNormFeatures(name, pretrained, dropout)
    return HeadedNetwork(backbone, nn.Linear, backbone.num_features, num_classes)


def head_parameters(network: HeadedNetwork) -> Tensor:
    """[W, b] of the linear head, (C, d + 1), detached."""
    head = network.head
    assert isinstance(head, nn.Linear)
    return torch.cat([head.weight, head.bias.unsqueeze(1)], dim=1).detach()

"""Fully connected networks, and networks made of a feature extractor and a head."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from curvature.errors import ConfigError


class MLP(nn.Sequential):
    """Linear layers with batch normalisation and ReLU after each, the last one included; inputs are flattened.

    Args:
        widths: sizes from input to output, at least two; (B, widths[0]) or (B, ..., ...) becomes (B, widths[-1]).
        batch_norm: normalise before each ReLU.
        activate_output: ReLU (and normalisation) after the last layer too, as for features of a ResNet.

    Raises:
        ConfigError: fewer than two widths, or one below 1.
    """

    def __init__(self, widths: Sequence[int], batch_norm: bool = True, activate_output: bool = True) -> None:
        if len(widths) < 2 or min(widths) < 1:
            raise ConfigError("model.widths", list(widths), "at least two positive integers")
        layers: list[nn.Module] = [nn.Flatten()]
        for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
            layers.append(nn.Linear(fan_in, fan_out, bias=not batch_norm))
            if index < len(widths) - 2 or activate_output:
                layers += [nn.BatchNorm1d(fan_out)] if batch_norm else []
                layers.append(nn.ReLU())
        super().__init__(*layers)


class HeadedNetwork(nn.Module):
    """``head(backbone(x))``, with the features in between at hand.

    Args:
        backbone: maps inputs to features (B, in_features).
        head: factory ``head(in_features, num_classes)``, e.g. a partial of
            :class:`curvature.models.heads.GrassmannHead`.
        in_features: length of a feature vector.
        num_classes: number of classes.

    Raises:
        ConfigError: a timm backbone whose features have another length.
    """

    def __init__(
        self, backbone: nn.Module, head: Callable[[int, int], nn.Module], in_features: int, num_classes: int
    ) -> None:
        super().__init__()
        length = getattr(backbone, "head_hidden_size", getattr(backbone, "num_features", in_features))
        if length != in_features:
            raise ConfigError("model.in_features", in_features, f"{length}, the features of the backbone")
        self.backbone = backbone
        self.head = head(in_features, num_classes)

    def features(self, inputs: Tensor) -> Tensor:
        """Features (B, in_features) that the head classifies."""
        features: Tensor = self.backbone(inputs)
        return features

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(inputs))
        return logits

"""Networks that end in a linear classifier on logarithms of positive definite matrices."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from curvature.errors import ConfigError
from curvature.models.spdnet.layers import BiMap, Covariance, LogEig, ReEig, Vech

Norm = Callable[[int], nn.Module]


class SPDNet(nn.Sequential):
    """BiMap, normalisation, ReEig for every change of size; then LogEig and a linear layer (Huang and Van Gool 2017).

    Inputs are (B, n, n) or (B, 1, n, n).

    Args:
        sizes: of the matrices, from the input's on; at least two, none larger than the one before.
        num_classes: number of logits.
        norm: factory of a normalisation layer, called with its size; None leaves it out.
        rectify: threshold of ReEig.
        vectorise: ``full`` flattens the logarithm to n^2 entries, ``vech`` takes its lower triangle.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        num_classes: int,
        norm: Norm | None = None,
        rectify: float = 1e-4,
        vectorise: str = "vech",
    ) -> None:
        if len(sizes) < 2:
            raise ConfigError("model.sizes", list(sizes), "at least two sizes")
        if vectorise not in ("full", "vech"):
            raise ConfigError("model.vectorise", vectorise, "full or vech")
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers.append(BiMap(before, after))
            if norm is not None:
                layers.append(norm(after))
            layers.append(ReEig(rectify))
        n = sizes[-1]
        vector = Vech() if vectorise == "vech" else nn.Identity()
        width = n * (n + 1) // 2 if vectorise == "vech" else n**2
        super().__init__(*layers, LogEig(), vector, nn.Flatten(1), nn.Linear(width, num_classes).double())


class EEGSPDNet(nn.Module):
    """Spatial and temporal convolutions, a covariance, and an SPDNet, for EEG (B, 1, electrodes, T).

    The network of the MAMEM experiment: 8 electrodes -> ``filters`` spatial filters -> 15 temporal filters of 36
    samples -> covariance 15 x 15 -> 12 x 12. Convolutions run in float32, the rest in float64.

    Args:
        num_classes: number of logits.
        norm: as in :class:`SPDNet`.
        electrodes: rows of a signal.
        filters: spatial filters; 125 in the paper's code.
        signals: temporal filters, hence size of the covariance.
        kernel: length of a temporal filter, in samples.
        size: size of the matrices after the BiMap.
        rectify: threshold of ReEig.
        ridge: added to the diagonal of the covariance.
    """

    def __init__(
        self,
        num_classes: int,
        norm: Norm | None = None,
        electrodes: int = 8,
        filters: int = 125,
        signals: int = 15,
        kernel: int = 36,
        size: int = 12,
        rectify: float = 1e-5,
        ridge: float = 1e-5,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, filters, (electrodes, 1)),
            nn.BatchNorm2d(filters),
            nn.Conv2d(filters, signals, (1, kernel), padding=(0, kernel // 2)),
            nn.BatchNorm2d(signals),
        )
        self.covariance = Covariance(ridge)
        self.classifier = SPDNet([signals, size], num_classes, norm, rectify, "full")

    def forward(self, signals: Tensor) -> Tensor:
        features = self.features(signals.float()).squeeze(2)
        logits: Tensor = self.classifier(self.covariance(features))
        return logits

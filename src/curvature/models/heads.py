"""Classification heads that end a network: features (B, n) to logits (B, C)."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curvature.errors import ConfigError
from curvature.geometry import grassmann


class GrassmannHead(nn.Module):
    """Class c is a k-dimensional subspace S_c and its logit is scale * ||S_c^T x/||x|| || (Wang et al., ICCV 2023).

    ``subspaces`` (C, n, k) is stored with orthonormal columns; train it with
    :class:`curvature.optim.riemannian_sgd.RiemannianSGD` and never with weight decay. All logits of a batch come from
    one matrix product of width C * k. Computed in float32 also under autocast.

    Args:
        in_features: n, length of a feature vector.
        num_classes: C.
        subspace_dim: k, 1 <= k <= n.
        scale: logits lie in [0, scale].
        normalise: use x/||x||; otherwise the logit is scale * ||S_c^T x||, which is not bounded.

    Raises:
        ConfigError: ``subspace_dim`` is not between 1 and ``in_features``, or ``scale`` is not positive.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        subspace_dim: int = 8,
        scale: float = 25.0,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        if not 1 <= subspace_dim <= in_features:
            raise ConfigError("model.head.subspace_dim", subspace_dim, f"an integer from 1 to {in_features}")
        if not scale > 0:
            raise ConfigError("model.head.scale", scale, "a number > 0")
        self.in_features, self.num_classes, self.subspace_dim = in_features, num_classes, subspace_dim
        self.scale, self.normalise = scale, normalise
        start = grassmann.random_point(num_classes, in_features, subspace_dim)
        self.subspaces = nn.Parameter(grassmann.column_major(start))

    def forward(self, features: Tensor) -> Tensor:
        device = features.device.type if features.device.type != "meta" else "cpu"
        with torch.autocast(device_type=device, enabled=False):
            features = features.to(self.subspaces.dtype)
            if self.normalise:
                features = F.normalize(features, dim=-1)
            # Columns are contiguous, so this (C * k, n) matrix is the parameter itself, not a copy.
            rows = self.subspaces.mT.reshape(-1, self.in_features)
            coordinates = F.linear(features, rows).unflatten(-1, (self.num_classes, self.subspace_dim))
            return self.scale * torch.linalg.vector_norm(coordinates, dim=-1)

    @torch.no_grad()
    def set_to_principal(self, features: Tensor, labels: Tensor) -> None:
        """Make S_c the span of the k leading right singular vectors of the features of class c (CLAFIC, Watanabe 1973).

        Args:
            features: (N, n); rows are normalised first where the head does so.
            labels: (N,), at least k examples of every class.

        Raises:
            ConfigError: a class has fewer than k examples.
        """
        if self.normalise:
            features = F.normalize(features, dim=-1)
        for label in range(self.num_classes):
            members = features[labels == label]
            if len(members) < self.subspace_dim:
                allowed = f"at most {len(members)}, the number of examples of class {label}"
                raise ConfigError("model.head.subspace_dim", self.subspace_dim, allowed)
            basis = torch.linalg.svd(members, full_matrices=False).Vh[: self.subspace_dim]
            self.subspaces[label].copy_(basis.mT)

    def extra_repr(self) -> str:
        return f"n={self.in_features}, C={self.num_classes}, k={self.subspace_dim}, scale={self.scale}"


class CosineHead(nn.Module):
    """logit_c = scale * cos(w_c, x): a Grassmann head with k = 1 but for the sign of the cosine.

    Args:
        in_features: length of a feature vector.
        num_classes: number of classes.
        scale: logits lie in [-scale, scale].
    """

    def __init__(self, in_features: int, num_classes: int, scale: float = 25.0) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(F.normalize(torch.randn(num_classes, in_features), dim=-1))

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(features, dim=-1), F.normalize(self.weight, dim=-1))


class DropoutHead(nn.Sequential):
    """Dropout, then a linear layer.

    Args:
        in_features: length of a feature vector.
        num_classes: number of classes.
        rate: share of features that are dropped in training.
    """

    def __init__(self, in_features: int, num_classes: int, rate: float = 0.5) -> None:
        super().__init__(nn.Dropout(rate), nn.Linear(in_features, num_classes))


class MultiLinearHead(nn.Module):
    """Several linear classifiers whose class probabilities are averaged; the logits are log-probabilities.

    Args:
        in_features: length of a feature vector.
        num_classes: number of classes.
        branches: number of linear classifiers, at least 1.

    Raises:
        ConfigError: ``branches`` is below 1.
    """

    def __init__(self, in_features: int, num_classes: int, branches: int = 8) -> None:
        super().__init__()
        if branches < 1:
            raise ConfigError("model.head.branches", branches, "an integer >= 1")
        self.num_classes, self.branches = num_classes, branches
        self.linear = nn.Linear(in_features, branches * num_classes)

    def forward(self, features: Tensor) -> Tensor:
        logits = self.linear(features).unflatten(-1, (self.branches, self.num_classes))
        return torch.logsumexp(F.log_softmax(logits, dim=-1), dim=-2) - math.log(self.branches)


class MetricHead(nn.Module):
    """A classification loss of pytorch-metric-learning with its class weights, as a head.

    ``forward`` gives the logits without margin, for prediction; training minimises :meth:`loss`, given the labels.

    Args:
        in_features: length of a feature vector.
        num_classes: number of classes.
        loss: factory taking ``num_classes`` and ``embedding_size``, e.g. a partial of
            ``pytorch_metric_learning.losses.ArcFaceLoss``.

    Raises:
        ConfigError: the loss cannot be built, or does not give logits.
    """

    def __init__(self, in_features: int, num_classes: int, loss: Callable[..., Any]) -> None:
        super().__init__()
        try:
            self.metric: Any = loss(num_classes=num_classes, embedding_size=in_features)
            with torch.no_grad():
                self.forward(torch.zeros(1, in_features))
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError("model.head.loss", loss, f"a loss that gives logits; {error}") from error

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.metric.get_logits(features)
        return logits

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of features (B, n) and labels (B,), with the margin."""
        loss: Tensor = self.metric(features, labels)
        return loss

"""Classification heads that end a network: features (B, n) to logits (B, C)."""

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

    Raises:
        ConfigError: ``subspace_dim`` is not between 1 and ``in_features``.
    """

    def __init__(self, in_features: int, num_classes: int, subspace_dim: int = 8, scale: float = 25.0) -> None:
        super().__init__()
        if not 1 <= subspace_dim <= in_features:
            raise ConfigError("model.head.subspace_dim", subspace_dim, f"an integer from 1 to {in_features}")
        self.in_features, self.num_classes, self.subspace_dim = in_features, num_classes, subspace_dim
        self.scale = scale
        self.subspaces = nn.Parameter(grassmann.random_point(num_classes, in_features, subspace_dim))

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(device_type=features.device.type, enabled=False):
            unit = F.normalize(features.to(self.subspaces.dtype), dim=-1)
            flat = self.subspaces.permute(1, 0, 2).reshape(self.in_features, -1)
            coordinates = (unit @ flat).unflatten(-1, (self.num_classes, self.subspace_dim))
            return self.scale * torch.linalg.vector_norm(coordinates, dim=-1)

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

"""The two small nets of Wu & Su (ICML 2023), in float64, with their initial distributions."""

import math

import torch
from torch import Tensor, nn

from curvature.errors import ConfigError
from curvature.stability.diagonal import DiagonalFamily
from curvature.stability.relu import ReLUFamily


class DiagonalLinearNet(nn.Module):
    """``f(x) = <a * b, x>`` with elementwise product.

    Args:
        dim: number of inputs.
        imbalance: None draws all entries of a and b from N(0, 1). A number r >= 1 draws a from N(0, 0.1) (variance) and
            sets ``b = c s a`` with random signs s and ``c = r + sqrt(r^2 - 1)``, for which
            ``sum(a^2 + b^2) / (2 sum |a b|)`` is exactly r.
        generator: source of the entries; torch's global one by default.

    Raises:
        ConfigError: no inputs, or an imbalance below 1.
    """

    def __init__(
        self, dim: int = 1000, imbalance: float | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if dim < 1:
            raise ConfigError("model.dim", dim, "at least 1")
        if imbalance is not None and not imbalance >= 1:
            raise ConfigError("model.imbalance", imbalance, "at least 1, or null")
        a, b = torch.randn(2, dim, generator=generator, dtype=torch.float64)
        if imbalance is not None:
            a = a * math.sqrt(0.1)
            b = (imbalance + math.sqrt(imbalance**2 - 1)) * torch.where(b < 0, -a, a)
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (n, dim) to outputs (n,)."""
        return inputs @ (self.a * self.b)

    @property
    def family(self) -> DiagonalFamily:
        """Closed forms to train many replicas of this net at once."""
        return DiagonalFamily()


class TwoLayerReLUNet(nn.Module):
    """``f(x) = sum_j a_j relu(w_j . x)`` without biases; a_j from N(0, 1), w_j from N(0, I / sqrt(dim)) (variance).

    Args:
        dim: number of inputs.
        width: number of hidden units.
        generator: source of the weights; torch's global one by default.

    Raises:
        ConfigError: no inputs or no units.
    """

    def __init__(self, dim: int = 100, width: int = 100, generator: torch.Generator | None = None) -> None:
        super().__init__()
        for name, value in {"dim": dim, "width": width}.items():
            if value < 1:
                raise ConfigError(f"model.{name}", value, "at least 1")
        self.a = nn.Parameter(torch.randn(width, generator=generator, dtype=torch.float64))
        self.w = nn.Parameter(torch.randn(width, dim, generator=generator, dtype=torch.float64) / dim**0.25)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (n, dim) to outputs (n,)."""
        return torch.relu(inputs @ self.w.T) @ self.a

    @property
    def family(self) -> ReLUFamily:
        """Closed forms to train many replicas of this net at once."""
        return ReLUFamily()

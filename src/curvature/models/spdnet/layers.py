"""Layers on symmetric positive definite matrices (Huang and Van Gool, A Riemannian Network for SPD Matrix Learning,
2017)."""

import geoopt
import torch
from torch import Tensor, nn

from curvature.errors import ConfigError
from curvature.geometry.spd import matrix_log, rectify, sym


class BiMap(nn.Module):
    """X -> sum over input channels of W^T X W with W on the Stiefel manifold.

    ``weight`` (h_out, h_in, n_in, n_out) is a ``geoopt.ManifoldParameter``: train it with a Riemannian optimiser.

    Args:
        in_features: n_in, size of the incoming matrices.
        out_features: n_out, 1 <= n_out <= n_in.
        in_channels, out_channels: h_in and h_out, default 1.

    Raises:
        ConfigError: sizes or channels that cannot be.
    """

    def __init__(self, in_features: int, out_features: int, in_channels: int = 1, out_channels: int = 1) -> None:
        super().__init__()
        if not 1 <= out_features <= in_features:
            raise ConfigError("model.sizes", [in_features, out_features], "sizes >= 1 that do not grow")
        if min(in_channels, out_channels) < 1:
            raise ConfigError("model.channels", [in_channels, out_channels], "numbers of channels >= 1")
        shape = out_channels, in_channels, in_features, out_features
        start = torch.linalg.qr(torch.randn(shape, dtype=torch.float64))[0]
        self.weight = geoopt.ManifoldParameter(start, manifold=geoopt.Stiefel(canonical=False))

    def forward(self, X: Tensor) -> Tensor:
        """(B, h_in, n_in, n_in) to (B, h_out, n_out, n_out); without channel dimension where h_in = h_out = 1."""
        weight = self.weight
        if weight.shape[:2] == (1, 1):
            W = weight[0, 0]
            return sym(W.mT @ X @ W)
        products = weight.mT @ X.unsqueeze(1) @ weight
        return sym(products.sum(2))

    def extra_repr(self) -> str:
        h_out, h_in, n_in, n_out = self.weight.shape
        return f"{n_in} -> {n_out}, channels {h_in} -> {h_out}"


class ReEig(nn.Module):
    """Eigenvalues of symmetric (..., n, n) below ``threshold`` are raised to it.

    Args:
        threshold: > 0, default 1e-4.

    Raises:
        ConfigError: a ``threshold`` that is not above 0.
    """

    def __init__(self, threshold: float = 1e-4) -> None:
        super().__init__()
        if not threshold > 0:
            raise ConfigError("model.rectify", threshold, "a number > 0")
        self.threshold = threshold

    def forward(self, X: Tensor) -> Tensor:
        return rectify(X, self.threshold)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}"


class LogEig(nn.Module):
    """X -> log X, (..., n, n) symmetric."""

    def forward(self, X: Tensor) -> Tensor:
        return matrix_log(X)


class Vech(nn.Module):
    """Symmetric (..., n, n) to vectors (..., n (n + 1) / 2) of equal norm: off-diagonal entries are times sqrt 2."""

    def forward(self, X: Tensor) -> Tensor:
        n = X.shape[-1]
        rows, columns = torch.tril_indices(n, n, device=X.device)
        weights = 1 + (2**0.5 - 1) * (rows != columns).to(X.dtype)
        return X[..., rows, columns] * weights


class Covariance(nn.Module):
    """Signals (B, ..., n, T) to their covariances in float64, plus ``ridge`` times the identity.

    Args:
        ridge: >= 0, default 1e-5.

    Raises:
        ConfigError: a negative ``ridge``.
    """

    def __init__(self, ridge: float = 1e-5) -> None:
        super().__init__()
        if ridge < 0:
            raise ConfigError("model.ridge", ridge, "a number >= 0")
        self.ridge = ridge

    def forward(self, signals: Tensor) -> Tensor:
        centred = signals.double()
        centred = centred - centred.mean(-1, keepdim=True)
        covariance = centred @ centred.mT / (signals.shape[-1] - 1)
        return covariance + self.ridge * torch.eye(signals.shape[-2], dtype=torch.float64, device=signals.device)

"""Riemannian residual network on positive definite matrices (Katsman et al. 2023), as used for skeletons."""

import geoopt
import torch
from torch import Tensor, nn

from curvature.geometry.spd import affine_invariant, rectify, sym
from curvature.geometry.spd.spectral import eigenvalues, sandwich
from curvature.models.spdnet.layers import BiMap, LogEig
from curvature.models.spdnet.networks import Norm

LEAST, MOST = 1e-8, 1e8


class SPDResNet(nn.Module):
    """x = norm(BiMap(X)); x <- Exp_x(V / ||V||_x) with V = Q diag(f(eigenvalues of x)) Q^T; LogEig; linear.

    f is a small convolutional net along the ascending spectrum, Q a learned orthogonal matrix; norm and exponential are
    affine-invariant. Eigenvalues are clamped to [1e-8, 1e8] before the logarithm.

    Args:
        size: n of the input, (B, n, n) or (B, 1, n, n).
        hidden: size after the BiMap.
        num_classes: number of logits.
        norm: factory of a normalisation layer, called with ``hidden``; None leaves it out.
    """

    def __init__(self, size: int, hidden: int, num_classes: int, norm: Norm | None = None) -> None:
        super().__init__()
        self.bimap = BiMap(size, hidden)
        self.norm = norm(hidden) if norm is not None else nn.Identity()
        self.spectrum = nn.Sequential(
            nn.Conv1d(1, 3, 5, padding="same"),
            nn.LeakyReLU(),
            nn.BatchNorm1d(3),
            nn.Conv1d(3, 3, 5, padding="same"),
            nn.LeakyReLU(),
            nn.BatchNorm1d(3),
            nn.Conv1d(3, 1, 5, padding="same"),
        ).double()
        start = torch.linalg.qr(torch.randn(hidden, hidden, dtype=torch.float64))[0]
        self.axes = geoopt.ManifoldParameter(start, manifold=geoopt.Stiefel(canonical=False))
        self.logarithm = LogEig()
        self.linear = nn.Linear(hidden**2, num_classes).double()

    def forward(self, X: Tensor) -> Tensor:
        x = self.norm(self.bimap(X.reshape(-1, *X.shape[-2:])))
        field = self.spectrum(eigenvalues(x).unsqueeze(1)).squeeze(1)
        V = sym(sandwich(self.axes, field))
        length = affine_invariant.inner(x, V, V).clamp_min(1e-24).sqrt()
        x = affine_invariant.exp(x, V / length[:, None, None])
        logs = self.logarithm(rectify(x, LEAST, MOST))
        logits: Tensor = self.linear(logs.flatten(1))
        return logits

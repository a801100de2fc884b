"""Covariance matrices for classification: synthetic ones of chosen conditioning, and region covariances of digits."""

from dataclasses import dataclass

import torch
from torch import Tensor

SIGNAL_VARIANCES = (1.0, 0.6, 0.35, 0.2)
OBSERVATIONS = 20
ROTATION = 0.35


@dataclass(frozen=True)
class NuisanceFamily:
    """Classes that differ in the orientation of a few strong directions, among many weak directions of pure nuisance.

    In one orthogonal basis shared by all, the first block is the sample covariance of 20 draws with variances
    1, 0.6, 0.35, 0.2 along axes that depend on the class; the other block has Haar random axes and eigenvalues 10^u,
    with u uniform in ``exponents``, drawn anew for every matrix. Exponents around -6 make the matrices ill-conditioned.

    Args:
        n: size of the matrices, > 4.
        classes: number of classes.
        exponents: range of u.
        seed: of the basis and the classes' axes.
    """

    n: int
    classes: int
    exponents: tuple[float, float]
    seed: int

    def sample(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """``count`` matrices (count, n, n) in float64 with labels (count,), classes in turn."""
        basis, axes = self._family()
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % self.classes
        k = len(SIGNAL_VARIANCES)
        draws = _normal(generator, count, k, OBSERVATIONS)
        signal = axes[labels] @ (torch.tensor(SIGNAL_VARIANCES, dtype=torch.float64).sqrt()[:, None] * draws)
        weak = self.n - k
        low, high = self.exponents
        uniform = torch.rand(count, weak, dtype=torch.float64, generator=generator)
        orientation = haar(generator, count, weak)
        X = torch.zeros(count, self.n, self.n, dtype=torch.float64)
        X[:, :k, :k] = signal @ signal.mT / OBSERVATIONS
        X[:, k:, k:] = (orientation * (10.0 ** (low + (high - low) * uniform)).unsqueeze(-2)) @ orientation.mT
        X = basis @ X @ basis.mT
        return (X + X.mT) / 2, labels

    def _family(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        basis = haar(generator, 1, self.n)[0]
        generators = ROTATION * _normal(generator, self.classes, len(SIGNAL_VARIANCES), len(SIGNAL_VARIANCES))
        return basis, torch.linalg.matrix_exp(generators - generators.mT)


def haar(generator: torch.Generator, count: int, n: int) -> Tensor:
    """Haar-uniform orthogonal matrices (count, n, n): QR of normal matrices with the signs of R's diagonal."""
    Q, R = torch.linalg.qr(_normal(generator, count, n, n))
    signs: Tensor = Q * R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    return signs


def region_covariances(images: Tensor, ridge: float = 1e-7) -> Tensor:
    """Covariances of 17 features of the pixels of each image (Tuzel, Porikli and Meer 2006), in float64.

    With I the intensity, x and y in [-1, 1] and central differences with zero padding: x, y, I, Ix, Iy, Ixx, Iyy, xI,
    yI, xyI, x^2 I, y^2 I, I^2, x Ix, y Iy, y Ix, x Iy.

    Args:
        images: (N, H, W).
        ridge: times the identity, added.

    Returns:
        (N, 17, 17).
    """
    intensity = images.double()
    height, width = intensity.shape[-2:]
    y = torch.linspace(-1, 1, height, dtype=torch.float64)[:, None].expand_as(intensity)
    x = torch.linspace(-1, 1, width, dtype=torch.float64)[None, :].expand_as(intensity)
    padded = torch.nn.functional.pad(intensity, (1, 1, 1, 1))
    left, right = padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]
    up, down = padded[:, :-2, 1:-1], padded[:, 2:, 1:-1]
    dx, dy = (right - left) / 2, (down - up) / 2
    dxx, dyy = right + left - 2 * intensity, down + up - 2 * intensity
    moments = [x * intensity, y * intensity, x * y * intensity, x**2 * intensity, y**2 * intensity, intensity**2]
    features = [x, y, intensity, dx, dy, dxx, dyy, *moments, x * dx, y * dy, y * dx, x * dy]
    return covariances(torch.stack(features, 1).flatten(2), ridge)


def covariances(signals: Tensor, ridge: float) -> Tensor:
    """Unbiased covariances (N, n, n) over the T observations of (N, n, T), plus ``ridge`` times the identity."""
    centred = signals - signals.mean(-1, keepdim=True)
    matrices = centred @ centred.mT / (signals.shape[-1] - 1)
    return matrices + ridge * torch.eye(signals.shape[-2], dtype=signals.dtype)


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator)

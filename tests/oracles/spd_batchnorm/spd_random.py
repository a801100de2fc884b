"""Random symmetric positive definite matrices for the tests of this folder."""

import torch
from torch import Tensor


def orthogonal(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator))[0]


def spd(*shape: int, low: float = 0.5, high: float = 2.0, seed: int = 0) -> Tensor:
    """(*shape, n, n) with log-uniform eigenvalues in [low, high] and Haar eigenvectors; the last of ``shape`` is n."""
    generator = torch.Generator().manual_seed(seed)
    *batch, n = shape
    vectors = torch.linalg.qr(torch.randn(*batch, n, n, dtype=torch.float64, generator=generator))[0]
    uniform = torch.rand(*batch, n, dtype=torch.float64, generator=generator)
    values = low * (high / low) ** uniform
    return (vectors * values.unsqueeze(-2)) @ vectors.mT


def symmetric(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(*shape, shape[-1], dtype=torch.float64, generator=generator)
    return scale * (matrix + matrix.mT) / 2

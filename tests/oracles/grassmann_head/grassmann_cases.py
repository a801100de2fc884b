"""A small Grassmann head in float64 and a batch for it."""

import torch

from curvature.geometry import grassmann
from curvature.models.heads import GrassmannHead


def make(n, classes, k):
    """A float64 head whose bases are orthonormal to float64 accuracy."""
    head = GrassmannHead(n, classes, subspace_dim=k).double()
    head.subspaces.data, _ = grassmann.reorthonormalise(head.subspaces.data)
    return head


def batch(n=10, size=16):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(size, n, dtype=torch.float64, generator=generator)
    return features, torch.randint(0, 6, (size,), generator=generator)

"""Image features for Frechet distances where Inception features make no sense: those of a small classifier."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class FeatureNet(nn.Module):
    """Penultimate features of an MLP, as ``torchmetrics.image.FrechetInceptionDistance`` takes them.

    Args:
        image_shape: (C, H, W).
        num_classes: number of classes.
        widths: of the hidden layers; the last is the number of features.
    """

    def __init__(self, image_shape: Sequence[int], num_classes: int, widths: Sequence[int] = (128, 32)) -> None:
        super().__init__()
        sizes = [int(torch.tensor(list(image_shape)).prod()), *widths]
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(sizes[-1], num_classes)
        self.num_features = sizes[-1]

    def forward(self, images: Tensor) -> Tensor:
        """(B, num_features) of images (B, C, H, W)."""
        features: Tensor = self.body(images)
        return features


def fit_features(
    net: FeatureNet, images: Tensor, labels: Tensor, steps: int = 1500, batch_size: int = 128, noise: float = 0.2
) -> FeatureNet:
    """Train ``net`` by AdamW on images with Gaussian noise added; batches and noise are always the same ones.

    Args:
        net: trained in place and returned in evaluation mode, without gradients.
        images: (N, C, H, W).
        labels: (N,).
        steps: optimiser steps.
        batch_size: images a step.
        noise: standard deviation of the noise.
    """
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (batch_size,), generator=generator)
        batch = images[rows] + noise * torch.randn(images[rows].shape, generator=generator)
        loss = nn.functional.cross_entropy(net.head(net(batch)), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.requires_grad_(False).eval()

"""scikit-learn's 1,797 handwritten digits, 8x8: real images that need no download."""

from typing import Any

import torch

from curvature.data.classification import ClassificationDataModule, Examples


class DigitsDataModule(ClassificationDataModule):
    """Digits scaled to [-1, 1]; the last ``held_out`` images of the fixed permutation are the test split.

    Args:
        held_out: number of test images.
        **options: see :class:`curvature.data.classification.ClassificationDataModule`.
    """

    def __init__(self, held_out: int = 1000, **options: Any) -> None:
        super().__init__(**options)
        self.held_out = held_out

    def load(self) -> dict[str, Examples]:
        from sklearn.datasets import load_digits

        source = load_digits()
        images = torch.from_numpy(source.images).float().unsqueeze(1) / 8.0 - 1.0
        labels = torch.from_numpy(source.target).long()
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(self.seed))
        images, labels = images[order], labels[order]
        split = len(labels) - self.held_out
        return {"train": (images[:split], labels[:split]), "test": (images[split:], labels[split:])}

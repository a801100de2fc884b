"""scikit-learn's 1,797 handwritten digits, 8x8: real images that need no download."""

from typing import Any

from curvature.data.augment import Augmentation
from curvature.data.classification import ClassificationDataModule
from curvature.data.sources import Source, TensorSource
from curvature.data.splits import Size


class DigitsDataModule(ClassificationDataModule):
    """Digits with pixels scaled from [0, 16] to [-1, 1]; test and validation images are held out by size.

    Args:
        test_size: number of test images, the last of the fixed permutation.
        augmentation: of training batches, on pixels in [-1, 1]; None does not augment.
        **options: see :class:`curvature.data.classification.ClassificationDataModule`.
    """

    def __init__(self, test_size: Size = 1000, augmentation: Augmentation | None = None, **options: Any) -> None:
        super().__init__(test_size=test_size, **options)
        self.augmentation = augmentation

    def load(self) -> dict[str, Source]:
        import torch
        from sklearn.datasets import load_digits

        source = load_digits()
        images = torch.from_numpy(source.images).float().unsqueeze(1) / 8.0 - 1.0
        return {"train": TensorSource(images, torch.from_numpy(source.target).long(), augmentation=self.augmentation)}

"""Synthetic classes that are linear subspaces: no vector per class can tell them apart."""

from typing import Any

import torch

from curvature.data.classification import ClassificationDataModule
from curvature.data.seeds import derive
from curvature.data.sources import Source, TensorSource
from curvature.geometry import grassmann


class SubspaceClassesDataModule(ClassificationDataModule):
    """x = S_c z + noise * e with random d-dimensional subspaces S_c of R^n and standard normal z and e.

    Every class is symmetric about the origin. Examples have shape (1, 1, n), n the width in ``image_shape``.

    Args:
        dimension: d.
        noise: standard deviation of the isotropic noise.
        train_examples, test_examples: numbers of examples; validation examples are held out of the former.
        **options: see :class:`curvature.data.classification.ClassificationDataModule`.
    """

    def __init__(
        self,
        dimension: int = 4,
        noise: float = 0.2,
        train_examples: int = 2200,
        test_examples: int = 4000,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.dimension, self.noise = dimension, noise
        self.examples = {"train": train_examples, "test": test_examples}

    def load(self) -> dict[str, Source]:
        generator = torch.Generator().manual_seed(derive("subspace classes", self.seed))
        n = self.image_shape[-1]
        bases = grassmann.random_point(self.num_classes, n, self.dimension, generator=generator)
        sources: dict[str, Source] = {}
        for split, count in self.examples.items():
            labels = torch.arange(count) % self.num_classes
            inside = bases[labels] @ torch.randn(count, self.dimension, 1, generator=generator)
            points = inside.squeeze(-1) + self.noise * torch.randn(count, n, generator=generator)
            sources[split] = TensorSource(points.reshape(count, 1, 1, n), labels)
        return sources

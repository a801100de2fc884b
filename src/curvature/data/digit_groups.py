"""Digits whose labels are coarser than the images: what a network keeps beyond them can be probed."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from curvature.data.digits import DigitsDataModule
from curvature.data.sources import Source, TensorSource
from curvature.errors import ConfigError


class GroupedDigitsDataModule(DigitsDataModule):
    """scikit-learn's digits with pixels in [0, 1] and labels ``groups[digit]``.

    Args:
        groups: class of each of the ten digits; -1 leaves a digit out.
        image_shape: (C, H, W); images are resized bilinearly and repeated over channels where it is not (1, 8, 8).
        **options: see :class:`curvature.data.digits.DigitsDataModule`.

    Raises:
        ConfigError: ``groups`` does not give each digit a class below ``num_classes``, or leaves classes empty.
    """

    def __init__(
        self, groups: Sequence[int] = range(10), image_shape: Sequence[int] = (1, 8, 8), **options: Any
    ) -> None:
        super().__init__(image_shape=image_shape, **options)
        used = set(groups) - {-1}
        if len(groups) != 10 or used != set(range(self.num_classes)):
            allowed = f"ten classes, -1 to leave a digit out and otherwise 0 to {self.num_classes - 1}, each used"
            raise ConfigError("data.groups", list(groups), allowed)
        self.groups = list(groups)

    def load(self) -> dict[str, Source]:
        source = super().load()["train"]
        assert isinstance(source, TensorSource)
        labels = torch.tensor(self.groups)[source.labels]
        images = (source.tensor[labels >= 0] + 1.0) / 2.0
        if self.image_shape != (1, 8, 8):
            images = F.interpolate(images, size=self.image_shape[1:], mode="bilinear", align_corners=False)
            images = images.expand(-1, self.image_shape[0], -1, -1)
        return {"train": TensorSource(images, labels[labels >= 0])}

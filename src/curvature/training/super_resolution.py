"""Supervised super-resolution, measured as its literature does."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from curvature.data.image_pairs import resized
from curvature.errors import ConfigError
from curvature.training.supervised import Supervised

LUMINANCE = (65.481, 128.553, 24.966)
"""Weights of red, green and blue in the Y channel of ITU-R BT.601, in 8-bit units for pixels in [0, 1]."""


def luminance(images: Tensor) -> Tensor:
    """Y of ITU-R BT.601, in [16, 235] / 255, of RGB images in [0, 1]: (B, 3, H, W) -> (B, 1, H, W)."""
    weights = images.new_tensor(LUMINANCE).view(3, 1, 1)
    return ((images * weights).sum(1, keepdim=True) + 16.0) / 255.0


def luminance_psnr(outputs: Tensor, targets: Tensor, border: int) -> Tensor:
    """Peak signal-to-noise ratio of every image, (B,) in dB, between Y channels, with the peak at 1.

    Images are rounded to 8 bits first, as they are when they are saved; Y is not.

    Args:
        outputs, targets: (B, 3, H, W), RGB in [0, 1].
        border: pixels left out at every side.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    inside = slice(border, -border if border else None)
    ours, theirs = (
        luminance(images.double().clamp(0.0, 1.0).mul(255.0).round().div(255.0))[..., inside, inside]
        for images in (outputs, targets)
    )
    return peak_signal_noise_ratio(ours, theirs, data_range=1.0, dim=(1, 2, 3), reduction="none")


class SuperResolution(Supervised):
    """Training of a network on pairs of patches, by default with the L1 loss; it is evaluated on whole images.

    A set's PSNR is the mean over its images of :func:`luminance_psnr`. ``test/psnr/<set>`` are those of the test sets,
    ``test/psnr`` their mean, and ``test/bicubic/<set>`` is what bicubic interpolation has.

    Args:
        border: pixels left out at every side; usually the factor of the resolution.
        criterion: mean loss of (outputs, targets); default L1.
        **options: see :class:`curvature.training.supervised.Supervised`.

    Raises:
        ConfigError: a negative border, or, before training, one that leaves nothing of a patch.
    """

    def __init__(self, border: int, criterion: nn.Module | None = None, **options: Any) -> None:
        super().__init__(criterion=criterion if criterion is not None else nn.L1Loss(), **options)
        if border < 0:
            raise ConfigError("module.border", border, "an integer >= 0")
        self.border = border
        self._means: dict[str, MeanMetric] = {}

    def check_outputs(self, outputs: Tensor, targets: Tensor, datamodule: Any) -> None:
        if outputs.shape != targets.shape:
            height, width = outputs.shape[-2:]
            allowed = f"a network whose images are of {tuple(targets.shape[-2:])} pixels, here {(height, width)}"
            raise ConfigError("model", type(self.model).__name__, allowed)
        if 2 * self.border >= min(targets.shape[-2:]):
            sides = f"a patch in high resolution has {min(targets.shape[-2:])} pixels (data.patch_size)"
            raise ConfigError("module.border", self.border, f"less than half of it: {sides}")

    def on_validation_epoch_start(self) -> None:
        self._begin("val/loss", "val/psnr")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        low, high = batch
        outputs = self.model(low)
        self._means["val/loss"].update(self.criterion(outputs, high), weight=len(high))
        self._means["val/psnr"].update(luminance_psnr(outputs, high, self.border))

    def on_validation_epoch_end(self) -> None:
        self.report(self._ended())

    def on_test_epoch_start(self) -> None:
        names = self.trainer.datamodule.test_names  # type: ignore[attr-defined]
        self._begin("test/loss", *(f"test/{kind}/{name}" for kind in ("psnr", "bicubic") for name in names))

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        low, high = batch
        name = self.trainer.datamodule.test_names[dataloader_idx]  # type: ignore[attr-defined]
        outputs = self.model(low)
        self._means["test/loss"].update(self.criterion(outputs, high), weight=len(high))
        self._means[f"test/psnr/{name}"].update(luminance_psnr(outputs, high, self.border))
        interpolated = resized(low, high.shape[-2:])
        self._means[f"test/bicubic/{name}"].update(luminance_psnr(interpolated, high, self.border))

    def on_test_epoch_end(self) -> None:
        metrics = self._ended()
        sets = [value for name, value in metrics.items() if name.startswith("test/psnr/")]
        self.report(metrics | {"test/psnr": torch.stack(sets).mean()})

    def _begin(self, *names: str) -> None:
        """All processes have all metrics, whichever images they see."""
        self._means = {name: MeanMetric().to(self.device) for name in names}

    def _ended(self) -> dict[str, Tensor]:
        return {name: mean.compute() for name, mean in self._means.items()}

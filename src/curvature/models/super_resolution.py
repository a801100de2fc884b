"""Networks for single-image super-resolution."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curvature.errors import ConfigError

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean red, green and blue of the training images of DIV2K, as the released code of CARN has them."""


class ResidualPair(nn.Module):
    """Two convolutions of ``groups`` groups and a skip connection, as in CARN."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1, groups=groups) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + x)


class Cascading(nn.Module):
    """Stages, each followed by a 1 x 1 convolution of all results so far."""

    def __init__(self, width: int, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.fusions = nn.ModuleList(nn.Conv2d(width * (2 + index), width, 1) for index in range(len(stages)))

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for stage, fusion in zip(self.stages, self.fusions, strict=True):
            seen = torch.cat([seen, stage(x)], 1)
            x = F.relu(fusion(seen))
        return x


class CARN(nn.Module):
    """Cascading residual network (Ahn, Kang and Sohn, ECCV 2018, arXiv 1803.08664): 964,163 parameters for factor 2.

    Args:
        width: channels.
        stages: residual blocks of a cascade, and cascades.
        scale: factor of the resolution: 2, 3 or 4; 4 is twice 2.
        groups: of the convolutions in residual blocks. CARN-M has them too, but also shares its blocks, which is not
            done here.
        mean: of red, green and blue, subtracted from the input and added to the output.

    Raises:
        ConfigError: another factor, sizes below 1, or groups that do not divide the width.
    """

    mean: Tensor

    def __init__(
        self,
        width: int = 64,
        stages: int = 3,
        scale: int = 2,
        groups: int = 1,
        mean: Sequence[float] = DIV2K_MEAN,
    ) -> None:
        super().__init__()
        if scale not in (2, 3, 4):
            raise ConfigError("model.scale", scale, "2, 3 or 4")
        for key, value in (("width", width), ("stages", stages), ("groups", groups)):
            if value < 1:
                raise ConfigError(f"model.{key}", value, "an integer >= 1")
        if width % groups:
            raise ConfigError("model.groups", groups, f"a divisor of the width, {width}")
        if len(mean) != 3:
            raise ConfigError("model.mean", list(mean), "three numbers: red, green and blue")
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        cascades = [Cascading(width, [ResidualPair(width, groups) for _ in range(stages)]) for _ in range(stages)]
        self.body = Cascading(width, cascades)
        steps: list[nn.Module] = []
        for factor in (2, 2) if scale == 4 else (scale,):
            steps += [nn.Conv2d(width, width * factor**2, 3, padding=1), nn.ReLU(), nn.PixelShuffle(factor)]
        self.up = nn.Sequential(*steps)
        self.leave = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) with values in [0, 1] -> (B, 3, scale H, scale W)."""
        x = self.leave(self.up(self.body(self.enter(images - self.mean))))
        return x + self.mean

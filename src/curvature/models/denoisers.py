"""Noise predictors for diffusion on images: a residual MLP, and the U-Net of ``diffusers``."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from curvature.errors import ConfigError


class MLPDenoiser(nn.Module):
    """Residual MLP on flattened images with a sinusoidal embedding of the timestep added in every block.

    Args:
        image_shape: (C, H, W).
        width: of the hidden layers.
        blocks: residual blocks of two layers each.

    Raises:
        ConfigError: a ``width`` that is odd or below 2, or no ``blocks``.
    """

    def __init__(self, image_shape: Sequence[int], width: int = 192, blocks: int = 3) -> None:
        super().__init__()
        if width < 2 or width % 2 or blocks < 1:
            raise ConfigError("model.width", width, "an even integer >= 2, with model.blocks >= 1")
        size = int(torch.tensor(list(image_shape)).prod())
        self.width = width
        self.embed = nn.Sequential(nn.Linear(width, width), nn.SiLU())
        self.first, self.last = nn.Linear(size, width), nn.Linear(width, size)
        self.times = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(blocks)
        )

    def forward(self, images: Tensor, timesteps: Tensor) -> Tensor:
        """Predicted noise (B, C, H, W) for images (B, C, H, W) at timesteps (B,)."""
        from diffusers.models.embeddings import get_timestep_embedding

        time = self.embed(get_timestep_embedding(timesteps, self.width).to(images.dtype))
        hidden = self.first(images.flatten(1))
        for project, block in zip(self.times, self.blocks):
            hidden = hidden + block(hidden + project(time))
        found: Tensor = self.last(hidden).view_as(images)
        return found


class UNetDenoiser(nn.Module):
    """``diffusers.UNet2DModel`` as a function of (images, timesteps).

    Args:
        image_shape: (C, H, W), H = W.
        channels: of the levels; each level but the last halves the resolution.
        layers: residual blocks a level.
        attention: levels with self-attention, counted from 0.
        checkpoint: folder with a saved ``UNet2DModel``; the other arguments are then not used.
        **options: further arguments of ``UNet2DModel``.

    Raises:
        ConfigError: ``checkpoint`` holds no model, or one for other images.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Sequence[int] = (32, 64),
        layers: int = 2,
        attention: Sequence[int] = (),
        checkpoint: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        from diffusers.models.unets.unet_2d import UNet2DModel

        if checkpoint is not None:
            try:
                self.net = UNet2DModel.from_pretrained(checkpoint, local_files_only=True, use_safetensors=True)
            except (OSError, ValueError) as error:
                raise ConfigError("model.checkpoint", checkpoint, f"a folder with a UNet2DModel ({error})") from None
            if self.net.config.in_channels != image_shape[0]:
                allowed = f"a model for {image_shape[0]} channels, not {self.net.config.in_channels}"
                raise ConfigError("model.checkpoint", checkpoint, allowed)
            return
        with_attention = set(attention)
        down = ["AttnDownBlock2D" if i in with_attention else "DownBlock2D" for i in range(len(channels))]
        up = [name.replace("Down", "Up") for name in reversed(down)]
        options = {"norm_num_groups": min(32, min(channels)), **options}
        self.net = UNet2DModel(
            sample_size=image_shape[1],
            in_channels=image_shape[0],
            out_channels=image_shape[0],
            block_out_channels=tuple(channels),
            layers_per_block=layers,
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            **options,
        )

    def forward(self, images: Tensor, timesteps: Tensor) -> Tensor:
        """Predicted noise (B, C, H, W) for images (B, C, H, W) at timesteps (B,)."""
        found: Tensor = self.net(images, timesteps, return_dict=False)[0]
        return found

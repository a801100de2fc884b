"""Published architectures in miniature: CARN, the C2f block of YOLOv8, and language models of ``transformers``."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualPair(nn.Module):
    """Two convolutions of ``groups`` groups and a skip connection, as in CARN (and CARN-M for several groups)."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1, groups=groups) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + x)


class Cascading(nn.Module):
    """Three stages, each followed by a 1 x 1 convolution of all results so far."""

    def __init__(self, width: int, stages: list[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.fusions = nn.ModuleList(nn.Conv2d(width * (2 + index), width, 1) for index in range(len(stages)))

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for stage, fusion in zip(self.stages, self.fusions, strict=True):
            seen = torch.cat([seen, stage(x)], 1)
            x = F.relu(fusion(seen))
        return x


class Carn(nn.Module):
    """Super-resolution by cascading residual blocks (Ahn et al., ECCV 2018), without its constant shifts of colours.

    Args:
        width: channels; 64 in the paper.
        stages: blocks of a cascade and cascades; 3 in the paper.
        scale: factor of the resolution.
        groups: of the convolutions in residual blocks; above 1 in CARN-M.
    """

    def __init__(self, width: int = 64, stages: int = 3, scale: int = 2, groups: int = 1) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        inner = [Cascading(width, [ResidualPair(width, groups) for _ in range(stages)]) for _ in range(stages)]
        self.body = Cascading(width, list(inner))
        self.up, self.shuffle = nn.Conv2d(width, width * scale**2, 3, padding=1), nn.PixelShuffle(scale)
        self.leave = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        image: Tensor = self.leave(self.shuffle(F.relu(self.up(self.body(self.enter(x))))))
        return image


class ConvBlock(nn.Sequential):
    """Convolution, batch normalisation, SiLU."""

    def __init__(self, fan_in: int, fan_out: int, kernel: int = 1) -> None:
        super().__init__(
            nn.Conv2d(fan_in, fan_out, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(fan_out), nn.SiLU()
        )


class C2f(nn.Module):
    """The cross-stage block of YOLOv8: halves of a convolution, one goes through bottlenecks, all are concatenated."""

    def __init__(self, width: int = 8, bottlenecks: int = 2) -> None:
        super().__init__()
        self.enter = ConvBlock(3, 2 * width)
        self.inner = nn.ModuleList(
            nn.Sequential(ConvBlock(width, width, 3), ConvBlock(width, width, 3)) for _ in range(bottlenecks)
        )
        self.join = ConvBlock((2 + bottlenecks) * width, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).chunk(2, 1))
        for bottleneck in self.inner:
            parts.append(parts[-1] + bottleneck(parts[-1]))
        logits: Tensor = self.head(self.join(torch.cat(parts, 1)).mean((2, 3)))
        return logits


def _sizes(hidden: int) -> dict[str, Any]:
    """Two layers of four heads, 64 tokens."""
    return {
        "vocab_size": 64,
        "hidden_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 2 * hidden,
        "max_position_embeddings": 32,
    }


def bert(hidden: int = 16) -> nn.Module:
    """BERT for question answering of ``transformers``."""
    from transformers import BertConfig, BertForQuestionAnswering

    model: nn.Module = BertForQuestionAnswering(BertConfig(**_sizes(hidden)))
    return model


def llama(hidden: int = 16) -> nn.Module:
    """Llama of ``transformers``: two key-value heads, tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**_sizes(hidden), num_key_value_heads=2, tie_word_embeddings=True, use_cache=False)
    model: nn.Module = LlamaForCausalLM(config)
    return model


def phi(hidden: int = 16) -> nn.Module:
    """Phi of ``transformers``: attention and MLP are parallel, heads partly rotary."""
    from transformers import PhiConfig, PhiForCausalLM

    model: nn.Module = PhiForCausalLM(PhiConfig(**_sizes(hidden), use_cache=False))
    return model

"""Published architectures in miniature: the C2f block of YOLOv8, and language models of ``transformers``."""

from typing import Any

import torch
from torch import Tensor, nn


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

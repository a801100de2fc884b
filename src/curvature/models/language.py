"""Causal language models of ``transformers``, from a configuration and without weights from elsewhere."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from curvature.errors import ConfigError


def check_sizes(sizes: Mapping[str, Any]) -> None:
    """Raises ConfigError for a size or a number, by the names ``transformers`` gives them, that is below 1."""
    for name, value in sizes.items():
        counted = name.startswith(("num_", "max_position")) or name.endswith("_size")
        if counted and isinstance(value, int | float) and value < 1:
            raise ConfigError(f"model.sizes.{name}", value, "an integer >= 1")


class CausalLM(nn.Module):
    """Logits of the next token.

    Args:
        architecture: model type as ``transformers`` names it, e.g. ``phi`` or ``llama``.
        vocabulary: number of tokens.
        sizes: further arguments of the architecture's configuration.

    Raises:
        ConfigError: ``transformers`` knows no such causal model, or not with these sizes.
    """

    def __init__(self, architecture: str, vocabulary: int, sizes: Mapping[str, Any] | None = None) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        super().__init__()
        check_sizes(sizes or {})
        try:
            config = AutoConfig.for_model(architecture, vocab_size=vocabulary, use_cache=False, **(sizes or {}))
            self.network: nn.Module = AutoModelForCausalLM.from_config(config)
        except (ValueError, TypeError) as error:
            raise ConfigError(
                "model.architecture", architecture, f"a causal model of transformers ({error})"
            ) from error

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) int64 -> (B, T, vocabulary)."""
        logits: Tensor = self.network(tokens).logits
        return logits


class TokenCrossEntropy(nn.Module):
    """Mean over all tokens of the cross-entropy of logits (B, T, V) with labels (B, T)."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, -2), labels.flatten().long())

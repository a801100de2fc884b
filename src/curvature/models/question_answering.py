"""BERT for extractive question answering, of ``transformers`` (Devlin et al. 2019, section 4.2)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curvature.errors import ConfigError
from curvature.models.language import check_sizes

HEAD = "qa_outputs."
"""What a checkpoint of pretraining lacks."""


class BertQuestionAnswering(nn.Module):
    """Logits of the first and of the last token of the answer.

    Args:
        vocabulary: number of tokens.
        sizes: further arguments of ``BertConfig``; by default those of BERT-base.
        checkpoint: folder with ``config.json`` and ``model.safetensors`` of a BERT, from which sizes and weights are
            taken; the layer of the logits is random where it has none. None is all random.

    Attributes:
        vocabulary, positions: tokens it knows, and the most in a row.

    Raises:
        ConfigError: sizes that ``transformers`` refuses, or a checkpoint without the weights of a BERT of this
            vocabulary.
    """

    def __init__(self, vocabulary: int, sizes: Mapping[str, Any] | None = None, checkpoint: str | None = None) -> None:
        from transformers import BertConfig, BertForQuestionAnswering

        super().__init__()
        if vocabulary < 1:
            raise ConfigError("model.vocabulary", vocabulary, "an integer >= 1")
        if unknown := sorted({*(sizes or {})} - {*BertConfig().to_dict()}):
            raise ConfigError("model.sizes", unknown, "arguments of BertConfig")
        check_sizes(sizes or {})
        if checkpoint is not None:
            self.network: nn.Module = _loaded(checkpoint, vocabulary)
        else:
            try:
                self.network = BertForQuestionAnswering(BertConfig(vocab_size=vocabulary, **(sizes or {})))
            except (ArithmeticError, KeyError, RuntimeError, TypeError, ValueError) as error:
                raise ConfigError("model.sizes", dict(sizes or {}), f"arguments of BertConfig ({error})") from error
        config: Any = self.network.config
        self.vocabulary, self.positions = int(config.vocab_size), int(config.max_position_embeddings)

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> Tensor:
        """All (B, T) int64 -> (B, T, 2)."""
        found = self.network(input_ids, token_type_ids=token_type_ids, attention_mask=attention_mask)
        return torch.stack([found.start_logits, found.end_logits], -1)


def _loaded(checkpoint: str, vocabulary: int) -> nn.Module:
    from transformers import BertForQuestionAnswering

    try:
        loaded: Any = BertForQuestionAnswering.from_pretrained(
            checkpoint, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError("model.checkpoint", checkpoint, f"a folder with a BERT in safetensors ({error})") from None
    network, report = loaded
    if missing := sorted(name for name in report["missing_keys"] if not name.startswith(HEAD)):
        raise ConfigError(
            "model.checkpoint", checkpoint, f"all weights of a BERT; missing are {', '.join(missing[:4])}"
        )
    if network.config.vocab_size != vocabulary:
        raise ConfigError("model.vocabulary", vocabulary, f"{network.config.vocab_size}, of the checkpoint")
    found: nn.Module = network
    return found


class SpanCrossEntropy(nn.Module):
    """Mean of the cross-entropies of logits (B, T, 2) with the first and the last token (B, 2) of the answer."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)

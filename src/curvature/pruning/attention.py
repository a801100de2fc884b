"""Attention as a composed operator: its units are heads, or key-value heads with all their query heads."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from curvature.pruning.graph import Candidate

FUSED = ("qkv", "in_proj", "c_attn")
SEPARATE = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("q", "k", "v"), ("to_q", "to_k", "to_v"))
OUTPUTS = ("proj", "o_proj", "out_proj", "out", "to_out", "o")
HEADS = ("num_heads", "num_attention_heads", "heads", "n_heads")
KEY_HEADS = ("num_kv_heads", "num_key_value_heads", "n_kv_heads")
WIDTHS = ("attn_dim", "all_head_size", "inner_dim")


@dataclass(frozen=True)
class _Attention:
    name: str
    module: Any
    projections: list[str]
    output: str
    heads: str

    @property
    def key_heads(self) -> str | None:
        return next((key for key in KEY_HEADS if isinstance(getattr(self.module, key, None), int)), None)


def projections(model: nn.Module) -> list[str]:
    """Names of the linear layers whose outputs are split into heads."""
    return [f"{found.name}.{part}".lstrip(".") for found in _attentions(model) for part in found.projections]


def head_candidates(model: nn.Module) -> Iterator[Candidate]:
    """One candidate per attention module with linear projections and an integer number of heads, by attribute names."""
    for found in _attentions(model):
        heads: int = getattr(found.module, found.heads)
        units: int = getattr(found.module, found.key_heads) if found.key_heads else heads
        prefix = f"{found.name}." if found.name else ""
        fused = len(found.projections) == 1
        candidate = Candidate(f"{prefix}{found.projections[0]}", [], units)
        rows = 0
        for part in found.projections:
            layer = getattr(found.module, part)
            rows = layer.out_features // 3 if fused else layer.out_features
            if rows % units:
                break
            owner = torch.arange(units).repeat_interleave(rows // units).repeat(3 if fused else 1)
            candidate.cuts[f"{prefix}{part}.weight", 0] = owner, "member"
            if layer.bias is not None:
                candidate.cuts[f"{prefix}{part}.bias", 0] = owner, "member"
            candidate.scalars[f"{prefix}{part}", "out_features"] = len(owner) // units
            candidate.layers.append(f"{prefix}{part}")
        output = getattr(found.module, found.output)
        if rows % units or output.in_features % units:
            continue
        columns = torch.arange(units).repeat_interleave(output.in_features // units)
        candidate.cuts[f"{prefix}{found.output}.weight", 1] = columns, "input"
        candidate.scalars[f"{prefix}{found.output}", "in_features"] = output.in_features // units
        candidate.scalars[found.name, found.heads] = heads // units
        if found.key_heads:
            candidate.scalars[found.name, found.key_heads] = 1
        for width in WIDTHS:
            if getattr(found.module, width, None) == output.in_features:
                candidate.scalars[found.name, width] = output.in_features // units
        yield candidate


def _attentions(model: nn.Module) -> Iterator[_Attention]:
    for name, module in model.named_modules():
        heads = next((key for key in HEADS if isinstance(getattr(module, key, None), int)), None)
        output = next((part for part in OUTPUTS if isinstance(getattr(module, part, None), nn.Linear)), None)
        if heads is None or output is None or isinstance(module, nn.MultiheadAttention):
            continue
        for parts in [*((part,) for part in FUSED), *SEPARATE]:
            if all(isinstance(getattr(module, part, None), nn.Linear) for part in parts):
                yield _Attention(name, module, list(parts), output, heads)
                break

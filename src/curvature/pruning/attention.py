"""Attention as a composed operator: its units are heads, or key-value heads with all their query heads."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from curvature.pruning.graph import Candidate
from curvature.pruning.trace import Attention

PROJECTIONS = (
    *(("qkv",), ("in_proj",), ("c_attn",)),
    *(("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("q", "k", "v"), ("to_q", "to_k", "to_v")),
)
OUTPUTS = ("proj", "o_proj", "out_proj", "out", "to_out", "o", "dense")
BESIDE = ("output.dense",)
HEADS = ("num_heads", "num_attention_heads", "heads", "n_heads")
KEY_HEADS = ("num_kv_heads", "num_key_value_heads", "n_kv_heads")
WIDTHS = ("attn_dim", "all_head_size", "inner_dim")


@dataclass(frozen=True)
class _Attention:
    """``key_heads``: key-value heads, each with its query heads; ``counts``: attributes of ``module`` that say so."""

    name: str
    module: Any
    projections: list[str]
    output: str
    key_heads: int
    counts: dict[str, int]


def attentions(model: nn.Module) -> list[Attention]:
    """The linear layers of every attention module whose units are heads."""
    return [
        Attention([f"{found.name}.{part}".lstrip(".") for part in found.projections], found.output)
        for found in _attentions(model)
    ]


def head_candidates(model: nn.Module) -> Iterator[tuple[str, Candidate | str]]:
    """Per attention module with linear projections, by attribute names: its first layer, and a candidate or a reason.

    The number of heads is an attribute, or follows from a head's width.
    """
    for found in _attentions(model):
        units = found.key_heads
        prefix = f"{found.name}." if found.name else ""
        copies = 3 if len(found.projections) == 1 else 1
        candidate = Candidate(f"{prefix}{found.projections[0]}", [], units)
        output: Any = model.get_submodule(found.output)
        widths = [getattr(found.module, part).out_features // copies for part in found.projections]
        if any(width % units for width in [*widths, output.in_features]):
            yield candidate.name, f"its {units} heads do not divide the width of a layer"
            continue
        for part, width in zip(found.projections, widths, strict=True):
            owner = torch.arange(units).repeat_interleave(width // units).repeat(copies)
            candidate.cuts[f"{prefix}{part}.weight", 0] = owner, "member"
            if getattr(found.module, part).bias is not None:
                candidate.cuts[f"{prefix}{part}.bias", 0] = owner, "member"
            candidate.scalars[f"{prefix}{part}", "out_features"] = len(owner) // units
            candidate.layers.append(f"{prefix}{part}")
        each = output.in_features // units
        candidate.cuts[f"{found.output}.weight", 1] = torch.arange(units).repeat_interleave(each), "input"
        candidate.scalars[found.output, "in_features"] = each
        for attribute, count in found.counts.items():
            candidate.scalars[found.name, attribute] = count // units
        for attribute in WIDTHS:
            if getattr(found.module, attribute, None) == output.in_features:
                candidate.scalars[found.name, attribute] = each
        yield candidate.name, candidate


def _attentions(model: nn.Module) -> Iterator[_Attention]:
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            continue
        parts = next((parts for parts in PROJECTIONS if all(_is_linear(module, part) for part in parts)), None)
        output = _output_of(model, name, module)
        if parts is None or output is None:
            continue
        counts: dict[str, int] = {}
        for keys in (HEADS, KEY_HEADS):
            if attribute := next((key for key in keys if isinstance(getattr(module, key, None), int)), None):
                counts[attribute] = getattr(module, attribute)
        width = getattr(module, "head_dim", None)
        if counts and next(iter(counts)) in HEADS:
            heads, *rest = counts.values()
            key_heads = rest[0] if rest else heads
        elif isinstance(width, int) and width > 0 and len(parts) == 3:
            heads, key_heads = (getattr(module, part).out_features // width for part in parts[:2])
        else:
            continue
        if key_heads > 0 and heads % key_heads == 0:
            yield _Attention(name, module, list(parts), output, key_heads, counts)


def _output_of(model: nn.Module, name: str, module: nn.Module) -> str | None:
    """Name of the linear layer that joins the heads: of the attention module, or beside it."""
    if inside := next((part for part in OUTPUTS if _is_linear(module, part)), None):
        return f"{name}.{inside}".lstrip(".")
    outer = name.rpartition(".")[0]
    for path in BESIDE:
        beside = f"{outer}.{path}".lstrip(".")
        with suppress(AttributeError):
            if name and isinstance(model.get_submodule(beside), nn.Linear):
                return beside
    return None


def _is_linear(module: nn.Module, name: str) -> bool:
    return isinstance(getattr(module, name, None), nn.Linear)

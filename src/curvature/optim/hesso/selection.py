"""Which groups to remove next, without leaving the device."""

import torch
from torch import Tensor


def lowest(scores: Tensor, layer: Tensor, taken: Tensor, target: int, layers: int, divisible: int = 1) -> Tensor:
    """The lowest-scoring groups that bring the number of those taken to ``target``, as a mask without ``taken``.

    Of every layer at least ``divisible`` groups survive, and survivors stay a multiple of it: groups of a layer leave
    in blocks, each as salient as its most salient group. What a layer cannot give is taken from the others, so that
    fewer than ``target`` are taken only if no more can be, or, for ``divisible`` > 1, if the next block is too large.

    Args:
        scores: (G,) saliency.
        layer: (G,) node group.
        taken: (G,) bool, removed before.
        target: number of groups removed in the end.
        layers: number of node groups.
        divisible: at least 1.
    """
    if target <= 0 or len(scores) == 0:
        return torch.zeros_like(taken)
    scores = scores.nan_to_num(nan=0.0).masked_fill(taken, torch.inf)
    by_score = torch.argsort(scores, stable=True)
    order = by_score[torch.argsort(layer[by_score], stable=True)]
    layer_of = layer[order]
    sizes = torch.zeros(layers, dtype=torch.int64, device=layer.device).index_add_(0, layer, torch.ones_like(layer))
    alive = torch.zeros_like(sizes).index_add_(0, layer, (~taken).long())
    rank = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[layer_of]
    uneven = (alive % divisible)[layer_of]
    block = torch.where(rank < uneven, 0, torch.div(rank - uneven, divisible, rounding_mode="floor") + (uneven > 0))
    last = torch.where(rank < uneven, uneven, uneven + (block - (uneven > 0).long() + 1) * divisible) - 1
    free = last < (alive - divisible)[layer_of]
    start = (sizes.cumsum(0) - sizes)[layer_of]
    key = scores[order][(start + last).clamp(max=len(order) - 1)].masked_fill(~free, torch.inf)
    ranked = torch.argsort(key, stable=True)
    position = torch.empty_like(ranked).index_copy_(0, ranked, torch.arange(len(ranked), device=ranked.device))
    end = position + (last - rank)
    chosen = free & (end < target - taken.sum())
    return torch.zeros_like(taken).index_copy_(0, order, chosen)


def lowest_as_released(
    scores: Tensor, layer: Tensor, taken: Tensor, count: int, layers: int, divisible: int = 1
) -> Tensor:
    """What the released code selects for a period of ``count`` groups, defects included; needs the host.

    It takes the lowest (taken + ``count``) of all groups, drops those already taken and keeps the first ``count`` of
    the rest by index. Where a layer would lose too many, groups are spared without replacement.
    """
    wanted = int(taken.sum()) + count
    candidates = torch.zeros_like(taken)
    candidates[torch.argsort(scores, stable=True)[:wanted]] = True
    index = (candidates & ~taken).nonzero()[:count, 0]
    chosen = torch.zeros_like(taken)
    chosen[index] = True
    for number in range(layers):
        here = layer == number
        size = int(here.sum())
        survivors = size - int((here & (taken | chosen)).sum())
        needed = max(divisible, -(-survivors // divisible) * divisible)
        spared = (here & chosen).nonzero()[:, 0]
        spared = spared[torch.argsort(scores[spared], descending=True)][: max(0, min(needed, size) - survivors)]
        chosen[spared] = False
    return chosen


def removable(sizes: list[int], divisible: int = 1) -> int:
    """Largest number of groups that can be removed from node groups of these sizes."""
    return sum(max(0, size - divisible) for size in sizes)

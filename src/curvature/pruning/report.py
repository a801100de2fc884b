"""How much smaller and faster a pruned network is, counted alike for every method."""

import copy
import statistics
import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from curvature.pruning.inputs import Inputs
from curvature.pruning.slimming import keep_one, slim, zero_groups
from curvature.pruning.space import SearchSpace


def multiply_adds(model: nn.Module, inputs: Inputs) -> int:
    """Multiply-accumulate operations of one forward pass, half of torch's FLOP count of products and convolutions."""
    counter = FlopCounterMode(display=False)
    with counter:
        inputs(model)
    return counter.get_total_flops() // 2


def slim_report(model: nn.Module, space: SearchSpace, repetitions: int = 20) -> dict[str, float]:
    """Facts about ``model`` and its slim copy, in evaluation mode.

    Args:
        model: the network of ``space``.
        space: its search space, with example inputs.
        repetitions: interleaved forward passes of both for the latency; 0 does not measure it.

    Returns:
        ``groups/total``, ``groups/zero``, ``groups/sparsity``; ``params/dense``, ``/slim``, ``/left``; ``macs/dense``,
        ``/slim``, ``/left`` (one example); ``slim/max_difference``, the largest difference of outputs in float64 over
        max(1, largest output); ``latency/dense_ms``, ``/slim_ms``, medians on the example inputs, and ``/left``, the
        median ratio.
    """
    model = copy.deepcopy(model).cpu().eval()
    gone = zero_groups(model, space)
    smaller = slim(model, space)
    inputs = Inputs.of(space.example_inputs).cast(torch.device("cpu"), next(model.parameters()).dtype)
    one = inputs.like(0, batch=1).cast(torch.device("cpu"), next(model.parameters()).dtype)
    found = {
        "groups/total": space.size,
        "groups/zero": int(gone.sum()),
        "groups/removed": int(keep_one(gone, space).sum()),
        "groups/sparsity": int(gone.sum()) / max(1, space.size),
        "params/dense": sum(p.numel() for p in model.parameters()),
        "params/slim": sum(p.numel() for p in smaller.parameters()),
        "macs/dense": multiply_adds(model, one),
        "macs/slim": multiply_adds(smaller, one),
        "slim/max_difference": _difference(model, space, inputs),
    }
    found["params/left"] = found["params/slim"] / max(1, found["params/dense"])
    found["macs/left"] = found["macs/slim"] / max(1, found["macs/dense"])
    if repetitions:
        times: list[list[float]] = [[], []]
        for index in range(repetitions + 2):
            for which in (0, 1) if index % 2 else (1, 0):
                start = time.perf_counter()
                inputs((model, smaller)[which])
                times[which].append(1000.0 * (time.perf_counter() - start))
        dense, small = (values[2:] for values in times)
        found |= {"latency/dense_ms": statistics.median(dense), "latency/slim_ms": statistics.median(small)}
        found["latency/left"] = statistics.median(b / a for a, b in zip(dense, small, strict=True))
    return {name: float(value) for name, value in found.items()}


def _difference(model: nn.Module, space: SearchSpace, inputs: Inputs) -> float:
    double = copy.deepcopy(model).double()
    smaller = slim(double, space)
    worst = 0.0
    for case in (inputs.cast(torch.device("cpu"), torch.float64), inputs.like(1, batch=3)):
        for a, b in zip(case(double), case(smaller), strict=True):
            worst = max(worst, float((a - b).abs().max()) / max(1.0, float(a.abs().max())))
    return worst

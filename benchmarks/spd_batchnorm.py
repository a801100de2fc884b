"""Time of a training step of the Bures-Wasserstein batch norm, forward and backward, against the decompositions that it
cannot do without, against the same layer put together from single operations, and against spd-learn's layers.

    python benchmarks/spd_batchnorm.py                       30 matrices of size 30, theta = 0.5, one CPU thread
    python benchmarks/spd_batchnorm.py --size 12 --batch 30 --json outputs/spd_batchnorm.json

Every round times one step of each arm, in rotating order, so that load from elsewhere falls on all alike; what is
reported are medians over rounds, and medians of ratios within rounds. ``floor`` is the time of the batched symmetric
eigendecompositions that a step needs: power, barycentre, logarithm and inverse power. ``single operations`` calls one
function of :mod:`curvature.geometry.spd` for every operation of the layer's definition, each with its own
decomposition. Per useful operation means divided by the number of decompositions that a layer's own definition needs.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curvature.geometry.spd import bures_wasserstein, spectral, sym
from curvature.geometry.spd.spectral import InverseSqrt, Power, Sqrt
from curvature.models.spdnet import GBWBatchNorm

FLOOR, OURS, DIRECT, SINGLE = "floor", "curvature GBWBatchNorm", "curvature, direct", "single operations"
LIE, MEAN_VAR = "spd-learn SPDBatchNormLie (AIM, theta 0.5)", "spd-learn SPDBatchNormMeanVar"
OPERATIONS = {FLOOR: 4, OURS: 4, DIRECT: 4, SINGLE: 4, LIE: 4, MEAN_VAR: 2}
"""Batched decompositions that each layer's definition needs, with spectra reused where they can be."""

Step = Callable[[], Any]


def measure(size: int = 30, batch: int = 30, repetitions: int = 60, threads: int = 1) -> dict[str, Any]:
    """Time all arms.

    Args:
        size: n.
        batch: number of matrices.
        repetitions: rounds that count, after a tenth of them as warm-up.
        threads: CPU threads of torch.

    Returns:
        ``arms``: name -> {``ms``: median time of a step, ``ratio``: median ratio to the floor in the same round,
        ``ms_per_operation``}; ``to_single_operations``: median ratio of the layer to the one of single operations;
        ``unavailable``: name -> why; with the setting.
    """
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(batch, size, 2 * size, dtype=torch.float64, generator=generator)
    X = factor @ factor.mT / (4 * size)
    weights = torch.randn(batch, size, size, dtype=torch.float64, generator=generator)
    steps: dict[str, Step] = {
        FLOOR: lambda: [torch.linalg.eigh(X) for _ in range(OPERATIONS[FLOOR])],
        OURS: _step(GBWBatchNorm(size, theta=0.5), X, weights),
        DIRECT: _step(GBWBatchNorm(size, theta=0.5, tangent="direct"), X, weights),
        SINGLE: _step(SingleOperations(size), X, weights),
    }
    unavailable = {}
    try:
        from spd_learn import modules

        options = {"dtype": torch.float64}
        steps[LIE] = _step(modules.SPDBatchNormLie(size, "AIM", theta=0.5, **options), X[:, None], weights[:, None])
        steps[MEAN_VAR] = _step(modules.SPDBatchNormMeanVar(size, **options), X[:, None], weights[:, None])
    except ImportError as error:
        unavailable["spd-learn"] = str(error)
    for _ in range(max(1, repetitions // 10)):
        for step in steps.values():
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for index in range(repetitions):
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            steps[name]()
            times[name].append(1000.0 * (time.perf_counter() - start))
    arms = {
        name: {
            "ms": statistics.median(values),
            "ratio": statistics.median(a / b for a, b in zip(values, times[FLOOR], strict=True)),
            "ms_per_operation": statistics.median(values) / OPERATIONS[name],
        }
        for name, values in times.items()
    }
    return {
        "size": size,
        "batch": batch,
        "threads": threads,
        "repetitions": repetitions,
        "torch": torch.__version__,
        "arms": arms,
        "to_single_operations": statistics.median(a / b for a, b in zip(times[OURS], times[SINGLE], strict=True)),
        "unavailable": unavailable,
    }


class SingleOperations(GBWBatchNorm):
    """The layer's definition, one geometric operation after the other."""

    def __init__(self, n: int) -> None:
        super().__init__(n, theta=0.5)

    def normalise(self, X: Tensor, from_batch: bool) -> Tensor:
        root, inverse = spectral(self.metric, Sqrt())[0], spectral(self.metric, InverseSqrt())[0]
        Y = sym(inverse @ spectral(X, Power(self.theta))[0] @ inverse)
        bias = sym(inverse @ spectral(self.bias, Power(self.theta))[0] @ inverse)
        eye = torch.eye(self.n, dtype=X.dtype)
        with torch.no_grad():
            mean = bures_wasserstein.barycentre(Y, steps=self.karcher_steps)
            variance = bures_wasserstein.squared_distance(mean, Y).mean() / self.theta**2
            self.running_mean.copy_(bures_wasserstein.geodesic(self.running_mean, mean, self.momentum))
            self._track_variance(variance)
        tangent = bures_wasserstein.transport_to_identity(mean, bures_wasserstein.log(mean, Y))
        Y = bures_wasserstein.exp(eye, tangent)
        factor = self.scale / (variance + self.eps).sqrt()
        Y = bures_wasserstein.exp(eye, factor * bures_wasserstein.log(eye, Y))
        tangent = bures_wasserstein.transport_from_identity(bias, bures_wasserstein.log(eye, Y))
        Y = bures_wasserstein.exp(bias, tangent)
        return spectral(sym(root @ Y @ root), Power(1 / self.theta))[0]


def _step(layer: torch.nn.Module, X: Tensor, weights: Tensor) -> Step:
    points = X.clone().requires_grad_()

    def step() -> None:
        points.grad = None
        layer.zero_grad()
        (layer(points) * weights).sum().backward()

    return step


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=30)
    parser.add_argument("--batch", type=int, default=30)
    parser.add_argument("--repetitions", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the results here too")
    options = parser.parse_args()
    result = measure(options.size, options.batch, options.repetitions, options.threads)
    table = Table("arm", "ms / step", "x floor", "ms / operation", title=f"{options.batch} matrices of {options.size}")
    for name, arm in result["arms"].items():
        table.add_row(name, f"{arm['ms']:.2f}", f"{arm['ratio']:.2f}", f"{arm['ms_per_operation']:.2f}")
    Console().print(table)
    Console().print(f"layer / single operations: {result['to_single_operations']:.2f}")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

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

import statistics
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from curvature.benchmark import Row, interleaved, main, median_ratio
from curvature.geometry.spd import affine_invariant, bures_wasserstein, spectral, sym
from curvature.geometry.spd.spectral import InverseSqrt, Log, Power, Sqrt
from curvature.models.spdnet import GBWBatchNorm

FLOOR, OURS, DIRECT, SINGLE = "floor", "curvature GBWBatchNorm", "curvature, direct", "single operations"
LIE, MEAN_VAR = "spd-learn SPDBatchNormLie (AIM, theta 0.5)", "spd-learn SPDBatchNormMeanVar"
OPERATIONS = {FLOOR: 4, OURS: 4, DIRECT: 4, SINGLE: 4, LIE: 4, MEAN_VAR: 2}
"""Batched decompositions that each layer's definition needs, with spectra reused where they can be."""

DISTANCE, BARYCENTRE = "Bures-Wasserstein distance", "Bures-Wasserstein barycentre, 10 steps"
LOGARITHM, AIM_DISTANCE = "matrix logarithm", "affine-invariant distance"

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
    times = interleaved(steps, repetitions, max(1, repetitions // 10))
    arms = {
        name: {
            "ms": 1000 * statistics.median(values),
            "ratio": median_ratio(values, times[FLOOR]),
            "ms_per_operation": 1000 * statistics.median(values) / OPERATIONS[name],
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
        "to_single_operations": median_ratio(times[OURS], times[SINGLE]),
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


def measure_functions(size: int = 30, batch: int = 30, repetitions: int = 30, threads: int = 1) -> dict[str, Any]:
    """Single functions against pyriemann, POT and geoopt on the same ``batch`` matrices of ``size``.

    Returns:
        ``functions``: function -> {side: median ms}, ``unavailable``: peer -> why; and what :func:`measure` returns.
    """
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(2, batch, size, 2 * size, dtype=torch.float64, generator=generator)
    P, Q = factor @ factor.mT / (4 * size)
    arrays, mean = P.numpy(), torch.zeros(size, dtype=torch.float64)
    functions: dict[str, dict[str, Step]] = {
        DISTANCE: {"curvature": lambda: bures_wasserstein.squared_distance(P, Q)},
        BARYCENTRE: {"curvature": lambda: bures_wasserstein.barycentre(P, steps=10)},
        LOGARITHM: {"curvature": lambda: spectral(P, Log())},
        AIM_DISTANCE: {"curvature": lambda: affine_invariant.distance(P, Q)},
    }
    unavailable = {}
    try:
        from pyriemann.geometry.base import logm
        from pyriemann.geometry.distance import distance_riemann, distance_wasserstein
        from pyriemann.geometry.mean import mean_wasserstein

        other = Q.numpy()
        functions[DISTANCE]["pyriemann"] = lambda: distance_wasserstein(arrays, other)
        functions[BARYCENTRE]["pyriemann"] = lambda: mean_wasserstein(arrays, tol=0.0, maxiter=10)
        functions[LOGARITHM]["pyriemann"] = lambda: logm(arrays)
        functions[AIM_DISTANCE]["pyriemann"] = lambda: distance_riemann(arrays, other)
    except ImportError as error:
        unavailable["pyriemann"] = str(error)
    try:
        from ot.gaussian import bures_distance, bures_wasserstein_barycenter

        def pot_distances() -> None:
            for p, q in zip(P, Q, strict=True):
                bures_distance(p, q)

        functions[DISTANCE]["POT"] = pot_distances
        functions[BARYCENTRE]["POT"] = lambda: bures_wasserstein_barycenter(
            mean.expand(batch, -1), P, num_iter=10, eps=0.0
        )
    except ImportError as error:
        unavailable["POT"] = str(error)
    try:
        import geoopt

        manifold = geoopt.SymmetricPositiveDefinite()
        functions[AIM_DISTANCE]["geoopt"] = lambda: manifold.dist(P, Q)
    except ImportError as error:
        unavailable["geoopt"] = str(error)
    timed = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for function, sides in functions.items():
            times = interleaved(sides, repetitions)
            timed[function] = {name: 1000 * statistics.median(values) for name, values in times.items()}
    return {"functions": timed, "unavailable_peers": unavailable} | measure(size, batch, threads=threads)


def rows(result: dict[str, Any]) -> list[Row]:
    """The layer against its floor, single operations and spd-learn; functions against their peers."""
    arms = result["arms"]
    setting = f"{result['batch']} matrices of {result['size']}, float64, theta 0.5"
    found = [
        Row(OURS, "the decompositions it needs", arms[OURS]["ratio"], 2.5, f"{setting}; {arms[OURS]['ms']:.2f} ms"),
        Row(OURS, SINGLE, result["to_single_operations"], 0.6, "the same layer, one function an operation"),
    ]
    for peer in (LIE, MEAN_VAR):
        ratio = arms[OURS]["ms_per_operation"] / arms[peer]["ms_per_operation"] if peer in arms else None
        found.append(Row(f"{OURS}, a decomposition", peer, ratio, 1.0, result["unavailable"].get("spd-learn", "")))
    for function, sides in result["functions"].items():
        ours = sides["curvature"]
        for peer, milliseconds in sides.items():
            if peer != "curvature":
                found.append(Row(function, peer, ours / milliseconds, None, f"{ours:.2f} ms, {milliseconds:.2f} ms"))
    return found + [Row("SPD functions", peer, None, None, why) for peer, why in result["unavailable_peers"].items()]


if __name__ == "__main__":
    main(__doc__, measure_functions, rows)

"""Time of a training step of the Bures-Wasserstein batch norm, forward and backward, against the decompositions that it
cannot do without, against the same layer put together from single operations, and against spd-learn's layers.

    python benchmarks/spd_batchnorm.py                       30 matrices of size 30, theta = 0.5, one CPU thread
    python benchmarks/spd_batchnorm.py --size 12 --batch 30 --json outputs/spd_batchnorm.json

Every round times one step of each arm, in rotating order, so that load from elsewhere falls on all alike; what is
reported are medians over rounds, and medians of ratios within rounds. ``floor`` is the time of the batched symmetric
eigendecompositions that a step needs: power, barycentre, logarithm and inverse power. ``single operations`` calls one
function of :mod:`curvature.geometry.spd` for every operation of the layer's definition, each with its own
decomposition. Against spd-learn whole layers are compared, and the same divided by the number of decompositions that
each layer's own definition needs: its layers are other layers. ``direct`` is ours with the tangent map written out.
Memory is the peak of tensors over the first steps of a new layer.
"""

import statistics
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from curvature.benchmark import Row, interleaved, main, median_ratio, peak_bytes
from curvature.geometry.spd import affine_invariant, bures_wasserstein, spectral, sym
from curvature.geometry.spd.spectral import InverseSqrt, Log, Power, Sqrt
from curvature.models.spdnet import GBWBatchNorm

FLOOR, OURS, DIRECT, SINGLE = "floor", "curvature GBWBatchNorm", "curvature GBWBatchNorm, direct", "single operations"
LIE, MEAN_VAR = "spd-learn SPDBatchNormLie (AIM, theta 0.5)", "spd-learn SPDBatchNormMeanVar"
OPERATIONS = {FLOOR: 4, OURS: 4, DIRECT: 4, SINGLE: 4, LIE: 4, MEAN_VAR: 2}
"""Batched decompositions that each layer's definition needs, with spectra reused where they can be."""

DISTANCE, BARYCENTRE = "Bures-Wasserstein distance", "Bures-Wasserstein barycentre, 10 steps"
CURVATURE, LOGARITHM, AIM_DISTANCE = "curvature", "matrix logarithm", "affine-invariant distance"

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
        ``ours_over``: median ratio of our step to it, ``ms_per_operation``, ``memory``: ratio of our peak to its};
        ``to_single_operations``: ``ours_over`` of the layer of single operations; ``unavailable``: name -> why; with
        the setting.
    """
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(batch, size, 2 * size, dtype=torch.float64, generator=generator)
    X = factor @ factor.mT / (4 * size)
    weights = torch.randn(batch, size, size, dtype=torch.float64, generator=generator)
    makers: dict[str, Callable[[], Step]] = {
        FLOOR: lambda: lambda: [torch.linalg.eigh(X) for _ in range(OPERATIONS[FLOOR])],
        OURS: lambda: _step(GBWBatchNorm(size, theta=0.5), X, weights),
        DIRECT: lambda: _step(GBWBatchNorm(size, theta=0.5, tangent="direct"), X, weights),
        SINGLE: lambda: _step(SingleOperations(size), X, weights),
    }
    unavailable = {}
    try:
        from spd_learn import modules

        options = {"dtype": torch.float64}
        makers |= {
            LIE: lambda: _step(
                modules.SPDBatchNormLie(size, "AIM", theta=0.5, **options), X[:, None], weights[:, None]
            ),
            MEAN_VAR: lambda: _step(modules.SPDBatchNormMeanVar(size, **options), X[:, None], weights[:, None]),
        }
        for name in (LIE, MEAN_VAR):
            makers[name]()()
    except Exception as error:  # a peer that cannot run is shown as such
        makers = {name: make for name, make in makers.items() if name not in (LIE, MEAN_VAR)}
        unavailable["spd-learn"] = f"{type(error).__name__}: {error}"
    peaks = {name: peak_bytes(partial(_first_steps, make)) for name, make in makers.items()}
    times = interleaved({name: make() for name, make in makers.items()}, repetitions, max(1, repetitions // 10))
    arms = {
        name: {
            "ms": 1000 * statistics.median(values),
            "ratio": median_ratio(values, times[FLOOR]),
            "ours_over": median_ratio(times[OURS], values),
            "ms_per_operation": 1000 * statistics.median(values) / OPERATIONS[name],
            "memory": peaks[OURS] / peaks[name],
        }
        for name, values in times.items()
    }
    return {
        "size": size,
        "batch": batch,
        "threads": threads,
        "repetitions": repetitions,
        "arms": arms,
        "to_single_operations": arms[SINGLE]["ours_over"],
        "unavailable": unavailable,
    }


def _first_steps(make: Callable[[], Step]) -> None:
    step = make()
    for _ in range(2):
        step()


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


def _ours(P: Tensor, Q: Tensor) -> dict[str, Step]:
    return {
        DISTANCE: lambda: bures_wasserstein.squared_distance(P, Q),
        BARYCENTRE: lambda: bures_wasserstein.barycentre(P, steps=10),
        LOGARITHM: lambda: spectral(P, Log()),
        AIM_DISTANCE: lambda: affine_invariant.distance(P, Q),
    }


def _pyriemann(P: Tensor, Q: Tensor) -> dict[str, Step]:
    from pyriemann.geometry.base import logm
    from pyriemann.geometry.distance import distance_riemann, distance_wasserstein
    from pyriemann.geometry.mean import mean_wasserstein

    points, other = P.numpy(), Q.numpy()
    return {
        DISTANCE: lambda: distance_wasserstein(points, other),
        BARYCENTRE: lambda: mean_wasserstein(points, tol=0.0, maxiter=10),
        LOGARITHM: lambda: logm(points),
        AIM_DISTANCE: lambda: distance_riemann(points, other),
    }


def _pot(P: Tensor, Q: Tensor) -> dict[str, Step]:
    from ot.gaussian import bures_distance, bures_wasserstein_barycenter

    means = torch.zeros(len(P), P.shape[-1], dtype=P.dtype)
    return {
        DISTANCE: lambda: [bures_distance(p, q) for p, q in zip(P, Q, strict=True)],
        BARYCENTRE: lambda: bures_wasserstein_barycenter(means, P, num_iter=10, eps=0.0),
    }


def _geoopt(P: Tensor, Q: Tensor) -> dict[str, Step]:
    import geoopt

    manifold = geoopt.SymmetricPositiveDefinite()
    return {AIM_DISTANCE: lambda: manifold.dist(P, Q)}


PEERS = {"pyriemann": _pyriemann, "POT": _pot, "geoopt": _geoopt}


def measure_functions(size: int = 30, batch: int = 30, repetitions: int = 30, threads: int = 1) -> dict[str, Any]:
    """Single functions against pyriemann, POT and geoopt on the same ``batch`` matrices of ``size``.

    Returns:
        ``functions``: function -> side -> {``ms``: median, ``ratio``: median of ours over it}; ``unavailable_peers``:
        peer -> why; and what :func:`measure` returns.
    """
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(2, batch, size, 2 * size, dtype=torch.float64, generator=generator)
    P, Q = factor @ factor.mT / (4 * size)
    functions = {function: {CURVATURE: call} for function, call in _ours(P, Q).items()}
    unavailable, timed = {}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for peer, make in PEERS.items():
            try:
                calls = make(P, Q)
                for call in calls.values():
                    call()
            except Exception as error:  # a peer that cannot run is shown as such
                unavailable[peer] = f"{type(error).__name__}: {error}"
                continue
            for function, call in calls.items():
                functions[function][peer] = call
        for function, sides in functions.items():
            times = interleaved(sides, repetitions)
            timed[function] = {
                name: {"ms": 1000 * statistics.median(values), "ratio": median_ratio(times[CURVATURE], values)}
                for name, values in times.items()
            }
    return {"functions": timed, "unavailable_peers": unavailable} | measure(size, batch, threads=threads)


def rows(result: dict[str, Any]) -> list[Row]:
    """The layer against its floor, single operations and spd-learn; functions against their peers."""
    arms = result["arms"]
    setting = f"{result['batch']} matrices of {result['size']}, float64, theta 0.5; {arms[OURS]['ms']:.2f} ms"
    found = [
        Row(OURS, "the decompositions it needs", arms[OURS]["ratio"], 2.5, setting),
        Row(DIRECT, "the decompositions it needs", arms[DIRECT]["ratio"], None, f"{arms[DIRECT]['ms']:.2f} ms"),
        Row(
            OURS,
            SINGLE,
            result["to_single_operations"],
            0.6,
            "the same layer, one function an operation",
            arms[SINGLE]["memory"],
        ),
    ]
    for peer in (LIE, MEAN_VAR):
        if peer not in arms:
            why = result["unavailable"]["spd-learn"]
            found += [Row(OURS, peer, None, None, why), Row(f"{OURS}, a decomposition", peer, None, 1.0, why)]
            continue
        whole, needed = arms[peer]["ours_over"], (OPERATIONS[OURS], OPERATIONS[peer])
        note = f"whole layer; {arms[OURS]['ms']:.2f} ms, {arms[peer]['ms']:.2f} ms"
        found.append(Row(OURS, peer, whole, None, note, arms[peer]["memory"]))
        note = "{} decompositions in ours, {} in the peer's".format(*needed)
        found.append(Row(f"{OURS}, a decomposition", peer, whole * needed[1] / needed[0], 1.0, note))
    for function, sides in result["functions"].items():
        for peer, side in sides.items():
            if peer != CURVATURE:
                note = f"{sides[CURVATURE]['ms']:.2f} ms, {side['ms']:.2f} ms"
                found.append(Row(function, peer, side["ratio"], None, note))
    return found + [Row("SPD functions", peer, None, None, why) for peer, why in result["unavailable_peers"].items()]


if __name__ == "__main__":
    main(__doc__, measure_functions, rows)

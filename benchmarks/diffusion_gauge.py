"""Score fields with their Jacobians, and the flows that carry them, against autograd's Jacobians of the same fields.

    python benchmarks/diffusion_gauge.py [--points N] [--repeats N] [--json FILE]

The exact gauged score of a sphere in 8 dimensions (400 components) has its Jacobian in closed form, a score network by
one reverse pass a coordinate. Peers compute the same numbers, which is checked: one reverse pass a coordinate (what is
needed without a closed form), ``torch.func``'s ``jacrev`` and ``jacfwd`` under ``vmap``, and
``torch.autograd.functional.jacobian`` point by point. Of the exact score they differentiate its shortest form, by
posterior means; that field alone is the floor. A flow is 24 Runge-Kutta steps of samples, Jacobians and log-densities;
its floor carries samples alone. Memory is the peak of tensors. One CPU thread, float64.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from curvature.benchmark import Row, interleaved, main, median_ratio, peak_bytes
from curvature.samplers.gauge import Field, GaugedScore, reverse_flow
from curvature.samplers.manifolds import manifold
from curvature.samplers.score_nets import LearnedScore, ScoreNet
from curvature.samplers.targets import GaussianMixture

OURS, ALONE = "curvature", "the field or samples alone"
REVERSE, JACREV, JACFWD = "one reverse pass a coordinate", "vmap of jacrev", "vmap of jacfwd"
POINTWISE = "autograd.functional.jacobian, a loop over points"
AMBIENT, STRENGTH, TIME = 8, 10.0, 0.2
START, END, STEPS = 20.0, 0.12, 24

Values = Callable[[Tensor, float], Tensor]
Jacobian = Callable[[Values, Tensor, float], Tensor]


def by_reverse_passes(field: Values, x: Tensor, t: float) -> Tensor:
    """Jacobians (N, d, d) of ``field`` at x (N, d): the gradient of each coordinate, summed over points."""
    x = x.detach().requires_grad_()
    rows = [torch.autograd.grad(part.sum(), x, retain_graph=True)[0] for part in field(x, t).unbind(1)]
    return torch.stack(rows, 1)


def by_point(field: Values, x: Tensor, t: float) -> Tensor:
    """The same, one point after the other."""
    jacobian = torch.autograd.functional.jacobian
    return torch.stack([jacobian(lambda point: field(point[None], t)[0], point) for point in x])


def by_transform(transform: Callable[..., Any]) -> Jacobian:
    """The same by a transform of ``torch.func`` under ``vmap``."""

    def batched(field: Values, x: Tensor, t: float) -> Tensor:
        jacobians: Tensor = torch.func.vmap(transform(lambda point: field(point[None], t)[0]))(x)
        return jacobians

    return batched


PEERS: dict[str, Jacobian] = {
    REVERSE: by_reverse_passes,
    JACREV: by_transform(torch.func.jacrev),
    JACFWD: by_transform(torch.func.jacfwd),
    POINTWISE: by_point,
}


@dataclass(frozen=True)
class Differentiated:
    """A field whose Jacobian comes from a peer, for :func:`curvature.samplers.gauge.reverse_flow`."""

    target: GaussianMixture
    values: Values
    jacobian: Jacobian

    def field_and_jacobian(self, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Field (N, d) and its Jacobian (N, d, d) at x (N, d)."""
        with torch.no_grad():
            value = self.values(x, t)
        return value, self.jacobian(self.values, x, t).detach()


def by_posterior_mean(exact: GaugedScore) -> Values:
    """The field of ``exact`` with nothing of size N x components x d."""
    means, mixing, clean = exact.target.means, exact.mixing.T, float(exact.target.variances[0])
    squares = means.square().sum(1)

    def values(x: Tensor, t: float) -> Tensor:
        variance = clean + t**2
        weights = torch.softmax((x @ means.T - 0.5 * squares) / variance, -1)
        return (weights @ means - x) / variance @ mixing

    return values


def samples_alone(values: Values, x: Tensor) -> Tensor:
    """The flow's samples (N, d) without Jacobians and densities, by the same steps."""
    grid = torch.logspace(math.log10(START), math.log10(END), STEPS + 1, dtype=torch.float64).tolist()
    with torch.no_grad():
        for t, following in pairwise(grid):
            h, slopes, state = following - t, [], x
            for offset, weight in ((0.0, 0.5), (0.5, 0.5), (0.5, 1.0), (1.0, 0.0)):
                time = t + offset * h
                slopes.append(-time * values(state, time))
                state = x + weight * h * slopes[-1]
            a, b, c, d = slopes
            x = x + h / 6 * (a + 2 * b + 2 * c + d)
    return x


def measure(points: int = 60, repeats: int = 15, threads: int = 1) -> dict[str, Any]:
    """Milliseconds of all sides.

    Args:
        points: N of a batch.
        repeats: interleaved rounds; a third of them for flows.
        threads: CPU threads of torch.

    Returns:
        ``exact``, ``network`` and ``flow``: side -> {``ms``, ``ratio``: median of ours over it, ``memory``: ratio of
        peaks, ``difference``: from our values, relative}; ``unavailable``: table -> side -> why.
    """
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    chosen = manifold("sphere", AMBIENT)
    target = chosen.target
    exact = GaugedScore(target, chosen.rotation, STRENGTH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ScoreNet(AMBIENT, float(target.covariance.trace()) / AMBIENT).double().requires_grad_(False)

    def network(x: Tensor, t: float) -> Tensor:
        return net(x, torch.full((len(x), 1), t, dtype=x.dtype))  # type: ignore[no-any-return]

    lean = by_posterior_mean(exact)
    x, noise = (target.noised(1.0, t).sample(points, generator) for t in (TIME, START))
    unavailable: dict[str, dict[str, str]] = {}
    tables: dict[str, Any] = {"points": points, "unavailable": unavailable}
    fields: dict[str, tuple[Field, Values]] = {
        "exact": (exact, lean),
        "network": (LearnedScore(target, net), network),
    }
    for name, (field, values) in fields.items():
        sides: dict[str, Callable[[], Tensor]] = {
            OURS: lambda field=field: field.field_and_jacobian(x, TIME)[1],
            ALONE: lambda values=values: values(x, TIME),
        }
        for peer, jacobian in PEERS.items():
            if (name, peer) != ("network", REVERSE):  # which is ours
                differentiated = Differentiated(target, values, jacobian)
                sides[peer] = lambda field=differentiated: field.field_and_jacobian(x, TIME)[1]
        tables[name], unavailable[name] = _timed(sides, repeats)
    flows: dict[str, Callable[[], Tensor]] = {
        OURS: lambda: reverse_flow(exact, noise, START, END, STEPS).jacobian,
        ALONE: lambda: samples_alone(lean, noise),
    }
    for peer in (REVERSE, JACREV, JACFWD):
        differentiated = Differentiated(target, lean, PEERS[peer])
        flows[peer] = lambda field=differentiated: reverse_flow(field, noise, START, END, STEPS).jacobian
    tables["flow"], unavailable["flow"] = _timed(flows, max(1, repeats // 3))
    return tables


def _timed(sides: dict[str, Callable[[], Tensor]], repeats: int) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    reference, good, unavailable, differences = sides[OURS](), {}, {}, {}
    for name, call in sides.items():
        try:
            found = call()
        except Exception as error:  # a peer that cannot run is shown as such
            unavailable[name] = f"{type(error).__name__}: {error}"
            continue
        good[name] = call
        if name != ALONE:
            differences[name] = float((found - reference).norm() / reference.norm())
    peaks = {name: peak_bytes(call) for name, call in good.items()}
    times = interleaved(good, repeats)
    table = {
        name: {
            "ms": 1000 * statistics.median(values),
            "ratio": median_ratio(times[OURS], values),
            "memory": peaks[OURS] / peaks[name],
            "difference": differences.get(name, 0.0),
        }
        for name, values in times.items()
    }
    return table, unavailable


def rows(result: dict[str, Any]) -> list[Row]:
    """Ours against each peer and the field alone."""
    setting = f"{result['points']} points in {AMBIENT} dimensions"
    whats = {
        "exact": "field and Jacobian, exact score",
        "network": "field and Jacobian, score network",
        "flow": f"flow with Jacobian and density, {STEPS} steps",
    }
    found = []
    for table, what in whats.items():
        ours = result[table][OURS]
        for name, side in result[table].items():
            if name != OURS:
                note = f"{setting}; {ours['ms']:.2f} ms, {side['ms']:.2f} ms"
                if name != ALONE:
                    note += f"; values differ by {side['difference']:.0e}"
                found.append(Row(what, name, side["ratio"], None, note, side["memory"]))
        found += [Row(what, name, None, None, why) for name, why in result["unavailable"][table].items()]
    return found


if __name__ == "__main__":
    main(__doc__, measure, rows)

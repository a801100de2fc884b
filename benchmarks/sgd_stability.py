"""Batched replicas against single-net autograd steps, and exact sharpness against Hutchinson's estimates by curvlinops.

    python benchmarks/sgd_stability.py [--repetitions N] [--json FILE]

Step: one SGD step with one sample of (a) one net under autograd and ``torch.optim.SGD``, (b) 12 replicas in closed
form, gradient clipping on in both. What counts is (b) / 12 over (a).
Sharpness: trace, Frobenius norm and largest eigenvalue of the net with n=300 samples and P=10,100 parameters, exactly
(closed-form Gram matrix, and Gram matrix of an autograd Jacobian), against the trace alone from 100 Rademacher probes
of curvlinops' Gauss-Newton operator. One CPU thread, float64; all sides take turns, medians are reported.
"""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from curvature.benchmark import Row, interleaved, main, median_ratio, peak_bytes
from curvature.models.stability_nets import DiagonalLinearNet, TwoLayerReLUNet
from curvature.stability import Recipe, Replicas, batch_order, gram, sharpness, spread
from curvature.stability.autograd import output_gradients
from curvature.stability.problems import Problem, relu_teacher, sparse_regression

REPLICAS, STEPS, CLIP, PROBES = 12, 250, 100.0, 100
RATES = tuple(1e-5 * 1.5**lane for lane in range(REPLICAS))


def autograd_descent(net: nn.Module, problem: Problem) -> Callable[[], None]:
    """``STEPS`` steps of one net."""
    optimizer = torch.optim.SGD(net.parameters(), lr=RATES[0])
    parameters = list(net.parameters())

    def descend() -> None:
        for index in batch_order(0, 0, STEPS, len(problem.inputs)):
            optimizer.zero_grad()
            loss = (net(problem.inputs[index]) - problem.targets[index]).square().mean() / 2
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()

    return descend


def replica_descent(net: nn.Module, problem: Problem) -> Callable[[], Any]:
    """``STEPS`` steps of ``REPLICAS`` replicas, with the evaluation of the full loss that ends a chunk."""
    initial = {name: p.detach()[None] for name, p in net.named_parameters()}
    recipe = Recipe(RATES, total_steps=10**9, clip=CLIP)
    replicas = Replicas(
        net.family, spread(initial, REPLICAS), problem.inputs[None], problem.targets[None], (0,), recipe
    )
    return lambda: replicas.advance(STEPS)


def measure_steps(repetitions: int) -> dict[str, Any]:
    """Microseconds per step of one net, and per step and replica, with their ratio."""
    results: dict[str, Any] = {}
    for name, net, problem in (
        ("diagonal linear, d=1000", DiagonalLinearNet(1000), sparse_regression(0)),
        ("ReLU, d=100, m=100", TwoLayerReLUNet(100, 100), relu_teacher(0)),
    ):
        times = interleaved({"one": autograd_descent(net, problem), "all": replica_descent(net, problem)}, repetitions)
        single = 1e6 * statistics.median(times["one"]) / STEPS
        batched = 1e6 * statistics.median(times["all"]) / STEPS / REPLICAS
        ratio = median_ratio(times["all"], times["one"]) / REPLICAS
        results[name] = {"autograd_us": single, "replica_us": batched, "ratio": ratio}
    return results


def measure_sharpness(repetitions: int) -> dict[str, Any]:
    """Milliseconds of exact sharpness and of the estimated trace, speed-ups, and the estimate's relative error.

    Without curvlinops ``unavailable`` says why, and what needs it is missing.
    """
    net, problem = TwoLayerReLUNet(100, 100), relu_teacher(0)
    inputs = problem.inputs
    state = {name: p.detach()[None, None] for name, p in net.named_parameters()}
    values: dict[str, float] = {}

    def closed_form() -> None:
        values["closed"] = float(sharpness(net.family.gram(state, inputs[None])[0, 0]).trace)

    def jacobian() -> None:
        values["jacobian"] = float(sharpness(gram(output_gradients(net, inputs))).trace)

    def probes(estimate: Callable[[], float]) -> None:
        values["probes"] = estimate()

    sides: dict[str, Callable[[], None]] = {"closed": closed_form, "jacobian": jacobian}
    unavailable = ""
    try:
        sides["probes"] = partial(probes, estimated_trace(net, problem))
    except Exception as error:  # a peer that cannot run is shown as such
        unavailable = f"{type(error).__name__}: {error}"
    times = interleaved(sides, repetitions)
    milliseconds = {name: 1000 * statistics.median(column) for name, column in times.items()}
    found: dict[str, Any] = {
        "parameters": sum(p.numel() for p in net.parameters()),
        "samples": len(inputs),
        "closed_form_ms": milliseconds["closed"],
        "jacobian_ms": milliseconds["jacobian"],
        "exact_disagreement": abs(values["jacobian"] / values["closed"] - 1),
        "unavailable": unavailable,
    }
    if unavailable:
        return found
    return found | {
        "curvlinops_100_probes_ms": milliseconds["probes"],
        "speedup": median_ratio(times["probes"], times["closed"]),
        "speedup_jacobian": median_ratio(times["probes"], times["jacobian"]),
        "estimate_relative_error": abs(values["probes"] / values["closed"] - 1),
        "memory": {name: peak_bytes(sides[name]) / peak_bytes(sides["probes"]) for name in ("closed", "jacobian")},
    }


def estimated_trace(net: nn.Module, problem: Problem) -> Callable[[], float]:
    """The trace of the Gauss-Newton matrix from ``PROBES`` probes of curvlinops."""
    from curvlinops import GGNLinearOperator, hutchinson_trace

    with_column = nn.Sequential(net, nn.Unflatten(0, (-1, 1)))
    operator = GGNLinearOperator(
        with_column,
        nn.MSELoss(),
        list(with_column.parameters()),
        [(problem.inputs, problem.targets[:, None])],
        check_deterministic=False,
    )
    return lambda: float(hutchinson_trace(operator, PROBES)) / 2


def measure(repetitions: int = 7) -> dict[str, Any]:
    """Both comparisons, on one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return {"steps": measure_steps(repetitions), "sharpness": measure_sharpness(repetitions)}


def rows(result: dict[str, Any]) -> list[Row]:
    """A replica's step against an autograd step; exact sharpness against 100 probes."""
    found = [
        Row(
            f"step of a replica, {name}", "one net under autograd", times["ratio"], 0.1, f"{times['replica_us']:.2f} us"
        )
        for name, times in result["steps"].items()
    ]
    exact, peer = result["sharpness"], "curvlinops, trace from 100 probes"
    whats = {"closed": "trace, Frobenius norm, lambda_max, closed form", "jacobian": "the same, autograd Jacobian"}
    limits = {"closed": 0.2}
    if exact["unavailable"]:
        return found + [Row(what, peer, None, limits.get(k), exact["unavailable"]) for k, what in whats.items()]
    note = (
        f"n={exact['samples']}, P={exact['parameters']}; the estimate is off by {exact['estimate_relative_error']:.2%}"
    )
    ratios = {"closed": 1 / exact["speedup"], "jacobian": 1 / exact["speedup_jacobian"]}
    return found + [Row(what, peer, ratios[k], limits.get(k), note, exact["memory"][k]) for k, what in whats.items()]


if __name__ == "__main__":
    main(__doc__, measure, rows)

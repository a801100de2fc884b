"""Largest eigenvalue and trace of a Hessian against other packages, at equal accuracy, on one CPU thread.

    python benchmarks/hessian.py [--repeats N] [--json FILE]

A small MLP after some training, whose dense Hessian gives the truth. For the eigenvalue every side, ours too, gets the
loosest setting of its own (tolerance or number of steps) whose relative error is within a goal; what it then reached is
in the notes, and a side that cannot get there is shown as such. ``power iteration`` is the loop of double backward
passes that PyHessian made popular, written out. Traces are Hutchinson's estimate from 64 Rademacher probes everywhere,
so that all have the standard error that the notes give; ours and curvlinops draw the same probes.
"""

import statistics
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from curvature.benchmark import Row, interleaved, main, median_ratio
from curvature.hessian.operator import exact_arithmetic, hessian
from curvature.hessian.spectrum import lambda_max, trace

OURS, LOOP, PYHESSIAN, CURVLINOPS, EIGENTHINGS = (
    "curvature",
    "power iteration",
    "PyHessian",
    "curvlinops",
    "hessian-eigenthings",
)
GOALS = (1e-3, 1e-12)
TOLERANCES = tuple(10.0**-digits for digits in range(1, 16))
KRYLOV = tuple(range(2, 31))
PROBES, MOST = 64, 500


class Side(NamedTuple):
    """What a package does: the eigenvalue at a setting, settings from loose to tight, and the trace if it has one."""

    eigenvalue: Callable[[Any], float]
    settings: Sequence[Any]
    trace: Callable[[], float] | None


def problem(width: int = 24, samples: int = 256) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """A trained MLP on digits in float64, its criterion and its data."""
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    inputs = torch.as_tensor(images[:samples], dtype=torch.float64) / 8 - 1
    targets = torch.as_tensor(labels[:samples])
    model = nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 10))
    model.double()
    criterion, optimizer = nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    return model.eval(), criterion, inputs, targets


def measure(repeats: int = 7, threads: int = 1) -> dict[str, Any]:
    """Milliseconds and values of every package, for both quantities.

    Returns:
        ``lambda_max``: goal -> side -> {``ms``, ``error``: relative to the dense Hessian's, ``setting``, ``ratio``:
        median of ours over it}; ``trace``: side -> the same without ``setting``; ``missed``: goal -> side -> its
        smallest error; ``standard_error``: of the traces, relative; ``unavailable``: side -> why; ``parameters``.
    """
    torch.set_num_threads(threads)
    model, criterion, inputs, targets = problem()
    with exact_arithmetic(model):
        operator = hessian(model, criterion, [(inputs, targets)])
        dense = operator @ torch.eye(operator.shape[0], dtype=torch.float64)
    truth = {"lambda_max": float(torch.linalg.eigvalsh(dense)[-1]), "trace": float(dense.trace())}
    sides: dict[str, Side] = {}
    unavailable: dict[str, str] = {}
    makers = {OURS: _ours, LOOP: _loop, PYHESSIAN: _pyhessian, CURVLINOPS: _curvlinops, EIGENTHINGS: _eigenthings}
    for name, make in makers.items():
        try:
            side = make(model, criterion, inputs, targets)
            side.eigenvalue(side.settings[0])
            if side.trace is not None:
                side.trace()
            sides[name] = side
        except Exception as error:  # a peer that cannot run is shown as such
            if name == OURS:
                raise
            unavailable[name] = f"{type(error).__name__}: {error}"
    spread = 2 * (dense.square().sum() - dense.diagonal().square().sum()) / PROBES
    found: dict[str, Any] = {
        "parameters": len(dense),
        "unavailable": unavailable,
        "truth": truth,
        "standard_error": float(spread.sqrt()) / truth["trace"],
        "missed": {},
        "lambda_max": {},
    }
    for goal in GOALS:
        calls, settings, missed = {}, {}, {}
        for name, side in sides.items():
            errors: list[float] = []
            for setting in side.settings:
                errors.append(abs(side.eigenvalue(setting) / truth["lambda_max"] - 1))
                if errors[-1] <= goal:
                    settings[name] = setting
                    calls[name] = partial(side.eigenvalue, setting)
                    break
            else:
                missed[name] = min(errors)
        timed = _timed(calls, truth["lambda_max"], repeats)
        found["lambda_max"][f"{goal:g}"] = {name: facts | {"setting": settings[name]} for name, facts in timed.items()}
        found["missed"][f"{goal:g}"] = missed
    traces = {name: side.trace for name, side in sides.items() if side.trace is not None}
    return found | {"trace": _timed(traces, truth["trace"], repeats)}


def _timed(calls: dict[str, Callable[[], float]], truth: float, repeats: int) -> dict[str, dict[str, float]]:
    times = interleaved(calls, repeats)
    return {
        name: {
            "ms": 1000 * statistics.median(times[name]),
            "ratio": median_ratio(times[OURS], times[name]),
            "error": abs(call() / truth - 1),
        }
        for name, call in calls.items()
    }


def power_iteration(
    model: nn.Module, criterion: nn.Module, inputs: Tensor, targets: Tensor, tolerance: float = 1e-3
) -> float:
    """Largest eigenvalue by a loop of double backward passes over one graph; stops when it changes by ``tolerance``."""
    params = list(model.parameters())
    gradients = torch.autograd.grad(criterion(model(inputs), targets), params, create_graph=True)
    generator = torch.Generator().manual_seed(0)
    vector = [torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in params]
    value = 0.0
    for _ in range(MOST):
        norm = torch.stack([v.square().sum() for v in vector]).sum().sqrt()
        vector = [v / norm for v in vector]
        product = torch.autograd.grad(gradients, params, vector, retain_graph=True)
        last, value = value, float(sum((v * w).sum() for v, w in zip(vector, product, strict=True)))
        if abs(value - last) <= tolerance * abs(value):
            break
        vector = list(product)
    return value


def _ours(model: nn.Module, criterion: nn.Module, inputs: Tensor, targets: Tensor) -> Side:
    batches = [(inputs, targets)]
    return Side(
        lambda tolerance: lambda_max(model, criterion, batches, tolerance=tolerance).value,
        TOLERANCES,
        lambda: trace(model, criterion, batches, PROBES),
    )


def _loop(model: nn.Module, criterion: nn.Module, inputs: Tensor, targets: Tensor) -> Side:
    return Side(lambda tolerance: power_iteration(model, criterion, inputs, targets, tolerance), TOLERANCES, None)


def _pyhessian(model: nn.Module, criterion: nn.Module, inputs: Tensor, targets: Tensor) -> Side:
    from pyhessian import hessian as PyHessian

    def make() -> Any:
        torch.manual_seed(0)
        model.zero_grad(set_to_none=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Using backward")
            return PyHessian(model, criterion, data=(inputs, targets), cuda=False)

    def mean_of_probes() -> float:
        # It would stop early wherever the mean changes by less than the tolerance.
        values = make().trace(maxIter=PROBES, tol=-float("inf"))
        return float(sum(values) / len(values))

    return Side(
        lambda tolerance: float(make().eigenvalues(maxIter=MOST, tol=tolerance)[0][0]), TOLERANCES, mean_of_probes
    )


def _curvlinops(model: nn.Module, criterion: nn.Module, inputs: Tensor, targets: Tensor) -> Side:
    import numpy as np
    from curvlinops import HessianLinearOperator, hutchinson_trace
    from scipy.sparse.linalg import eigsh

    def make() -> Any:
        params = list(model.parameters())
        return HessianLinearOperator(model, criterion, params, [(inputs, targets)], check_deterministic=False)

    def eigenvalue(tolerance: float) -> float:
        operator = make().to_scipy()
        first = np.random.default_rng(0).standard_normal(operator.shape[0])
        return float(eigsh(operator, k=1, which="LA", tol=tolerance, v0=first)[0][-1])

    def estimate() -> float:
        torch.manual_seed(0)
        return float(hutchinson_trace(make(), num_matvecs=PROBES))

    return Side(eigenvalue, TOLERANCES, estimate)


def _eigenthings(model: nn.Module, criterion: nn.Module, inputs: Tensor, targets: Tensor) -> Side:
    from hessian_eigenthings import HessianOperator, hutchinson, lanczos

    def loss(net: nn.Module, batch: Any) -> Tensor:
        return criterion(net(batch[0]), batch[1])  # type: ignore[no-any-return]

    def make() -> Any:
        return HessianOperator(model, [(inputs, targets)], loss)

    return Side(
        lambda steps: float(lanczos(make(), k=1, max_iter=steps, which="LA", seed=0).eigenvalues[0]),
        KRYLOV,
        lambda: float(hutchinson(make(), num_samples=PROBES, seed=0).estimate),
    )


def rows(result: dict[str, Any]) -> list[Row]:
    """Ours against each package."""
    size, found = f"P={result['parameters']}", []
    tables = {f"lambda_max to {goal}, {size}": sides for goal, sides in result["lambda_max"].items()}
    for what, sides in (tables | {f"trace, {PROBES} probes, {size}": result["trace"]}).items():
        ours = sides[OURS]
        for name, side in sides.items():
            if name != OURS:
                note = f"{ours['ms']:.1f} ms, error {ours['error']:.1e}; {side['ms']:.1f} ms, error {side['error']:.1e}"
                if "trace" in what:
                    note += f"; standard error {result['standard_error']:.1e} on all sides"
                found.append(Row(what, name, side["ratio"], None, note))
    for goal, sides in result["missed"].items():
        for name, error in sides.items():
            why = f"does not get there: error {error:.1e} at best"
            found.append(Row(f"lambda_max to {goal}, {size}", name, None, None, why))
    return found + [Row("Hessian measures", name, None, None, why) for name, why in result["unavailable"].items()]


if __name__ == "__main__":
    main(__doc__, measure, rows)

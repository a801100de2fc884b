"""Largest eigenvalue and trace of a Hessian against other packages, at equal accuracy, on one CPU thread.

    python benchmarks/hessian.py [--repeats N] [--json FILE]

A small MLP after some training, whose dense Hessian gives the truth. Every package gets the tolerance 1e-3 of its own
stopping rule and what it then reached is in the notes. ``power iteration`` is the loop of double backward passes that
PyHessian made popular, written out, with the same stopping rule; PyHessian itself runs too if it can be imported.
Traces take 64 Rademacher probes everywhere.
"""

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from curvature.benchmark import Row, interleaved, main
from curvature.hessian.operator import exact_arithmetic, hessian
from curvature.hessian.spectrum import lambda_max, trace

OURS, LOOP, PYHESSIAN, CURVLINOPS, EIGENTHINGS = (
    "curvature",
    "power iteration",
    "PyHessian",
    "curvlinops",
    "eigenthings",
)
TOLERANCE, PROBES, MOST = 1e-3, 64, 200


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
        ``lambda_max`` and ``trace``: side -> {``ms``, ``value``, ``error``: relative to the dense Hessian's};
        ``unavailable``: side -> why; ``parameters``.
    """
    torch.set_num_threads(threads)
    model, criterion, inputs, targets = problem()
    batches = [(inputs, targets)]
    with exact_arithmetic(model):
        operator = hessian(model, criterion, batches)
        dense = operator @ torch.eye(operator.shape[0], dtype=torch.float64)
    truth = {"lambda_max": float(torch.linalg.eigvalsh(dense)[-1]), "trace": float(dense.trace())}
    sides: dict[str, dict[str, Callable[[], float]]] = {
        "lambda_max": {
            OURS: lambda: lambda_max(model, criterion, batches, tolerance=TOLERANCE).value,
            LOOP: lambda: power_iteration(model, criterion, inputs, targets),
        },
        "trace": {OURS: lambda: trace(model, criterion, batches, PROBES)},
    }
    unavailable: dict[str, str] = {}
    for name, add in ((PYHESSIAN, _pyhessian), (CURVLINOPS, _curvlinops), (EIGENTHINGS, _eigenthings)):
        try:
            for quantity, call in add(model, criterion, inputs, targets).items():
                call()
                sides[quantity][name] = call
        except Exception as error:  # a peer that cannot run is shown as such
            unavailable[name] = f"{type(error).__name__}: {error}"
    found: dict[str, Any] = {"parameters": len(dense), "unavailable": unavailable, "truth": truth}
    for quantity, calls in sides.items():
        times = interleaved(calls, repeats)
        found[quantity] = {
            name: {
                "ms": 1000 * statistics.median(times[name]),
                "value": (value := call()),
                "error": abs(value / truth[quantity] - 1),
            }
            for name, call in calls.items()
        }
    return found


def power_iteration(model: nn.Module, criterion: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Largest eigenvalue by a loop of double backward passes over one graph; stops when it changes by 1e-3."""
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
        if abs(value - last) <= TOLERANCE * abs(value):
            break
        vector = list(product)
    return value


def _pyhessian(
    model: nn.Module, criterion: nn.Module, inputs: Tensor, targets: Tensor
) -> dict[str, Callable[[], float]]:
    from pyhessian import hessian as PyHessian

    def make() -> Any:
        model.zero_grad(set_to_none=True)
        return PyHessian(model, criterion, data=(inputs, targets), cuda=False)

    return {
        "lambda_max": lambda: float(make().eigenvalues(maxIter=MOST, tol=TOLERANCE)[0][0]),
        "trace": lambda: float(sum(values := make().trace(maxIter=PROBES, tol=0.0)) / len(values)),
    }


def _curvlinops(
    model: nn.Module, criterion: nn.Module, inputs: Tensor, targets: Tensor
) -> dict[str, Callable[[], float]]:
    from curvlinops import HessianLinearOperator, hutchinson_trace
    from scipy.sparse.linalg import eigsh

    def make() -> Any:
        params = list(model.parameters())
        return HessianLinearOperator(model, criterion, params, [(inputs, targets)], check_deterministic=False)

    return {
        "lambda_max": lambda: float(eigsh(make().to_scipy(), k=1, which="LA", tol=TOLERANCE)[0][-1]),
        "trace": lambda: float(hutchinson_trace(make(), num_matvecs=PROBES)),
    }


def _eigenthings(
    model: nn.Module, criterion: nn.Module, inputs: Tensor, targets: Tensor
) -> dict[str, Callable[[], float]]:
    from hessian_eigenthings import HessianOperator, hutchinson, lanczos

    def loss(net: nn.Module, batch: Any) -> Tensor:
        return criterion(net(batch[0]), batch[1])  # type: ignore[no-any-return]

    def make() -> Any:
        return HessianOperator(model, [(inputs, targets)], loss)

    return {
        "lambda_max": lambda: float(lanczos(make(), k=1, tol=TOLERANCE, which="LA", seed=0).eigenvalues[0]),
        "trace": lambda: float(hutchinson(make(), num_samples=PROBES, seed=0).estimate),
    }


def rows(result: dict[str, Any]) -> list[Row]:
    """Ours against each package."""
    found = []
    for quantity in ("lambda_max", "trace"):
        ours = result[quantity][OURS]
        for name, side in result[quantity].items():
            if name != OURS:
                note = f"{ours['ms']:.1f} ms, error {ours['error']:.1e}; {side['ms']:.1f} ms, error {side['error']:.1e}"
                found.append(Row(f"{quantity}, P={result['parameters']}", name, ours["ms"] / side["ms"], None, note))
    return found + [Row("Hessian measures", name, None, None, why) for name, why in result["unavailable"].items()]


if __name__ == "__main__":
    main(__doc__, measure, rows)

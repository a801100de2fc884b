"""How the cost of each hot path grows with its size, beside the exponent that theory gives.

    python benchmarks/growth.py [--rounds N] [--json FILE]

One CPU thread. Exponents are slopes over the upper half of the sizes, where constant costs weigh least; a slope below
the theoretical one means that the constant part still shows.
"""

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from curvature.benchmark import Action, Row, growth, main
from curvature.cluster.queue import parse
from curvature.cluster.submission import SubmittedJob
from curvature.cluster.watch import Watch
from curvature.geometry import grassmann
from curvature.hessian.spectrum import trace
from curvature.models.spdnet import GBWBatchNorm
from curvature.optim import SAM
from curvature.optim.policy_gradient import VanillaPG
from curvature.optim.riemannian_sgd import RiemannianSGD
from curvature.rl import PolicyOracle
from curvature.rl.lqr import LinearQuadratic
from curvature.samplers.correction import levenberg_marquardt_correction

SLACK = 0.25
"""How far a measured exponent may lie above the theoretical one."""


def sam_step(parameters: int) -> Action:
    """SAM's own cost: gradients come for free."""
    params = [nn.Parameter(torch.randn(parameters // 8)) for _ in range(8)]
    gradients = [torch.randn_like(p) for p in params]

    def closure() -> None:
        for p, g in zip(params, gradients, strict=True):
            p.grad = g

    optimizer = SAM([(str(i), p) for i, p in enumerate(params)], partial(torch.optim.SGD, lr=1e-3))
    return partial(optimizer.step, closure)


def grassmann_step(classes: int) -> Action:
    """A step on C subspaces of dimension 8 in 64 dimensions."""
    point = nn.Parameter(grassmann.column_major(grassmann.random_point(classes, 64, 8)))
    point.grad = grassmann.column_major(0.01 * torch.randn(classes, 64, 8))
    return RiemannianSGD([point], lr=0.1, momentum=0.9).step


def batch_norm(size: int) -> Action:
    """Forward and backward of the Bures-Wasserstein batch norm on 16 n x n matrices."""
    factor = torch.randn(16, size, 2 * size, dtype=torch.float64)
    points = (factor @ factor.mT / (4 * size)).requires_grad_()
    layer = GBWBatchNorm(size, theta=0.5)

    def step() -> None:
        layer(points).sum().backward()

    return step


def hessian_trace(probes: int) -> Action:
    """Hutchinson's estimate for a small MLP."""
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    batches = [(torch.randn(128, 64), torch.randint(10, (128,)))]
    return lambda: trace(model, nn.CrossEntropyLoss(), batches, probes)


def lqr_iteration(replicas: int) -> Action:
    """A vanilla policy-gradient iteration of all replicas."""
    lqr = LinearQuadratic()
    policy = lqr.policy(replicas)
    return VanillaPG(policy.parameters(), PolicyOracle(lqr, policy), lr=0.002, replicas=True).step


def correction(dimension: int) -> Action:
    """The Levenberg-Marquardt-Langevin correction of one sample."""
    g, p = torch.randn(2, 1, dimension)
    return lambda: levenberg_marquardt_correction(g, p, 1.0, 0.3)


def bookkeeping(jobs: int) -> Action:
    """Reading one answer of SLURM about a job array into the table of a waiting launch."""
    from rich.console import Console

    folder = Path(tempfile.gettempdir())
    watch = Watch([SubmittedJob(f"7_{i}", f"s{i}", folder) for i in range(jobs)], 1.0, Console(quiet=True))
    answer = "".join(f"7_{i}|PENDING|None assigned|00:00:00|Resources\n" for i in range(jobs))
    watch.queue.states = lambda: parse(answer)  # type: ignore[method-assign]
    return watch.poll


PATHS: dict[str, tuple[str, float, Callable[[int], Action], list[int]]] = {
    "SAM's own step": ("parameters", 1.0, sam_step, [2**e for e in range(14, 24, 2)]),
    "Riemannian SGD step": ("classes", 1.0, grassmann_step, [32, 128, 512, 2048]),
    "Bures-Wasserstein batch norm": ("matrix size", 3.0, batch_norm, [8, 16, 32, 64, 96]),
    "Hutchinson trace": ("probes", 1.0, hessian_trace, [8, 16, 32, 64, 128]),
    "LQR iteration": ("environments", 1.0, lqr_iteration, [64, 256, 1024, 4096]),
    "LML correction": ("dimension", 1.0, correction, [2**e for e in range(12, 23, 2)]),
    "poll of queued jobs": ("jobs", 1.0, bookkeeping, [50, 200, 800, 3200]),
}
"""Name -> what grows, exponent in theory, maker, sizes."""


def measure(rounds: int = 5, threads: int = 1) -> dict[str, Any]:
    """Name -> ``over``, ``theory`` and what :func:`curvature.benchmark.growth` returns."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    return {
        name: {"over": over, "theory": theory} | growth(make, sizes, rounds)
        for name, (over, theory, make, sizes) in PATHS.items()
    }


def rows(result: dict[str, Any]) -> list[Row]:
    """Exponent over the theoretical one."""
    return [
        Row(
            name,
            f"growth with {path['over']}",
            path["exponent"] / path["theory"],
            (path["theory"] + SLACK) / path["theory"],
            f"exponent {path['exponent']:.2f}, in theory {path['theory']:g}; "
            f"{1000 * path['seconds'][0]:.3g} ms at {path['sizes'][0]}, {1000 * path['seconds'][-1]:.3g} ms at "
            f"{path['sizes'][-1]}",
        )
        for name, path in result.items()
    ]


def plot(record: Path, picture: Path) -> None:
    """Draw the log-log plots of a JSON record."""
    from matplotlib.figure import Figure

    paths = json.loads(record.read_text())["result"]
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    axes = list(figure.subplots(2, (len(paths) + 1) // 2).flat)
    for axis, (name, path) in zip(axes, paths.items(), strict=False):
        sizes, seconds = path["sizes"], path["seconds"]
        axis.loglog(sizes, seconds, "o-", label=f"measured, slope {path['exponent']:.2f}")
        line = [seconds[-1] * (size / sizes[-1]) ** path["theory"] for size in sizes]
        axis.loglog(sizes, line, "--", color="grey", label=f"theory, slope {path['theory']:g}")
        axis.set(title=name, xlabel=path["over"], ylabel="s")
        axis.legend(fontsize="x-small")
    for axis in axes[len(paths) :]:
        axis.set_visible(False)
    figure.savefig(picture, dpi=80)


if __name__ == "__main__":
    main(__doc__, measure, rows)

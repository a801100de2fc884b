"""How the cost of each hot path grows with its size, beside the exponent that theory gives.

    python benchmarks/growth.py [--rounds N] [--json FILE]

CPU seconds of one thread, which load from elsewhere hardly changes. Exponents are slopes of straight lines through the
largest sizes, four at least, where constant costs weigh least. They must lie within 0.25 of the theoretical exponent:
above it something grows that should not, which is a miss; below it, constant costs still show at these sizes, and the
row says ``below``.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from curvature.alignment import Domain, Hutchinson
from curvature.benchmark import Action, Row, growth, main
from curvature.cluster.queue import parse
from curvature.cluster.submission import SubmittedJob
from curvature.cluster.watch import Watch
from curvature.domainbed.records import COLUMNS
from curvature.domainbed.selection import select
from curvature.geometry import grassmann
from curvature.hessian.spectrum import lambda_max, trace
from curvature.models.mlp import HeadedNetwork
from curvature.models.spdnet import GBWBatchNorm
from curvature.optim import HESSO, SAM
from curvature.optim.policy_gradient import VanillaPG
from curvature.optim.riemannian_sgd import RiemannianSGD
from curvature.pruning import build_search_space
from curvature.rl import PolicyOracle
from curvature.rl.lqr import LinearQuadratic
from curvature.samplers.correction import levenberg_marquardt_correction
from curvature.tracking import OFFLINE, Tracker

SLACK = 0.25
"""How far a measured exponent may lie from the theoretical one."""


def sam_step(parameters: int) -> Action:
    """SAM's own cost: gradients come for free."""
    params = [nn.Parameter(torch.randn(parameters // 8)) for _ in range(8)]
    gradients = [torch.randn_like(p) for p in params]

    def closure() -> None:
        for p, g in zip(params, gradients, strict=True):
            p.grad = g

    optimizer = SAM([(str(i), p) for i, p in enumerate(params)], partial(torch.optim.SGD, lr=1e-3))
    return partial(optimizer.step, closure)


def hesso_step(parameters: int) -> Action:
    """A step of HESSO with momentum while slices shrink, on four linear layers; gradients come for free."""
    width = round((parameters / 4) ** 0.5)
    network = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(width, width), nn.ReLU())))
    for p in network.parameters():
        p.grad = 1e-3 * torch.randn_like(p)
    space = build_search_space(network, torch.randn(2, width))
    optimizer = HESSO(space, lr=1e-4, momentum=0.9, target_group_sparsity=0.5, pruning_steps=10**7, pruning_periods=10)
    optimizer.step()
    return optimizer.step


def grassmann_step(classes: int) -> Action:
    """A step on C subspaces of dimension 8 in 64 dimensions."""
    point = nn.Parameter(grassmann.column_major(grassmann.random_point(classes, 64, 8)))
    point.grad = grassmann.column_major(0.01 * torch.randn(classes, 64, 8))
    return RiemannianSGD([point], lr=0.1, momentum=0.9).step


def batch_norm(size: int) -> Action:
    """Forward and backward of the Bures-Wasserstein batch norm on 8 n x n matrices."""
    factor = torch.randn(8, size, 2 * size, dtype=torch.float64)
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


def largest_eigenvalue(parameters: int) -> Action:
    """Of the Hessian of an MLP with two hidden layers as wide as it takes, in one Krylov space of 20 dimensions.

    The tolerance is so large that no size needs a second space: how many are needed is a question of the spectrum.
    """
    width = round((38**2 + parameters) ** 0.5 - 38)
    widths = [64, width, width, 10]
    layers = [layer for fan in pairwise(widths) for layer in (nn.Linear(*fan), nn.Tanh())][:-1]
    model, batches = nn.Sequential(*layers), [(torch.randn(32, 64), torch.randint(10, (32,)))]
    return lambda: lambda_max(model, nn.CrossEntropyLoss(), batches, tolerance=0.5)


def head_penalty(classes: int) -> Action:
    """Forward and backward of the exact diagonals' penalty on three domains of 64 samples and 512 features."""
    network, method = HeadedNetwork(nn.Identity(), nn.Linear, 512, classes), Hutchinson()
    features, labels = torch.randn(3, 64, 512), torch.randint(classes, (3, 64))

    def step() -> None:
        leaves = features.clone().requires_grad_().unbind()
        domains = [Domain(leaf, network.head(leaf), own) for leaf, own in zip(leaves, labels)]
        method.penalty(domains, network).backward()

    return step


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


def model_selection(records: int) -> Action:
    """All rules of selection on runs of 15 checkpoints, with four environments each, that leave out one of four."""
    run, step, env = np.unravel_index(np.arange(records), (records // 60 + 1, 15, 4))
    accuracies = np.random.default_rng(0).random((2, records))
    names = {"dataset": "PACS", "algorithm": "ERM", "test_envs": (run % 4).astype(str), "run": run.astype(str)}
    seeds = {"trial_seed": run // 4 % 3, "hparams_seed": run // 12, "step": 300 * step, "env": env}
    frame = pd.DataFrame(names | seeds | {"in_acc": accuracies[0], "out_acc": accuracies[1]})[COLUMNS]
    frame = frame.astype(dict.fromkeys(names, "category"))
    return lambda: select(frame)


def logging(metrics: int) -> Action:
    """That many metrics of a run, four a step, until they are on disk."""

    def log() -> None:
        with tempfile.TemporaryDirectory() as folder:
            tracker = Tracker(folder, OFFLINE, "benchmark", "run")
            tracker.start()
            for step in range(metrics // 4):
                tracker.log_metrics({"loss": 0.5, "accuracy": 0.5, "lr": 0.1, "norm": 1.0}, step)
            tracker.finish("FINISHED")

    return log


PATHS: dict[str, tuple[str, float, Callable[[int], Action], list[int]]] = {
    "SAM's own step": ("parameters", 1.0, sam_step, [2**e for e in range(20, 26)]),
    "HESSO step": ("parameters", 1.0, hesso_step, [2**e for e in range(20, 26)]),
    "lambda_max": ("parameters", 1.0, largest_eigenvalue, [2**e for e in range(14, 20)]),
    "Riemannian SGD step": ("classes", 1.0, grassmann_step, [2**e for e in range(6, 13)]),
    "head Hessian penalty": ("classes", 1.0, head_penalty, [2**e for e in range(6, 12)]),
    "Bures-Wasserstein batch norm": ("matrix size", 3.0, batch_norm, [32, 64, 96, 128, 192, 256]),
    "Hutchinson trace": ("probes", 1.0, hessian_trace, [2**e for e in range(4, 9)]),
    "LQR iteration": ("environments", 1.0, lqr_iteration, [4**e for e in range(4, 9)]),
    "LML correction": ("dimension", 1.0, correction, [2**e for e in range(19, 25)]),
    "poll of queued jobs": ("jobs", 1.0, bookkeeping, [50 * 2**e for e in range(7)]),
    "model selection": ("records", 1.0, model_selection, [60_000 * 2**e for e in range(6)]),
    "logging": ("metrics", 1.0, logging, [2**e for e in range(12, 18)]),
}
"""Name -> what grows, exponent in theory, maker, sizes.

Where time is memory traffic, the four largest sizes hardly fit a cache of 32 MB: across its edge no exponent holds.
"""


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
            1 + SLACK / path["theory"],
            f"exponent {path['exponent']:.2f} over {path['fitted']} sizes, in theory {path['theory']:g}; "
            f"{1000 * path['seconds'][0]:.3g} ms at {path['sizes'][0]}, {1000 * path['seconds'][-1]:.3g} ms at "
            f"{path['sizes'][-1]}",
            least=1 - SLACK / path["theory"],
        )
        for name, path in result.items()
    ]


if __name__ == "__main__":
    main(__doc__, measure, rows)

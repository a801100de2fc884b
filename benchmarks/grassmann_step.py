"""Cost of one optimiser step on class subspaces, against the SVD form, geoopt's Stiefel manifold and a plain SGD step.

    python benchmarks/grassmann_step.py                       C=1000, n=384, k=8 on one CPU thread
    python benchmarks/grassmann_step.py --n 2048 --share      and as a share of a ResNet50-D training step
    python benchmarks/grassmann_step.py --device cuda

Every round times one step of each arm, in rotating order; what is reported are medians over rounds and medians of the
ratios within rounds. All arms start from the same point with the same gradient and momentum 0.9. The SVD form is the
textbook update: project, thin SVD of every class's n x k tangent, geodesic, QR every five steps. ``SGD`` is torch's
SGD with momentum on the same tensor, a floor that ignores the geometry.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from curvature.geometry import grassmann
from curvature.optim.riemannian_sgd import RiemannianSGD

Step = Callable[[], Any]
LR, MOMENTUM, REORTH_EVERY = 0.1, 0.9, 5
OURS, SVD, GEOOPT, GEOOPT_CANONICAL, FLOOR = "RiemannianSGD", "SVD form", "geoopt Euclidean", "geoopt canonical", "SGD"
SLOW = 256
"""The canonical metric solves (n, n) systems a class; with more rows it would take seconds a step and is left out."""


def measure(
    classes: int = 1000, n: int = 384, k: int = 8, rounds: int = 15, threads: int = 1, device: str = "cpu"
) -> dict[str, Any]:
    """Time all arms on subspaces (classes, n, k) in float32.

    Args:
        classes, n, k: C, n and k.
        rounds: rounds that count, a multiple of five so that re-orthonormalisation weighs as it does in training; five
            more go before.
        threads: CPU threads of torch.
        device: where to run.

    Returns:
        ``arms``: name -> {``ms``: mean time of a step over the median block of five rounds, ``ratio``: the same over
        that of ``RiemannianSGD``, median over blocks}, and the setting.
    """
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    start = grassmann.random_point(classes, n, k, generator=generator).to(device)
    gradient = (0.01 * torch.randn(classes, n, k, generator=generator)).to(device)
    makers: dict[str, Callable[[torch.Tensor, torch.Tensor], Step]] = {OURS: _ours, SVD: _svd, FLOOR: _sgd}
    makers |= {GEOOPT: lambda point, grad: _geoopt(point, grad, "EuclideanStiefel")}
    if n <= SLOW:
        makers[GEOOPT_CANONICAL] = lambda point, grad: _geoopt(point, grad, "CanonicalStiefel")
    steps = {name: make(start.clone(), gradient.clone()) for name, make in makers.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(-REORTH_EVERY, rounds):
        names = list(steps)
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            seconds = _seconds(steps[name], device)
            if index >= 0:
                times[name].append(seconds)
    blocks = {name: _blocks(values) for name, values in times.items()}
    arms = {
        name: {
            "ms": 1000 * statistics.median(values),
            "ratio": statistics.median(value / ours for value, ours in zip(values, blocks[OURS])),
        }
        for name, values in blocks.items()
    }
    return {"classes": classes, "n": n, "k": k, "device": device, "threads": threads, "rounds": rounds, "arms": arms}


def share_of_training_step(
    classes: int = 1000, n: int = 2048, k: int = 8, images: int = 4, per_device: int = 32, repetitions: int = 3
) -> dict[str, float]:
    """The step on subspaces as a share of a ResNet50-D training step at 224 x 224.

    Returns:
        ``measured``: seconds of our step over seconds of forward and backward of ``images`` images, scaled to
        ``per_device`` images; ``flops``: the same of floating-point operations, 10 C n k^2 + C k^3 * 30 against three
        forward passes.
    """
    import timm

    model = timm.create_model("resnet50d", num_classes=classes).train()
    inputs = torch.randn(images, 3, 224, 224)
    step = _ours(grassmann.random_point(classes, n, k), 0.01 * torch.randn(classes, n, k))
    multiplications = _multiplications(model, inputs[:1])

    def train() -> None:
        model.zero_grad()
        model(inputs).mean().backward()

    train()
    step()
    network = statistics.median(_seconds(train, "cpu") for _ in range(repetitions))
    update = statistics.median(_seconds(step, "cpu") for _ in range(5 * repetitions))
    flops = 10 * classes * n * k**2 + 30 * classes * k**3
    return {
        "network_s": network * per_device / images,
        "update_s": update,
        "measured": update / (network * per_device / images),
        "flops": flops / (3 * 2 * multiplications * per_device),
    }


def _multiplications(model: torch.nn.Module, image: torch.Tensor) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(image)
    model.train()
    return counter.get_total_flops() / 2


def _ours(point: torch.Tensor, gradient: torch.Tensor) -> Step:
    parameter = torch.nn.Parameter(grassmann.column_major(point))
    parameter.grad = grassmann.column_major(gradient)
    return RiemannianSGD([parameter], lr=LR, momentum=MOMENTUM, reorth_every=REORTH_EVERY).step


def _sgd(point: torch.Tensor, gradient: torch.Tensor) -> Step:
    parameter = torch.nn.Parameter(point)
    parameter.grad = gradient
    return torch.optim.SGD([parameter], lr=1e-9, momentum=MOMENTUM).step


def _svd(point: torch.Tensor, gradient: torch.Tensor) -> Step:
    state = {"point": point, "buffer": torch.zeros_like(point), "step": 0}

    def step() -> None:
        here: Any = state["point"]
        buffer = grassmann.project(here, MOMENTUM * state["buffer"] + gradient)
        left, speeds, right = torch.linalg.svd(buffer, full_matrices=False)
        angles = (LR * speeds).unsqueeze(-2)
        moved = (here @ right.mT * torch.cos(angles) - left * torch.sin(angles)) @ right
        state["step"] += 1
        if state["step"] % REORTH_EVERY == 0:
            moved = grassmann.reorthonormalise(moved)[0]
        state["point"], state["buffer"] = moved, buffer

    step.state = state  # type: ignore[attr-defined]
    return step


def _geoopt(point: torch.Tensor, gradient: torch.Tensor, manifold: str) -> Step:
    import geoopt

    parameter = geoopt.ManifoldParameter(point, manifold=getattr(geoopt, manifold)())
    parameter.grad = gradient
    return geoopt.optim.RiemannianSGD([parameter], lr=LR, momentum=MOMENTUM, stabilize=REORTH_EVERY).step


def _blocks(values: list[float]) -> list[float]:
    return [statistics.mean(values[start : start + REORTH_EVERY]) for start in range(0, len(values), REORTH_EVERY)]


def _seconds(step: Step, device: str) -> float:
    synchronize = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    synchronize()
    start = time.perf_counter()
    step()
    synchronize()
    return time.perf_counter() - start


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--n", type=int, default=384)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--share", action="store_true", help="also the share of a ResNet50-D training step (CPU)")
    parser.add_argument("--json", type=Path, help="write the results here too")
    options = parser.parse_args()
    result = measure(options.classes, options.n, options.k, options.rounds, options.threads, options.device)
    table = Table("arm", "ms / step", f"x {OURS}", title=f"{options.classes} x {options.n} x {options.k}, float32")
    for name, arm in result["arms"].items():
        table.add_row(name, f"{arm['ms']:.2f}", f"{arm['ratio']:.2f}")
    Console().print(table)
    if options.share:
        result["share"] = share_of_training_step(options.classes, 2048, options.k)
        Console().print(result["share"])
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Cost of one optimiser step on class subspaces, against the SVD form, geoopt's Stiefel manifold and a plain SGD step.

    python benchmarks/grassmann_step.py                       C=1000, n=384, k=8 on one CPU thread
    python benchmarks/grassmann_step.py --device cuda

Every round times one step of each arm, in rotating order; what is reported are medians over rounds and medians of the
ratios within rounds. All arms start from the same point with the same gradient and momentum 0.9. The SVD form is the
textbook update: project, thin SVD of every class's n x k tangent, geodesic, QR every five steps. ``SGD`` is torch's
SGD with momentum on the same tensor, a floor that ignores the geometry. Memory is the peak of tensors, point, gradient
and state included, from the first step to the first re-orthonormalisation.

Two peers run apart, each with ours alone beside it: pymanopt computes with NumPy in float64 on the CPU, as ours does in
that row, and its copies empty the caches for whoever comes next; geoopt's canonical metric solves an (n, n) system a
class and gets fewer classes, as ours does in that row.
"""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from curvature.benchmark import Row, interleaved, main, peak_bytes
from curvature.geometry import grassmann
from curvature.optim.riemannian_sgd import RiemannianSGD

Step = Callable[[], Any]
Maker = Callable[[torch.Tensor, torch.Tensor], Step]
LR, MOMENTUM, REORTH_EVERY = 0.1, 0.9, 5
OURS, SVD, GEOOPT, GEOOPT_CANONICAL, FLOOR = "RiemannianSGD", "SVD form", "geoopt Euclidean", "geoopt canonical", "SGD"
PYMANOPT, CANONICAL_CLASSES = "pymanopt", 100


def measure(
    classes: int = 1000, n: int = 384, k: int = 8, rounds: int = 15, threads: int = 1, device: str = "cpu"
) -> dict[str, Any]:
    """Time all arms that share a round on subspaces (classes, n, k) in float32.

    Args:
        classes, n, k: C, n and k.
        rounds: rounds that count, a multiple of five so that re-orthonormalisation weighs as it does in training; five
            more go before.
        threads: CPU threads of torch.
        device: where to run.

    Returns:
        ``arms``: name -> {``ms``: mean time of a step over the median block of five rounds, ``ratio``: the same over
        that of ``RiemannianSGD``, median over blocks, ``bytes``: peak}; ``unavailable``: name -> why; the setting.
    """
    torch.set_num_threads(threads)
    start, gradient = _inputs(classes, n, k, device)
    makers: dict[str, Maker] = {
        OURS: _ours,
        SVD: _svd,
        FLOOR: _sgd,
        GEOOPT: partial(_geoopt, manifold="EuclideanStiefel"),
    }
    arms, unavailable = _arms(makers, start, gradient, rounds, device)
    return {
        "classes": classes,
        "n": n,
        "k": k,
        "device": device,
        "threads": threads,
        "rounds": rounds,
        "arms": arms,
        "unavailable": unavailable,
    }


def measure_apart(
    n: int = 384, k: int = 8, rounds: int = 5, classes: int = 1000, device: str = "cpu"
) -> dict[str, Any]:
    """The peers that run apart, each with ours on the same subspaces in the same precision.

    Returns:
        peer -> {``ms``, ``ratio``, ``bytes``: as of :func:`measure`, ``ours_ms``, ``ours_bytes``, ``setting``} or
        {``unavailable``: why}.
    """
    fewer = min(classes, CANONICAL_CLASSES)
    peers: dict[str, tuple[Maker, int, torch.dtype, str]] = {
        GEOOPT_CANONICAL: (partial(_geoopt, manifold="CanonicalStiefel"), fewer, torch.float32, device),
        PYMANOPT: (_pymanopt, classes, torch.float64, "cpu"),
    }
    found: dict[str, Any] = {}
    for name, (make, count, dtype, place) in peers.items():
        start, gradient = (values.to(dtype) for values in _inputs(count, n, k, place))
        arms, unavailable = _arms({OURS: _ours, name: make}, start, gradient, rounds, place)
        if name in unavailable:
            found[name] = {"unavailable": unavailable[name]}
            continue
        setting = f"C={count}, n={n}, k={k}, {str(dtype).removeprefix('torch.')}, {place}"
        ours = {"ours_ms": arms[OURS]["ms"], "ours_bytes": arms[OURS]["bytes"]}
        found[name] = arms[name] | ours | {"setting": setting}
    return found


def _inputs(classes: int, n: int, k: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    start = grassmann.random_point(classes, n, k, generator=generator).to(device)
    return start, (0.01 * torch.randn(classes, n, k, generator=generator)).to(device)


def _arms(
    makers: dict[str, Maker], start: torch.Tensor, gradient: torch.Tensor, rounds: int, device: str
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    memory, steps, unavailable = {}, {}, {}
    for name, make in makers.items():
        try:
            memory[name] = peak_bytes(partial(_first_steps, make, start, gradient), device)
            steps[name] = make(start.clone(), gradient.clone())
        except Exception as error:  # a peer that cannot run is shown as such
            if name == OURS:
                raise
            unavailable[name] = f"{type(error).__name__}: {error}"
    times = interleaved(steps, rounds, REORTH_EVERY, device)
    blocks = {name: _blocks(values) for name, values in times.items()}
    arms = {
        name: {
            "ms": 1000 * statistics.median(values),
            "ratio": statistics.median(value / ours for value, ours in zip(values, blocks[OURS])),
            "bytes": memory[name],
        }
        for name, values in blocks.items()
    }
    return arms, unavailable


def _first_steps(make: Maker, start: torch.Tensor, gradient: torch.Tensor) -> None:
    step = make(start.clone(), gradient.clone())
    for _ in range(REORTH_EVERY):
        step()


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

    network = statistics.median(interleaved({"train": train}, repetitions)["train"])
    update = statistics.median(interleaved({"step": step}, 5 * repetitions)["step"])
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


def _pymanopt(point: torch.Tensor, gradient: torch.Tensor) -> Step:
    from pymanopt.manifolds import Grassmann

    classes, n, k = point.shape
    manifold = Grassmann(n, k, k=classes)
    state = {"point": point.double().numpy(), "buffer": torch.zeros_like(point).double().numpy()}
    descent = gradient.double().numpy()

    def step() -> None:
        here = state["point"]
        buffer = manifold.projection(here, MOMENTUM * state["buffer"] + descent)
        state["point"], state["buffer"] = manifold.exp(here, -LR * buffer), buffer

    return step


def _blocks(values: list[float]) -> list[float]:
    return [statistics.mean(values[start : start + REORTH_EVERY]) for start in range(0, len(values), REORTH_EVERY)]


def measure_all(classes: int = 1000, n: int = 384, k: int = 8, rounds: int = 15, device: str = "cpu") -> dict[str, Any]:
    """:func:`measure`, :func:`measure_apart`, and on the CPU :func:`share_of_training_step` with n = 2048."""
    result = measure(classes, n, k, rounds, device=device)
    result |= {"apart": measure_apart(n, k, max(5, rounds // 3 // 5 * 5), classes, device)}
    return result | ({} if device.startswith("cuda") else {"share": share_of_training_step(classes, 2048, k)})


def rows(result: dict[str, Any]) -> list[Row]:
    """Our step against every other form, and its share of a training step."""
    arms, limits, what = result["arms"], {SVD: 1 / 1.5, GEOOPT: 1 / 1.5}, f"{OURS} step"
    setting = f"C={result['classes']}, n={result['n']}, k={result['k']}, float32, {result['device']}"
    ours, found = arms[OURS], []
    for name, arm in arms.items():
        if name != OURS:
            note = f"{setting}; {ours['ms']:.1f} ms, {arm['ms']:.1f} ms"
            found.append(Row(what, name, 1 / arm["ratio"], limits.get(name), note, ours["bytes"] / arm["bytes"]))
    found += [Row(what, name, None, limits.get(name), why) for name, why in result["unavailable"].items()]
    for name, arm in result["apart"].items():
        if "unavailable" in arm:
            found.append(Row(what, name, None, None, arm["unavailable"]))
            continue
        memory = arm["ours_bytes"] / arm["bytes"] if name != PYMANOPT else None  # NumPy's arrays are not counted
        note = f"{arm['setting']}; {arm['ours_ms']:.1f} ms, {arm['ms']:.1f} ms"
        found.append(Row(what, name, 1 / arm["ratio"], None, note, memory))
    if "share" in result:
        share = result["share"]
        for kind in ("measured", "flops"):
            found.append(
                Row(f"{OURS} step, n=2048", f"ResNet50-D training step ({kind})", share[kind], 0.05, "batch 32")
            )
    return found


if __name__ == "__main__":
    main(__doc__, measure_all, rows)

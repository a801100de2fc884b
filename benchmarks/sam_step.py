"""Time of a SAM step against a plain AdamW step and against ``pytorch_optimizer``'s SAM.

    python benchmarks/sam_step.py                  both sizes on one CPU thread
    python benchmarks/sam_step.py --size lab --device cuda --json outputs/sam_step.json

Every round times one step of each arm on its own copy of the model, in rotating order, so that load from elsewhere
falls on all alike; what is reported are medians over rounds, and medians of the ratios within rounds. The arm
``two passes`` is the floor: clear, forward and backward twice, then AdamW, with nothing of SAM. ``own ms`` is what an
arm costs beyond it, timed in the same way with gradients that come for free, where noise of the passes cannot hide it.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from curvature.optim import SAM

SIZES = {"desk": "Mixer, 8x8, 3 blocks of width 32, batch 100", "lab": "ViT, 32x32, 6 blocks of width 128, batch 128"}
REPETITIONS = {"desk": 200, "lab": 15}
OWN_REPETITIONS = 100
PLAIN, FLOOR, OURS, PEER = "AdamW", "two passes", "curvature SAM", "pytorch_optimizer SAM"
ADAMW = {"lr": 1e-3, "weight_decay": 0.05}
RHO = 0.05

Step = Callable[[], Any]
Evaluate = Callable[[], Any]


def measure(size: str, repetitions: int | None = None, threads: int = 1, device: str = "cpu") -> dict[str, Any]:
    """Time all arms at one size.

    Args:
        size: ``desk`` or ``lab``.
        repetitions: rounds that count, after a tenth of them as warm-up; default by size.
        threads: CPU threads of torch.
        device: where to run.

    Returns:
        ``arms``: name -> {``ms``: median time of a step, ``ratio``: median ratio to AdamW in the same round,
        ``own_ms``: cost beyond two passes}, and ``unavailable``: name -> why an arm could not run, with the setting.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, inputs, labels = _problem(size, device)
    rounds = REPETITIONS[size] if repetitions is None else repetitions
    times, unavailable = _time_arms(partial(_passes, inputs, labels), model, rounds, device)
    own, _ = _time_arms(_free_gradients, model, OWN_REPETITIONS, device)
    arms = {
        name: {
            "ms": 1000.0 * statistics.median(values),
            "ratio": _median_of(zip(values, times[PLAIN]), lambda value, plain: value / plain),
            "own_ms": 1000.0 * _median_of(zip(own[name], own[FLOOR]), lambda value, floor: value - floor),
        }
        for name, values in times.items()
    }
    return {
        "size": size,
        "setting": SIZES[size],
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "threads": threads,
        "repetitions": rounds,
        "torch": torch.__version__,
        "arms": arms,
        "unavailable": unavailable,
    }


def _time_arms(
    evaluator: Callable[[nn.Module], Evaluate], model: nn.Module, rounds: int, device: str
) -> tuple[dict[str, list[float]], dict[str, str]]:
    steps, unavailable = {}, {}
    for name, make in ARMS.items():
        own_copy = copy.deepcopy(model)
        try:
            steps[name] = make(own_copy, evaluator(own_copy))
        except ImportError as error:
            unavailable[name] = f"{type(error).__name__}: {error}"
    for _ in range(max(1, rounds // 10)):
        for step in steps.values():
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(rounds):
        for name in _rotated(list(steps), index):
            times[name].append(_seconds(steps[name], device))
    return times, unavailable


def _median_of(pairs: Iterable[tuple[float, float]], compare: Callable[[float, float], float]) -> float:
    return statistics.median(compare(*pair) for pair in pairs)


def _problem(size: str, device: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    from timm.models.mlp_mixer import MlpMixer
    from timm.models.vision_transformer import VisionTransformer

    if size == "desk":
        shape = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 10, "embed_dim": 32, "num_blocks": 3}
        model: nn.Module = MlpMixer(mlp_ratio=(0.5, 4.0), **shape)
        inputs = torch.randn(100, 1, 8, 8)
    else:
        shape = {"img_size": 32, "patch_size": 4, "num_classes": 10, "embed_dim": 128, "depth": 6, "num_heads": 4}
        model = VisionTransformer(**shape)
        inputs = torch.randn(128, 3, 32, 32)
    return model.to(device).train(), inputs.to(device), torch.randint(10, (len(inputs),), device=device)


def _passes(inputs: torch.Tensor, labels: torch.Tensor, model: nn.Module) -> Evaluate:
    def evaluate() -> torch.Tensor:
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        return loss

    return evaluate


def _free_gradients(model: nn.Module) -> Evaluate:
    params = list(model.parameters())
    gradients = [torch.randn_like(p) for p in params]

    def evaluate() -> None:
        for p, g in zip(params, torch._foreach_add(gradients, 0.0)):
            p.grad = g

    return evaluate


def _cleared(optimizer: torch.optim.Optimizer, evaluate: Evaluate) -> Evaluate:
    def closure() -> Any:
        optimizer.zero_grad()
        return evaluate()

    return closure


def _plain(model: nn.Module, evaluate: Evaluate) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), **ADAMW)
    return partial(optimizer.step, _cleared(optimizer, evaluate))


def _floor(model: nn.Module, evaluate: Evaluate) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), **ADAMW)
    return _twice(optimizer, _cleared(optimizer, evaluate))


def _ours(model: nn.Module, evaluate: Evaluate) -> Step:
    optimizer = SAM(model.named_parameters(), partial(torch.optim.AdamW, **ADAMW), rho=RHO)
    return partial(optimizer.step, evaluate)


def _peer(model: nn.Module, evaluate: Evaluate) -> Step:
    from pytorch_optimizer import SAM as PeerSAM

    optimizer = PeerSAM(model.parameters(), torch.optim.AdamW, rho=RHO, **ADAMW)
    return _twice(optimizer, _cleared(optimizer, evaluate))


def _twice(optimizer: torch.optim.Optimizer, closure: Evaluate) -> Step:
    def step() -> None:
        closure()
        optimizer.step(closure)

    return step


ARMS: dict[str, Callable[..., Step]] = {PLAIN: _plain, FLOOR: _floor, OURS: _ours, PEER: _peer}


def _rotated(names: list[str], index: int) -> Iterator[str]:
    shift = index % len(names)
    yield from names[shift:] + names[:shift]


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
    parser.add_argument("--size", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--repetitions", type=int, help="rounds that count (default: by size)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default 1)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the results here too")
    options = parser.parse_args()
    results = [measure(size, options.repetitions, options.threads, options.device) for size in options.size]
    for result in results:
        title = f"{result['size']}: {result['setting']}, {result['parameters']:,} parameters, {result['device']}"
        table = Table("arm", "ms / step", "x AdamW", "own ms", title=title)
        for name, arm in result["arms"].items():
            table.add_row(name, f"{arm['ms']:.2f}", f"{arm['ratio']:.3f}", f"{arm['own_ms']:.2f}")
        for name, reason in result["unavailable"].items():
            table.add_row(name, "-", "-", reason)
        Console().print(table)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

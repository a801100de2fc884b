"""Time of a SAM step against a plain AdamW step and against ``pytorch_optimizer``'s SAM.

    python benchmarks/sam_step.py                  both sizes on one CPU thread
    python benchmarks/sam_step.py --device cuda --json outputs/sam_step.json

Every round times one step of each arm on its own copy of the model, in rotating order, so that load from elsewhere
falls on all alike; what is reported are medians over rounds, and medians of the ratios within rounds. The arm
``two passes`` is the floor: clear, forward and backward twice, then AdamW, with nothing of SAM. ``own ms`` is what an
arm costs beyond it, timed in the same way with gradients that come for free, where noise of the passes cannot hide it.
Memory is the peak of tensors over the first steps of a new optimiser, with gradients and all that it keeps, without
parameters and activations.
"""

import copy
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from curvature.benchmark import Row, interleaved, main, median_ratio, peak_bytes
from curvature.optim import SAM

SIZES = {"desk": "Mixer, 8x8, 3 blocks of width 32, batch 100", "lab": "ViT, 32x32, 6 blocks of width 128, batch 128"}
REPETITIONS = {"desk": 200, "lab": 15}
OWN_REPETITIONS = 100
PLAIN, FLOOR, OURS, PEER = "AdamW", "two passes", "curvature SAM", "pytorch_optimizer SAM"
ADAMW = {"lr": 1e-3, "weight_decay": 0.05}
RHO = 0.05

Step = Callable[[], Any]
Evaluate = Callable[[], Any]


def measure(
    size: str, repetitions: int | None = None, threads: int = 1, device: str = "cpu", bf16: bool = False
) -> dict[str, Any]:
    """Time all arms at one size.

    Args:
        size: ``desk`` or ``lab``.
        repetitions: rounds that count, after a tenth of them as warm-up; default by size.
        threads: CPU threads of torch.
        device: where to run.
        bf16: forward passes under bfloat16 autocast; parameters stay in float32.

    Returns:
        ``arms``: name -> {``ms``: median time of a step, ``ratio``: median ratio to AdamW in the same round,
        ``ours_over``: median ratio of our step to it, ``own_ms``: cost beyond two passes, ``copies``: peak memory in
        copies of the parameters}, and ``unavailable``: name -> why an arm could not run, with the setting.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, inputs, labels = _problem(size, device)
    rounds = REPETITIONS[size] if repetitions is None else repetitions
    times, unavailable = _time_arms(partial(_passes, inputs, labels, bf16), model, rounds, device)
    own, _ = _time_arms(_free_gradients, model, OWN_REPETITIONS, device)
    arms = {
        name: {
            "ms": 1000.0 * statistics.median(values),
            "ratio": median_ratio(values, times[PLAIN]),
            "ours_over": median_ratio(times[OURS], values),
            "own_ms": 1000.0 * statistics.median(mine - floor for mine, floor in zip(own[name], own[FLOOR])),
            "copies": copies_of_parameters(name, model, device),
        }
        for name, values in times.items()
    }
    return {
        "size": size,
        "setting": SIZES[size],
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "bf16": bf16,
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
        except Exception as error:  # a peer that cannot run is shown as such
            if name != PEER:
                raise
            unavailable[name] = f"{type(error).__name__}: {error}"
    times = interleaved(steps, rounds, max(1, rounds // 10), device)
    return times, unavailable


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


def _passes(inputs: torch.Tensor, labels: torch.Tensor, bf16: bool, model: nn.Module) -> Evaluate:
    def evaluate() -> torch.Tensor:
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=bf16):
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


def copies_of_parameters(name: str, model: nn.Module, device: str = "cpu") -> float:
    """Peak memory of a new optimiser's first two steps, with gradients, in copies of the parameters of ``model``."""
    own_copy = copy.deepcopy(model)

    def first_steps() -> None:
        step = ARMS[name](own_copy, _free_gradients(own_copy))
        for _ in range(2):
            step()

    return peak_bytes(first_steps, device) / sum(p.nbytes for p in model.parameters())


def measure_sizes(device: str = "cpu", threads: int = 1, bf16: bool = False) -> dict[str, Any]:
    """:func:`measure` at both sizes."""
    return {size: measure(size, threads=threads, device=device, bf16=bf16) for size in SIZES}


def rows(result: dict[str, Any]) -> list[Row]:
    """SAM against a plain step, against two passes and against the peer; its memory beyond two passes."""
    found = []
    limits = {("desk", PLAIN): 2.3, ("lab", PLAIN): 2.1} | {(size, PEER): 1.02 for size in SIZES}
    for size, facts in result.items():
        ours = facts["arms"][OURS]
        where = facts["device"] + (", bfloat16 autocast" if facts["bf16"] else "")
        notes = {
            PLAIN: f"{facts['setting']}, {where}; {ours['ms']:.2f} ms",
            FLOOR: "floor: no SAM at all",
        }
        for name in (PLAIN, FLOOR, PEER):
            arm, limit = facts["arms"].get(name), limits.get((size, name))
            if arm is None:
                found.append(Row(f"SAM step, {size}", name, None, limit, facts["unavailable"][name]))
                continue
            note = notes.get(name, f"own cost {ours['own_ms']:.2f} ms, the peer's {arm['own_ms']:.2f} ms")
            memory = ours["copies"] / arm["copies"]
            found.append(Row(f"SAM step, {size}", name, arm["ours_over"], limit, note, memory))
    arms = result["lab"]["arms"]
    extra = {name: arms[name]["copies"] - arms[FLOOR]["copies"] for name in (OURS, PEER) if name in arms}
    shown = "copies: " + ", ".join(f"{name} {value:.2f}" for name, value in extra.items())
    return [*found, Row("SAM memory beyond two passes", "one copy of the parameters", extra[OURS], 1.1, shown)]


if __name__ == "__main__":
    main(__doc__, measure_sizes, rows)

"""Time of a HESSO step against its base optimiser's, on a fully connected network of 5.9 million parameters.

    python benchmarks/hesso.py                               one CPU thread, float32
    python benchmarks/hesso.py --device cuda --json outputs/hesso.json

Gradients are given, so that nothing but the optimisers is timed. ``before`` is training before pruning, ``during`` in
one of ten periods that remove 70 % of the groups, ``after`` when all are gone; ``scoring`` is the step that chooses the
groups of a period, once a period. The released OTO optimiser took 10.3, 16.2 and 31.5 ms where torch's SGD took 5.8 ms
(ratios 1.8, 2.8 and 5.4, on another machine and for another network of this size). Memory is the peak of tensors, with
parameters, gradients and state. Finding the groups of a network and cutting them out is timed on the CPU only.
"""

import copy
import statistics
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from curvature.benchmark import Row, interleaved, main, median_ratio, peak_bytes
from curvature.optim import HESSO
from curvature.pruning import SearchSpace, build_search_space, slim
from curvature.pruning.slimming import mask_groups

WIDTHS = (784, 1120, 1120, 1120, 1120, 1120, 10)
BASES: dict[str, dict[str, Any]] = {
    "SGD": {"variant": "sgd"},
    "SGD with momentum": {"variant": "sgd", "momentum": 0.9},
    "Adam": {"variant": "adam"},
    "AdamW": {"variant": "adamw"},
}
PLAIN = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
ARMS = ("before", "during", "after", "scoring")
PERIODS, LENGTH = 10, 10**6
LIMIT = 1.15
RELEASED = {"before": 10.3 / 5.8, "during": 16.2 / 5.8, "after": 31.5 / 5.8}

Step = Callable[[], Any]


def network() -> nn.Sequential:
    """Six linear layers with ReLU in between, 5.9 million parameters."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(WIDTHS):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def measure(rounds: int = 40, threads: int = 1, device: str = "cpu", bases: str = ",".join(BASES)) -> dict[str, Any]:
    """Time the arms over each base optimiser.

    Args:
        rounds: interleaved steps that count, after a tenth of them as warm-up.
        threads: CPU threads of torch.
        device: where to run.
        bases: keys of :data:`BASES`, separated by commas.

    Returns:
        ``bases``: name -> arm -> {``ms``: median time of a step, ``ratio``: median ratio to torch's optimiser in the
        round, ``memory``: ratio of peaks}; with the setting.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    space = build_search_space(network(), torch.randn(2, WIDTHS[0]))
    found = {}
    for base in bases.split(","):
        makers = {"torch": partial(_plain, base, device)}
        makers |= {arm: partial(_stepper, base, space, arm, device) for arm in ARMS}
        peaks = {name: peak_bytes(partial(_first_steps, make), device) for name, make in makers.items()}
        steps = {name: make() for name, make in makers.items()}
        times = interleaved(steps, rounds, max(1, rounds // 10), device)
        found[base] = {
            name: {
                "ms": 1000 * statistics.median(values),
                "ratio": median_ratio(values, times["torch"]),
                "memory": peaks[name] / peaks["torch"],
            }
            for name, values in times.items()
        }
    return {
        "bases": found,
        "parameters": sum(p.numel() for p in space.model.parameters()),
        "groups": space.size,
        "threads": threads,
        "device": device,
    }


def measure_all(
    rounds: int = 40, threads: int = 1, device: str = "cpu", bases: str = ",".join(BASES)
) -> dict[str, Any]:
    """:func:`measure`, and on the CPU ``cutting``: see :func:`_cutting`."""
    result = measure(rounds, threads, device, bases)
    return result | ({} if device.startswith("cuda") else {"cutting": _cutting(max(1, rounds // 8))})


def _first_steps(make: Callable[[], Step]) -> None:
    step = make()
    for _ in range(2):
        step()


def rows(result: dict[str, Any]) -> list[Row]:
    """Each arm against torch's optimiser, with the promised limit, and the released code's ratio over SGD."""
    setting = f"{result['parameters']:,} parameters, {result['groups']} groups, {result['threads']} thread(s)"
    found = []
    for base, arms in result["bases"].items():
        for arm in ARMS:
            note = f"{setting}, {result['device']}; {arms[arm]['ms']:.1f} ms"
            limit = LIMIT if base == "SGD" and arm in RELEASED else None
            ratio, memory = arms[arm]["ratio"], arms[arm]["memory"]
            found.append(Row(f"HESSO step, {arm}", f"torch {base}", ratio, limit, note, memory))
            if limit is not None:
                note = f"{RELEASED[arm]:.1f} times SGD, as published, not measured here"
                most = 0.5 if arm != "before" else None
                row = Row(f"HESSO step, {arm}", "released OTO", ratio / RELEASED[arm], most, note, quoted=True)
                found.append(row)
    if cut := result.get("cutting"):
        note = cut.get("unavailable") or (
            f"ResNet-18 on the CPU, half of all groups; {cut['ours_s']:.2f} s, {cut['theirs_s']:.2f} s, once a "
            "training; ours proves every node group"
        )
        what, peer = "search space and slim network", "torch-pruning's pruner"
        found.append(Row(what, peer, cut.get("ratio"), None, note, cut.get("memory")))
    return found


def _cutting(rounds: int) -> dict[str, Any]:
    """Seconds to find the groups of a ResNet-18 and cut half of them out, and the ratio to torch-pruning's pruner.

    ``memory`` is the ratio of peaks; ``unavailable`` says why torch-pruning could not run.
    """
    from torchvision.models import resnet18

    torch.manual_seed(0)
    inputs = torch.randn(2, 3, 32, 32)
    models = {name: [resnet18(num_classes=10).eval() for _ in range(rounds + 3)] for name in ("ours", "theirs")}

    def ours() -> None:
        model = models["ours"].pop()
        space = build_search_space(model, inputs)
        gone = torch.zeros(space.size, dtype=torch.bool)
        for node in space.nodes:
            gone[node.start : node.start + node.size // 2] = True
        mask_groups(model, gone, space)
        slim(model, space)

    def theirs() -> None:
        import torch_pruning as tp

        model = models["theirs"].pop()
        importance = tp.importance.MagnitudeImportance()
        tp.pruner.BasePruner(model, inputs, importance, pruning_ratio=0.5, ignored_layers=[model.fc]).step()

    try:
        theirs()
    except Exception as error:  # a peer that cannot run is shown as such
        return {"unavailable": f"{type(error).__name__}: {error}"}
    times = interleaved({"ours": ours, "theirs": theirs}, rounds)
    return {
        "ours_s": statistics.median(times["ours"]),
        "theirs_s": statistics.median(times["theirs"]),
        "ratio": median_ratio(times["ours"], times["theirs"]),
        "memory": peak_bytes(ours) / peak_bytes(theirs),
    }


def _with_gradients(device: str) -> nn.Module:
    torch.manual_seed(0)
    model = network().to(device)
    for p in model.parameters():
        p.grad = 1e-3 * torch.randn_like(p)
    return model


def _plain(base: str, device: str) -> Step:
    options = {key: value for key, value in BASES[base].items() if key != "variant"}
    return PLAIN[BASES[base]["variant"]](_with_gradients(device).parameters(), lr=1e-4, **options).step


def _stepper(base: str, space: SearchSpace, arm: str, device: str) -> Step:
    own = copy.copy(space)
    own.model = _with_gradients(device)
    optimizer = HESSO(
        own,
        lr=1e-4,
        target_group_sparsity=0.7,
        start_step=0 if arm != "before" else 10 * LENGTH,
        pruning_steps=PERIODS if arm in ("after", "scoring") else PERIODS * LENGTH,
        pruning_periods=PERIODS,
        **BASES[base],
    )
    # The first step of "during" opens a period; ten steps remove everything in "after" and "scoring".
    for _ in range({"before": 0, "during": 2}.get(arm, PERIODS)):
        optimizer.step()
    if arm != "scoring":
        return optimizer.step
    moment = optimizer.pruner.schedule.at(1)

    def scoring() -> None:
        optimizer.pruner.choose(moment, optimizer.directions())
        optimizer.pruner.state["any_active"] = False
        optimizer.step()

    return scoring


if __name__ == "__main__":
    main(__doc__, measure_all, rows)

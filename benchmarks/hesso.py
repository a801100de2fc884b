"""Time of a HESSO step against its base optimiser's, on a fully connected network of 5.9 million parameters.

    python benchmarks/hesso.py                               one CPU thread, float32
    python benchmarks/hesso.py --device cuda --json outputs/hesso.json

Gradients are given, so that nothing but the optimisers is timed. Each round times one step of each arm, in rotating
order, so that load from elsewhere falls on all alike; reported are medians over rounds and medians of ratios within
rounds. ``before`` is training before pruning, ``during`` in the middle of one of ten periods that remove 70 % of the
groups, ``after`` when all are gone. The released OTO optimiser took 10.3, 16.2 and 31.5 ms there where torch's SGD took
5.8 ms (ratios 1.8, 2.8 and 5.4, on another machine). ``scoring`` is the step that chooses the groups of a period.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from curvature.optim import HESSO
from curvature.pruning import SearchSpace, build_search_space

WIDTHS = (784, 1120, 1120, 1120, 1120, 1120, 10)
BASES: dict[str, dict[str, Any]] = {
    "sgd": {"variant": "sgd"},
    "sgd, momentum": {"variant": "sgd", "momentum": 0.9},
    "adam": {"variant": "adam"},
    "adamw": {"variant": "adamw"},
}
PLAIN = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
ARMS = ("before", "during", "after", "scoring")
PERIODS, LENGTH = 10, 10**6
RELEASED = {"before": 10.3 / 5.8, "during": 16.2 / 5.8, "after": 31.5 / 5.8}

Step = Callable[[], Any]


def network() -> nn.Sequential:
    """Six linear layers with ReLU in between, 5.9 million parameters."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(WIDTHS):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def measure(
    base: str = "sgd", repetitions: int = 60, threads: int = 1, device: str = "cpu", arms: Sequence[str] = ARMS
) -> dict[str, Any]:
    """Time all arms over one base optimiser.

    Args:
        base: key of :data:`BASES`.
        repetitions: rounds that count, after a tenth of them as warm-up.
        threads: CPU threads of torch.
        device: where to run.
        arms: which to time beside torch's.

    Returns:
        ``arms``: name -> {``ms``: median time of a step, ``ratio``: median ratio to torch's optimiser in the round};
        with the setting.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    space = build_search_space(network(), torch.randn(2, WIDTHS[0]))
    steps = {"torch": _plain(base, device)}
    steps |= {arm: _stepper(base, space, arm, device) for arm in arms}
    for _ in range(max(1, repetitions // 10)):
        for step in steps.values():
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for index in range(repetitions):
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            times[name].append(_milliseconds(steps[name], device))
    results = {
        name: {
            "ms": statistics.median(values),
            "ratio": statistics.median(a / b for a, b in zip(values, times["torch"], strict=True)),
        }
        for name, values in times.items()
    }
    return {
        "base": base,
        "parameters": sum(p.numel() for p in space.model.parameters()),
        "groups": space.size,
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "threads": threads,
        "repetitions": repetitions,
        "torch": torch.__version__,
        "arms": results,
        "released": RELEASED,
    }


def _with_gradients(device: str) -> nn.Module:
    torch.manual_seed(0)
    model = network().to(device)
    for p in model.parameters():
        p.grad = 1e-3 * torch.randn_like(p)
    return model


def _plain(base: str, device: str) -> Step:
    options = {key: value for key, value in BASES[base].items() if key != "variant"}
    optimizer = PLAIN[BASES[base]["variant"]](_with_gradients(device).parameters(), lr=1e-4, **options)
    return optimizer.step


def _stepper(base: str, space: SearchSpace, arm: str, device: str) -> Step:
    model = _with_gradients(device)
    own = copy.copy(space)
    own.model = model
    optimizer = HESSO(
        own,
        lr=1e-4,
        target_group_sparsity=0.7,
        start_step=0 if arm != "before" else 10 * LENGTH,
        pruning_steps=PERIODS if arm in ("after", "scoring") else PERIODS * LENGTH,
        pruning_periods=PERIODS,
        **BASES[base],
    )
    # The first step of "during" opens a period; ten steps remove everything in "after".
    for _ in range({"before": 0, "during": 2, "after": PERIODS, "scoring": PERIODS}[arm]):
        optimizer.step()
    if arm != "scoring":
        return optimizer.step
    moment = optimizer.pruner.schedule.at(1)

    def scoring() -> None:
        optimizer.pruner.choose(moment, optimizer.directions())
        optimizer.pruner.state["any_active"] = False
        optimizer.step()

    return scoring


def _milliseconds(step: Step, device: str) -> float:
    synchronize = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    synchronize()
    start = time.perf_counter()
    step()
    synchronize()
    return 1000.0 * (time.perf_counter() - start)


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", nargs="+", choices=list(BASES), default=list(BASES))
    parser.add_argument("--repetitions", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the results here too")
    options = parser.parse_args()
    results = [measure(base, options.repetitions, options.threads, options.device) for base in options.base]
    for result in results:
        title = f"{result['base']}, {result['parameters']:,} parameters, {result['groups']} groups, {result['device']}"
        table = Table("arm", "ms / step", "x torch", "x torch as released", title=title)
        for name, arm in result["arms"].items():
            released = f"{RELEASED[name]:.1f}" if name in RELEASED and result["base"] == "sgd" else "-"
            table.add_row(name, f"{arm['ms']:.2f}", f"{arm['ratio']:.3f}", released)
        Console().print(table)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Cost of a step of each method as a ratio to ERM's, against the probe loop; and selection over 54,000 records.

    python benchmarks/hessian_alignment.py [--repeats 15]

Ratios are medians over interleaved repetitions, in one process on one thread.
"""

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from curvature.alignment import ERM, HGP, Frobenius, Hutchinson, Method, observe
from curvature.alignment.head import augmented, head_hessian_diag, mean_loss
from curvature.benchmark import Row, interleaved, main, median_ratio
from curvature.domainbed.records import COLUMNS, table
from curvature.domainbed.selection import select
from curvature.models.domain_nets import headed_mlp, headed_timm
from curvature.models.mlp import HeadedNetwork

Step = Callable[[], None]
PROBED = 4
DOMAINBED_S = 1.65
"""Seconds of DomainBed's three selections on 54,000 records, measured on another desk machine."""
SETTINGS = {
    "Colored MNIST MLP 392-390-390-1, 2 x 2,000 samples": ([392, 390, 390], 1, 2000, 2),
    "MLP 512-512-7, 3 x 64 samples": ([512, 512], 7, 64, 3),
}


def method_step(network: HeadedNetwork, method: Method, batches: Sequence[tuple[Tensor, Tensor]]) -> Step:
    """One optimiser step of ``method``."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    method.bind(network, len(batches))

    def step() -> None:
        method.update(network, batches, optimizer, 0)

    return step


def probe_loop_step(network: HeadedNetwork, batches: Sequence[tuple[Tensor, Tensor]], probes: int) -> Step:
    """Diagonals by a loop over probes, each a second backward pass through the head, as released code does."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

    def diagonal(losses: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = torch.autograd.grad(losses, theta, create_graph=True)
        total = torch.zeros_like(theta)
        for _ in range(probes):
            signs = torch.randint_like(theta, 2) * 2 - 1
            (product,) = torch.autograd.grad((gradient * signs).sum(), theta, create_graph=True)
            total = total + signs * product
        return gradient, total / probes

    def step() -> None:
        domains = [observe(network, *batch) for batch in batches]
        head = network.head
        assert isinstance(head, nn.Linear)
        theta = torch.cat([head.weight, head.bias.unsqueeze(1)], dim=1)
        losses = [mean_loss(augmented(d.features) @ theta.mT, d.labels) for d in domains]
        mean = torch.stack(losses).mean()
        center = diagonal(mean, theta)
        penalty = mean.new_zeros(())
        for loss in losses:
            gradient, estimate = diagonal(loss, theta)
            penalty = penalty + (estimate - center[1]).square().sum() + (gradient - center[0]).square().sum()
        optimizer.zero_grad()
        (mean + penalty / len(losses)).backward()
        optimizer.step()

    return step


def ratios(steps: dict[str, Step], baseline: str, repeats: int) -> dict[str, float]:
    """Median over repetitions of each step's time divided by the baseline's in the same repetition."""
    times = interleaved(steps, repeats, warmup=2)
    return {name: median_ratio(found, times[baseline]) for name, found in times.items()}


def step_ratios(widths: Sequence[int], classes: int, samples: int, domains: int, repeats: int) -> dict[str, float]:
    """Ratios for one network: methods with closed forms, and the probe loop with R = 30 where C > 1."""
    generator = torch.Generator().manual_seed(0)
    batches = [
        (
            torch.randn(samples, widths[0], generator=generator),
            torch.randint(0, max(classes, 2), (samples,), generator=generator),
        )
        for _ in range(domains)
    ]
    methods = {"ERM": ERM(), "HGP": HGP(), "diagonal (exact)": Hutchinson(), "Frobenius (Gram)": Frobenius()}
    steps = {name: method_step(headed_mlp(widths, classes), m, batches) for name, m in methods.items()}
    steps["diagonal (shared, R=30)"] = method_step(
        headed_mlp(widths, classes), Hutchinson(diag_estimator="shared", n_probes=30), batches
    )
    steps["probe loop (R=30)"] = probe_loop_step(headed_mlp(widths, classes), batches, 30)
    return ratios(steps, "ERM", repeats)


def resnet_ratios(repeats: int) -> dict[str, float]:
    """ResNet-50, 7 classes, 3 x 8 images of 64x64: its body is cheaper than at 224x224, so ratios are upper ones."""
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(8, 3, 64, 64, generator=generator), torch.randint(0, 7, (8,), generator=generator))
        for _ in range(3)
    ]
    network = headed_timm("resnet50", 7, pretrained=False)
    methods = {"ERM": ERM(), "HGP": HGP(), "diagonal (exact)": Hutchinson()}
    return ratios({name: method_step(network, m, batches) for name, m in methods.items()}, "ERM", repeats)


def selection_seconds() -> tuple[int, float]:
    """54,000 checkpoints: 4 domains, singles and pairs, 20 hparams x 3 trials, 15 steps, 6 algorithms."""
    generator = np.random.default_rng(0)
    rows = []
    sets = ["0", "1", "2", "3", "0,1", "0,2", "0,3", "1,2", "1,3", "2,3"]
    for algorithm in range(6):
        for envs in sets:
            for hparams in range(20):
                for trial in range(3):
                    for step in range(15):
                        values = generator.random((4, 2))
                        head = "PACS", f"a{algorithm}", envs, trial, hparams, f"{algorithm}-{envs}-{hparams}-{trial}"
                        rows += [(*head, 300 * step, env, *values[env]) for env in range(4)]
    frame = table(rows)
    assert list(frame.columns) == COLUMNS
    start = time.perf_counter()
    select(frame)
    return len(rows) // 4, time.perf_counter() - start


def head_ratios(samples: int, width: int, classes: int, repeats: int) -> dict[str, Any]:
    """The diagonal of the head's Hessian alone: closed form, BackPACK, and a second backward pass for each entry.

    Second passes are timed for a few columns of the weights and scaled to all of them.

    Returns:
        Milliseconds by side, the largest relative difference of BackPACK's values, or why BackPACK could not run.
    """
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(samples, width, generator=generator)
    labels = torch.randint(0, classes, (samples,), generator=generator)
    head, criterion = nn.Linear(width, classes), nn.CrossEntropyLoss()

    def closed_form() -> Tensor:
        return head_hessian_diag(features, head(features).detach())

    def double_backward() -> None:
        (gradient,) = torch.autograd.grad(criterion(head(features), labels), head.weight, create_graph=True)
        for column in range(PROBED):
            for row in range(classes):
                torch.autograd.grad(gradient[row, column], head.weight, retain_graph=True)

    sides: dict[str, Callable[[], Any]] = {"closed form": closed_form, "double backward": double_backward}
    found: dict[str, Any] = {"unavailable": ""}
    try:
        from backpack import backpack, extend
        from backpack.extensions import DiagHessian

        own, extended = extend(copy.deepcopy(head)), extend(nn.CrossEntropyLoss())

        def peer() -> Tensor:
            own.zero_grad()
            with backpack(DiagHessian()):
                extended(own(features), labels).backward()
            return own.weight.diag_h  # type: ignore[no-any-return, union-attr, return-value]

        sides["BackPACK"] = peer
        ours = closed_form()[:, :width]
        found["difference"] = float((peer() - ours).abs().max() / ours.abs().max())
    except ImportError as error:
        found["unavailable"] = str(error)
    times = interleaved(sides, repeats)
    found["ms"] = {name: 1000 * statistics.median(values) for name, values in times.items()}
    found["ms"]["double backward"] *= width / PROBED
    return found


def measure(repeats: int = 15, threads: int = 1) -> dict[str, Any]:
    """Step ratios of three networks, the head's diagonal alone, and the seconds of a selection."""
    torch.set_num_threads(threads)
    count, seconds = selection_seconds()
    return {
        "steps": {name: step_ratios(*setting, repeats) for name, setting in SETTINGS.items()},
        "resnet": resnet_ratios(max(3, repeats // 3)),
        "head": head_ratios(256, 512, 7, repeats),
        "selection": {"checkpoints": count, "seconds": seconds},
    }


def rows(result: dict[str, Any]) -> list[Row]:
    """Steps against ERM's and the probe loop's; the head's diagonal; selection against DomainBed's rules."""
    found = []
    for index, (name, ratios_) in enumerate(result["steps"].items()):
        for method in ("HGP", "diagonal (exact)", "Frobenius (Gram)"):
            limit = 1.35 if index == 0 and "Gram" not in method else None
            found.append(Row(f"{method} step", "ERM step", ratios_[method], limit, name))
        loop = ratios_["probe loop (R=30)"]
        found.append(Row("diagonal (exact) step", "probe loop, R=30", ratios_["diagonal (exact)"] / loop, 0.2, name))
    for method in ("HGP", "diagonal (exact)"):
        note = "ResNet-50, 3 x 8 images of 64x64"
        found.append(Row(f"{method} step", "ERM step", result["resnet"][method], 1.05, note))
    head = result["head"]
    milliseconds = head["ms"]
    for peer in ("double backward", "BackPACK"):
        ratio = milliseconds["closed form"] / milliseconds[peer] if peer in milliseconds else None
        note = f"{milliseconds['closed form']:.3f} ms" if peer in milliseconds else head["unavailable"]
        found.append(Row("diagonal of the head's Hessian", peer, ratio, None, note))
    selection = result["selection"]
    note = f"{selection['checkpoints']} checkpoints in {selection['seconds']:.2f} s; DomainBed's time is quoted"
    found.append(
        Row("selection by four rules", "DomainBed, three rules", selection["seconds"] / DOMAINBED_S, 1.0, note)
    )
    return found


if __name__ == "__main__":
    main(__doc__, measure, rows)

"""Cost of a step of each method as a ratio to ERM's; of penalties to the probe loop's; selection over 54,000 records.

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

from curvature.alignment import ERM, HGP, Domain, Frobenius, Hutchinson, Method, observe
from curvature.alignment.head import augmented, head_hessian_diag, mean_loss
from curvature.benchmark import Row, interleaved, main, median_ratio
from curvature.domainbed.records import COLUMNS, table
from curvature.domainbed.selection import select
from curvature.models.domain_nets import headed_mlp, headed_timm
from curvature.models.mlp import HeadedNetwork

Step = Callable[[], None]
Batch = tuple[Tensor, Tensor]
Penalty = Callable[[Sequence[Domain], HeadedNetwork], Tensor]
LOOP = "probe loop (R=30)"
BEYOND = "diagonal over probe loop, beyond ERM"
PROBED = 4
DOMAINBED_S = 1.65
"""Seconds of DomainBed's three selections on 54,000 records, measured on another desk machine."""
SETTINGS = {
    "Colored MNIST MLP 392-390-390-1, 2 x 2,000 samples": ([392, 390, 390], 1, 2000, 2),
    "MLP 512-512-7, 3 x 64 samples": ([512, 512], 7, 64, 3),
}


def method_step(network: HeadedNetwork, method: Method, batches: Sequence[Batch]) -> Step:
    """One optimiser step of ``method``."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    method.bind(network, len(batches))

    def step() -> None:
        method.update(network, batches, optimizer, 0)

    return step


def probe_loop_penalty(domains: Sequence[Domain], network: HeadedNetwork, probes: int) -> Tensor:
    """Diagonals and gradients by a loop over probes, each a second backward pass through the head, as released code."""
    head = network.head
    assert isinstance(head, nn.Linear)
    theta = torch.cat([head.weight, head.bias.unsqueeze(1)], dim=1)

    def diagonal(loss: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
        total = torch.zeros_like(theta)
        for _ in range(probes):
            signs = torch.randint_like(theta, 2) * 2 - 1
            (product,) = torch.autograd.grad((gradient * signs).sum(), theta, create_graph=True)
            total = total + signs * product
        return gradient, total / probes

    losses = [mean_loss(augmented(d.features) @ theta.mT, d.labels) for d in domains]
    center = diagonal(torch.stack(losses).mean())
    penalty = losses[0].new_zeros(())
    for loss in losses:
        gradient, estimate = diagonal(loss)
        penalty = penalty + (estimate - center[1]).square().sum() + (gradient - center[0]).square().sum()
    return penalty / len(losses)


def probe_loop_step(network: HeadedNetwork, batches: Sequence[Batch], probes: int) -> Step:
    """One optimiser step with :func:`probe_loop_penalty`."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

    def step() -> None:
        domains = [observe(network, *batch) for batch in batches]
        loss = torch.stack([domain.loss for domain in domains]).mean() + probe_loop_penalty(domains, network, probes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def penalty_alone(network: HeadedNetwork, penalty: Penalty, batches: Sequence[Batch]) -> Step:
    """``penalty`` of given features with its backward pass to features and head, without the body of the network."""
    with torch.no_grad():
        features = [network.features(inputs) for inputs, _ in batches]

    def step() -> None:
        leaves = [values.detach().requires_grad_() for values in features]
        domains = [Domain(leaf, network.head(leaf), labels) for leaf, (_, labels) in zip(leaves, batches)]
        penalty(domains, network).backward()

    return step


def ratios(steps: dict[str, Step], baseline: str, repeats: int) -> dict[str, float]:
    """Median over repetitions of each step's time divided by the baseline's in the same repetition."""
    times = interleaved(steps, repeats, warmup=2)
    return {name: median_ratio(found, times[baseline]) for name, found in times.items()}


def random_batches(width: int, classes: int, samples: int, domains: int) -> list[Batch]:
    """Normal inputs and uniform labels, one batch a domain."""
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(samples, width, generator=generator),
            torch.randint(0, max(classes, 2), (samples,), generator=generator),
        )
        for _ in range(domains)
    ]


def step_ratios(widths: Sequence[int], classes: int, samples: int, domains: int, repeats: int) -> dict[str, float]:
    """Whole steps over ERM's for one network: methods with closed forms, and the probe loop with R = 30."""
    batches = random_batches(widths[0], classes, samples, domains)
    methods = {"ERM": ERM(), "HGP": HGP(), "diagonal (exact)": Hutchinson(), "Frobenius (Gram)": Frobenius()}
    steps = {name: method_step(headed_mlp(widths, classes), m, batches) for name, m in methods.items()}
    steps["diagonal (shared, R=30)"] = method_step(
        headed_mlp(widths, classes), Hutchinson(diag_estimator="shared", n_probes=30), batches
    )
    steps[LOOP] = probe_loop_step(headed_mlp(widths, classes), batches, 30)
    times = interleaved(steps, repeats, warmup=2)
    found = {name: median_ratio(values, times["ERM"]) for name, values in times.items()}
    extra = {
        name: statistics.median(a - b for a, b in zip(times[name], times["ERM"])) for name in ("diagonal (exact)", LOOP)
    }
    return found | {BEYOND: extra["diagonal (exact)"] / extra[LOOP]}


def penalty_ratios(widths: Sequence[int], classes: int, samples: int, domains: int, repeats: int) -> dict[str, float]:
    """Penalties with their backward pass to features and head, over the probe loop's with R = 30."""
    batches = random_batches(widths[0], classes, samples, domains)
    penalties: dict[str, Penalty] = {"HGP": HGP().penalty, "diagonal (exact)": Hutchinson().penalty}
    penalties[LOOP] = lambda found, network: probe_loop_penalty(found, network, 30)
    network = headed_mlp(widths, classes)
    return ratios({name: penalty_alone(network, p, batches) for name, p in penalties.items()}, LOOP, repeats)


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
    """Step ratios of three networks, penalties and the head's diagonal alone, and the seconds of a selection."""
    torch.set_num_threads(threads)
    count, seconds = selection_seconds()
    return {
        "steps": {name: step_ratios(*setting, repeats) for name, setting in SETTINGS.items()},
        "penalties": {name: penalty_ratios(*setting, repeats) for name, setting in SETTINGS.items()},
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
        whole = ratios_["diagonal (exact)"] / ratios_[LOOP]
        found.append(Row("diagonal (exact) step", "probe loop step, R=30", whole, 0.2, name))
        found.append(Row("diagonal (exact) step - ERM step", "probe loop step - ERM step", ratios_[BEYOND], 0.2, name))
        for method in ("HGP", "diagonal (exact)"):
            ratio = result["penalties"][name][method]
            found.append(Row(f"{method} penalty alone", "probe loop alone, R=30", ratio, 0.2, name))
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

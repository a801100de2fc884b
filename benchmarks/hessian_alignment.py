"""Cost of a step of each method as a ratio to ERM's, against the probe loop; and selection over 54,000 records.

    python benchmarks/hessian_alignment.py [--repeats 15]

Ratios are medians over interleaved repetitions, in one process on one thread.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from curvature.alignment import ERM, HGP, Frobenius, Hutchinson, Method, observe
from curvature.alignment.head import augmented, mean_loss
from curvature.domainbed.records import COLUMNS, table
from curvature.domainbed.selection import select
from curvature.models.domain_nets import headed_mlp, headed_timm
from curvature.models.mlp import HeadedNetwork

Step = Callable[[], None]


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
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if repeat >= 2:
                times[name].append(time.perf_counter() - start)
    base = times[baseline]
    return {name: statistics.median(t / b for t, b in zip(found, base)) for name, found in times.items()}


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


def main() -> None:
    """Print the ratios and the time of selection."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    settings = {
        "Colored MNIST MLP 392-390-390-1, 2 x 2,000 samples": ([392, 390, 390], 1, 2000, 2),
        "MLP 512-512-7, 3 x 64 samples": ([512, 512], 7, 64, 3),
    }
    for name, (widths, classes, samples, domains) in settings.items():
        print(name)
        for step, ratio in step_ratios(widths, classes, samples, domains, repeats).items():
            print(f"  {step:28s} {ratio:6.2f} x ERM")
    print("ResNet-50, 3 x 8 images of 64x64")
    for step, ratio in resnet_ratios(max(3, repeats // 3)).items():
        print(f"  {step:28s} {ratio:6.2f} x ERM")
    count, seconds = selection_seconds()
    print(f"selection by all rules over {count:,} checkpoints: {seconds:.2f} s")


if __name__ == "__main__":
    main()

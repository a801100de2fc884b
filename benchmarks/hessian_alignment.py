"""Cost of a step of each method as a ratio to ERM's; of penalties to the probe loop's; selection over 54,000 records.

    python benchmarks/hessian_alignment.py [--repeats 15]

Ratios are medians over interleaved repetitions, in one process on one thread. Memory is the peak of tensors in a step
of a penalty alone or of the head's diagonal; of a selection it is that of Python's allocations, NumPy's included. The
peer of selection by table is a loop over the same records as tuples, which applies the same four rules.
"""

import copy
import statistics
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from curvature.alignment import ERM, HGP, Domain, Frobenius, Hutchinson, Method, observe
from curvature.alignment.head import augmented, head_hessian_diag, mean_loss
from curvature.benchmark import Row, interleaved, main, median_ratio, peak_bytes
from curvature.domainbed.records import COLUMNS, table
from curvature.domainbed.selection import select
from curvature.models.domain_nets import headed_mlp, headed_timm
from curvature.models.mlp import HeadedNetwork

Step = Callable[[], None]
Batch = tuple[Tensor, Tensor]
Penalty = Callable[[Sequence[Domain], HeadedNetwork], Tensor]
OURS, DOUBLE, LOOP = "closed form", "double backward", "probe loop (R=30)"
WHOLE, BEYOND = "diagonal over probe loop", "diagonal over probe loop, beyond ERM"
EXACT, SHARED = "diagonal (exact)", "diagonal (shared, R=30)"
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
    methods = {"ERM": ERM(), "HGP": HGP(), EXACT: Hutchinson(), "Frobenius (Gram)": Frobenius()}
    methods[SHARED] = Hutchinson(diag_estimator="shared", n_probes=30)
    steps = {name: method_step(headed_mlp(widths, classes), m, batches) for name, m in methods.items()}
    steps[LOOP] = probe_loop_step(headed_mlp(widths, classes), batches, 30)
    times = interleaved(steps, repeats, warmup=2)
    found = {name: median_ratio(values, times["ERM"]) for name, values in times.items()}
    extra = {name: [a - b for a, b in zip(times[name], times["ERM"])] for name in (EXACT, LOOP)}
    return found | {
        WHOLE: median_ratio(times[EXACT], times[LOOP]),
        BEYOND: median_ratio(extra[EXACT], extra[LOOP]),
    }


def penalty_steps(widths: Sequence[int], classes: int, samples: int, domains: int) -> dict[str, Step]:
    """Penalties with their backward pass to features and head, and the probe loop's with R = 30."""
    batches = random_batches(widths[0], classes, samples, domains)
    penalties: dict[str, Penalty] = {"HGP": HGP().penalty, EXACT: Hutchinson().penalty}
    penalties[LOOP] = lambda found, network: probe_loop_penalty(found, network, 30)
    network = headed_mlp(widths, classes)
    return {name: penalty_alone(network, p, batches) for name, p in penalties.items()}


def penalty_ratios(widths: Sequence[int], classes: int, samples: int, domains: int, repeats: int) -> dict[str, float]:
    """Times of :func:`penalty_steps` over the probe loop's."""
    return ratios(penalty_steps(widths, classes, samples, domains), LOOP, repeats)


def penalty_memory(widths: Sequence[int], classes: int, samples: int, domains: int) -> dict[str, float]:
    """Peaks of :func:`penalty_steps` over the probe loop's."""
    peaks = {name: peak_bytes(step) for name, step in penalty_steps(widths, classes, samples, domains).items()}
    return {name: peak / peaks[LOOP] for name, peak in peaks.items()}


def resnet_ratios(repeats: int) -> dict[str, float]:
    """ResNet-50, 7 classes, 3 x 8 images of 64x64: its body is cheaper than at 224x224, so ratios are upper ones."""
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(8, 3, 64, 64, generator=generator), torch.randint(0, 7, (8,), generator=generator))
        for _ in range(3)
    ]
    network = headed_timm("resnet50", 7, pretrained=False)
    methods = {"ERM": ERM(), "HGP": HGP(), EXACT: Hutchinson()}
    return ratios({name: method_step(network, m, batches) for name, m in methods.items()}, "ERM", repeats)


def records() -> list[tuple[Any, ...]]:
    """Of 54,000 checkpoints: 4 domains, singles and pairs, 20 hparams x 3 trials, 15 steps, 6 algorithms."""
    generator = np.random.default_rng(0)
    rows = []
    sets = ["0", "1", "2", "3", "0,1", "0,2", "0,3", "1,2", "1,3", "2,3"]
    for algorithm in range(6):
        for envs in sets:
            for hparams in range(20):
                for trial in range(3):
                    for step in range(15):
                        values = generator.random((4, 2)).tolist()
                        head = "PACS", f"a{algorithm}", envs, trial, hparams, f"{algorithm}-{envs}-{hparams}-{trial}"
                        rows += [(*head, 300 * step, env, *values[env]) for env in range(4)]
    return rows


def select_by_loop(found: Sequence[tuple[Any, ...]]) -> dict[tuple[Any, ...], float]:
    """The four rules of :mod:`curvature.domainbed.selection` by dictionaries, one record after the other.

    Args:
        found: records in the order of :data:`curvature.domainbed.records.COLUMNS`.

    Returns:
        (rule, dataset, algorithm, test domain, trial) -> accuracy of the selected checkpoint on the test domain.
    """
    accuracies: dict[Any, dict[int, dict[int, dict[int, tuple[float, float]]]]] = {}
    for dataset, algorithm, envs, trial, hparams, _, step, env, inside, outside in found:
        runs = accuracies.setdefault((dataset, algorithm, trial, envs), {})
        runs.setdefault(hparams, {}).setdefault(step, {})[env] = inside, outside
    selected: dict[tuple[Any, ...], float] = {}
    for (dataset, algorithm, trial, envs), runs in accuracies.items():
        if "," in envs:
            continue
        test = int(envs)
        best = dict.fromkeys(("training", "oracle", "loo"), (-1.0, 0.0))
        for hparams, steps in runs.items():
            candidates: dict[str, list[tuple[float, float]]] = {"training": [], "loo": []}
            for step in sorted(steps):
                there = steps[step]
                outer = [outside for env, (_, outside) in there.items() if env != test]
                candidates["training"].append((sum(outer) / len(outer), there[test][0]))
                left_out = []
                for env in there:
                    pair = ",".join(str(number) for number in sorted((test, env)))
                    run = accuracies.get((dataset, algorithm, trial, pair), {}).get(hparams, {})
                    if env != test and step in run:
                        left_out.append(run[step][env][0])
                if len(left_out) == len(there) - 1:
                    candidates["loo"].append((sum(left_out) / len(left_out), there[test][0]))
            final = steps[max(steps)][test]
            candidates["oracle"] = [(final[1], final[0])]
            for rule, options in candidates.items():
                best[rule] = max([best[rule], *options], key=lambda option: option[0])
        chosen = {rule: accuracy for rule, (_, accuracy) in best.items()}
        smallest = runs[min(runs)]
        chosen["last"] = smallest[max(smallest)][test][0]
        selected |= {(rule, dataset, algorithm, test, trial): accuracy for rule, accuracy in chosen.items()}
    return selected


def selection_ratios(repeats: int) -> dict[str, Any]:
    """Selection from the table, alone and with making it, and by a loop; all select the same.

    Returns:
        ``seconds``: side -> median; ``ratios`` and ``memory``: of the first two to the loop; ``checkpoints``.
    """
    rows = records()
    frame = table(rows)
    assert list(frame.columns) == COLUMNS
    actions: dict[str, Callable[[], Any]] = {
        "table": lambda: select(frame),
        "making the table": lambda: select(table(rows)),
        "loop": lambda: select_by_loop(rows),
    }
    ours = {
        (row.rule, row.dataset, row.algorithm, row.test_env, row.trial_seed): row.test_acc
        for row in select(frame).itertuples()
    }
    if ours != select_by_loop(rows):
        raise RuntimeError("the loop does not select the same checkpoints")
    times = interleaved(actions, repeats)
    peaks = {name: allocated(action) for name, action in actions.items()}
    return {
        "checkpoints": len(rows) // 4,
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "ratios": {name: median_ratio(values, times["loop"]) for name, values in times.items() if name != "loop"},
        "memory": {name: peak / peaks["loop"] for name, peak in peaks.items() if name != "loop"},
    }


def allocated(action: Callable[[], Any]) -> int:
    """Peak bytes of Python's allocations, NumPy's included."""
    tracemalloc.start()
    action()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def head_ratios(samples: int, width: int, classes: int, repeats: int) -> dict[str, Any]:
    """The diagonal of the head's Hessian alone: closed form, BackPACK, and a second backward pass for each entry.

    Of double backward the loss and its gradient are timed once; second passes are timed for a few columns of the
    weights and, they alone, scaled to all of them.

    Returns:
        ``ms``, and ``ratios`` and ``memory`` of the closed form to each peer; ``unavailable``: why BackPACK could not
        run, or ``difference``: the largest of its values, relative.
    """
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(samples, width, generator=generator)
    labels = torch.randint(0, classes, (samples,), generator=generator)
    head, criterion = nn.Linear(width, classes), nn.CrossEntropyLoss()

    def closed_form() -> Tensor:
        return head_hessian_diag(features, head(features).detach())

    def first_pass() -> Tensor:
        return torch.autograd.grad(criterion(head(features), labels), head.weight, create_graph=True)[0]

    def second_passes(gradient: Tensor) -> None:
        for column in range(PROBED):
            for row in range(classes):
                torch.autograd.grad(gradient[row, column], head.weight, retain_graph=True)

    gradient = first_pass()
    sides: dict[str, Callable[[], Any]] = {
        OURS: closed_form,
        "first pass": first_pass,
        "second passes": lambda: second_passes(gradient),
    }
    found: dict[str, Any] = {"unavailable": ""}
    try:
        sides["BackPACK"] = peer = backpack_diagonal(copy.deepcopy(head), features, labels)
        ours = closed_form()[:, :width]
        found["difference"] = float((peer() - ours).abs().max() / ours.abs().max())
    except Exception as error:  # a peer that cannot run is shown as such
        sides.pop("BackPACK", None)
        found["unavailable"] = f"{type(error).__name__}: {error}"
    peaks = {name: peak_bytes(side) for name, side in sides.items()} | {
        DOUBLE: peak_bytes(lambda: second_passes(first_pass()))
    }
    times = interleaved(sides, repeats)
    pairs = zip(times.pop("first pass"), times.pop("second passes"), strict=True)
    times[DOUBLE] = [first + second * width / PROBED for first, second in pairs]
    peers = [name for name in times if name != OURS]
    return found | {
        "ms": {name: 1000 * statistics.median(values) for name, values in times.items()},
        "ratios": {name: median_ratio(times[OURS], times[name]) for name in peers},
        "memory": {name: peaks[OURS] / peaks[name] for name in peers},
        "columns": width,
    }


def backpack_diagonal(head: nn.Linear, features: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    """BackPACK's diagonal of the Hessian with respect to the weights."""
    from backpack import backpack, extend
    from backpack.extensions import DiagHessian

    own, criterion = extend(head), extend(nn.CrossEntropyLoss())

    def diagonal() -> Tensor:
        own.zero_grad()
        with backpack(DiagHessian()):
            criterion(own(features), labels).backward()
        return own.weight.diag_h  # type: ignore[no-any-return]

    return diagonal


def measure(repeats: int = 15, threads: int = 1) -> dict[str, Any]:
    """Step ratios of three networks, penalties and the head's diagonal alone, and selection."""
    torch.set_num_threads(threads)
    return {
        "steps": {name: step_ratios(*setting, repeats) for name, setting in SETTINGS.items()},
        "penalties": {name: penalty_ratios(*setting, repeats) for name, setting in SETTINGS.items()},
        "penalty_memory": {name: penalty_memory(*setting) for name, setting in SETTINGS.items()},
        "resnet": resnet_ratios(max(3, repeats // 3)),
        "head": head_ratios(256, 512, 7, repeats),
        "selection": selection_ratios(max(1, repeats // 3)),
    }


def rows(result: dict[str, Any]) -> list[Row]:
    """Steps against ERM's and the probe loop's; the head's diagonal; selection against a loop and DomainBed's rules."""
    found = []
    for index, (name, ratios_) in enumerate(result["steps"].items()):
        for method in ("HGP", EXACT, "Frobenius (Gram)", SHARED):
            limit = 1.35 if index == 0 and method in ("HGP", EXACT) else None
            found.append(Row(f"{method} step", "ERM step", ratios_[method], limit, name))
        found.append(Row(f"{EXACT} step", "probe loop step, R=30", ratios_[WHOLE], 0.2, name))
        found.append(Row(f"{EXACT} step - ERM step", "probe loop step - ERM step", ratios_[BEYOND], 0.2, name))
        for method in ("HGP", EXACT):
            ratio, memory = result["penalties"][name][method], result["penalty_memory"][name][method]
            found.append(Row(f"{method} penalty alone", "probe loop alone, R=30", ratio, 0.2, name, memory))
    for method in ("HGP", EXACT):
        note = "ResNet-50, 3 x 8 images of 64x64"
        found.append(Row(f"{method} step", "ERM step", result["resnet"][method], 1.05, note))
    head = result["head"]
    for peer in (DOUBLE, "BackPACK"):
        if peer not in head["ratios"]:
            found.append(Row("diagonal of the head's Hessian", peer, None, None, head["unavailable"]))
            continue
        note = f"{head['ms'][OURS]:.3f} ms, {head['ms'][peer]:.3g} ms"
        if peer == DOUBLE:
            note += f"; one first pass, second passes of {PROBED} columns scaled to {head['columns']}"
        memory = head["memory"][peer]
        found.append(Row("diagonal of the head's Hessian", peer, head["ratios"][peer], None, note, memory))
    selection = result["selection"]
    seconds = selection["seconds"]
    for side, what in (("table", "selection by four rules"), ("making the table", "the same, table made anew")):
        note = f"{selection['checkpoints']} checkpoints, {seconds[side]:.2f} s, {seconds['loop']:.2f} s"
        ratio, memory = selection["ratios"][side], selection["memory"][side]
        found.append(Row(what, "a loop over records", ratio, None, note, memory))
    note = f"{selection['checkpoints']} checkpoints in {seconds['table']:.2f} s; {DOMAINBED_S} s is another machine's"
    ratio = seconds["table"] / DOMAINBED_S
    return [*found, Row("selection by four rules", "DomainBed, three rules", ratio, 1.0, note, quoted=True)]


if __name__ == "__main__":
    main(__doc__, measure, rows)

"""What ours and torch-pruning make of the zoo of :mod:`curvature.pruning.zoo`: is something pruned, is it exact?

    python -m curvature.pruning.coverage experiments/hesso/zoo.md

writes the table, with a column for only_train_once, which is only asked to import: 3.0.1 is on PyPI.
"""

import copy
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from curvature.pruning.build import build_search_space
from curvature.pruning.inputs import Inputs
from curvature.pruning.slimming import mask_groups, slim, zero_groups
from curvature.pruning.zoo import ZOO

EXACT = 1e-9
LONGEST = 2000


@dataclass(frozen=True)
class Outcome:
    """One method on one network.

    Attributes:
        removed: share of parameters that left; 0 if nothing could be pruned.
        error: largest difference of outputs to the network in which the same units are zero, over max(1, largest
            output), in float64 and on two batch sizes; infinite where the result does not run.
        tied: whether tied tensors are still one; None without any.
        note: what went wrong, or nothing.
    """

    removed: float
    error: float
    tied: bool | None
    note: str = ""

    @property
    def exact(self) -> bool:
        """The function is that of the masked network."""
        return self.error <= EXACT


def prepared(name: str, seed: int = 0) -> tuple[nn.Module, Inputs, list[Inputs]]:
    """A network of the zoo in float64 with random statistics, inputs to trace with, and inputs to compare on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build, example = ZOO[name]
        model, inputs = build().double().eval(), Inputs.of(example()).like(seed, batch=2)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
    return model, inputs, [inputs.like(seed + 1, batch=2), inputs.like(seed + 2, batch=5)]


def ours(name: str, seed: int = 0) -> Outcome:
    """Half of the groups of every layer are set to zero and cut out by :func:`curvature.pruning.slim`."""
    model, inputs, cases = prepared(name, seed)
    space = build_search_space(model, inputs)
    if not space.size:
        return Outcome(0.0, 0.0, _tied(model) or None, "; ".join(sorted(set(space.unprunable.values())))[:120])
    masked = copy.deepcopy(model)
    gone = torch.zeros(space.size, dtype=torch.bool)
    for node in space.nodes:
        gone[node.start : node.start + node.size // 2] = True
    mask_groups(masked, gone, space)
    assert torch.equal(zero_groups(masked, space), gone)
    return _compare(model, masked, slim(masked, space), cases)


def torch_pruning(name: str, seed: int = 0) -> Outcome:
    """Half of the channels of every group by torch-pruning's pruner, against the network with those units at zero.

    Units are those that its groups name; their output slices are set to zero before it prunes, so that any exact
    method would leave the outputs as they are.
    """
    import torch_pruning as tp
    from torch_pruning.dependency.group import Group

    class Endless(Exception):
        """A group that grows on and on."""

    add_dep = Group.add_dep

    def counted(group: Any, dep: Any, idxs: Any) -> None:
        add_dep(group, dep, idxs)
        if len(group) > LONGEST:
            raise Endless(f"a group of more than {LONGEST} members")

    model, inputs, cases = prepared(name, seed)
    masked, pruned = copy.deepcopy(model), copy.deepcopy(model)
    try:
        with warnings.catch_warnings(), torch.enable_grad(), patch.object(Group, "add_dep", counted):
            warnings.simplefilter("ignore")
            pruner = tp.pruner.BasePruner(
                pruned,
                inputs.value,
                tp.importance.MagnitudeImportance(),
                pruning_ratio=0.5,
                ignored_layers=_last_layers(pruned),
                root_module_types=[nn.modules.conv._ConvNd, nn.Linear, nn.Embedding],
            )
            names = {id(p): key for key, p in pruned.named_parameters(remove_duplicate=False)}
            for group in pruner.step(interactive=True):
                _zero_like(group, masked, names, pruner.DG)
                group.prune()
                names |= {id(p): key for key, p in pruned.named_parameters(remove_duplicate=False)}
        return _compare(model, masked, pruned, cases)
    except Exception as error:
        return Outcome(0.0, float("inf"), None, f"{type(error).__name__}: {str(error).splitlines()[0][:90]}")


def coverage_facts(seed: int) -> dict[str, float]:
    """Counts of networks of the zoo, for ``ours`` and ``torch_pruning``.

    ``zoo/<who>_pruned`` are smaller and exact, ``zoo/<who>_wrong`` not exact or do not run, ``zoo/<who>_untied`` have
    lost a tie; ``zoo/ours_error`` is the largest error of ours, ``zoo/networks`` the number of networks.
    """
    found = {"zoo/networks": float(len(ZOO))}
    for who, method in (("ours", ours), ("torch_pruning", torch_pruning)):
        outcomes = [method(name, seed) for name in ZOO]
        found[f"zoo/{who}_pruned"] = float(sum(item.removed > 0 and item.exact for item in outcomes))
        found[f"zoo/{who}_wrong"] = float(sum(not item.exact for item in outcomes))
        found[f"zoo/{who}_untied"] = float(sum(item.tied is False for item in outcomes))
        if who == "ours":
            found["zoo/ours_error"] = max(item.error for item in outcomes)
    return found


def _last_layers(model: nn.Module) -> list[nn.Module]:
    """The classifier, which users of torch-pruning have to name themselves."""
    return [module for name, module in model.named_modules() if name in ("head", "leave")] or [
        list(model.modules())[-1]
    ]


@torch.no_grad()
def _zero_like(group: object, masked: nn.Module, names: dict[int, str], graph: object) -> None:
    """Set to zero in ``masked`` what ``group`` is about to remove on the side of outputs.

    Indices are those of a network that shrinks, so every layer may occur in one group only; it does for one step.
    """
    parameters = dict(masked.named_parameters(remove_duplicate=False))
    for item in group:  # type: ignore[attr-defined]
        module, index = item.dep.target.module, torch.tensor(item.idxs)
        if isinstance(module, nn.Parameter):
            if (key := names.get(id(module))) is not None:
                parameters[key].index_fill_(item.dep.target.pruning_dim, index, 0.0)
            continue
        outgoing = graph.is_out_channel_pruning_fn(item.dep.handler)  # type: ignore[attr-defined]
        if not outgoing or (item.dep.handler.__name__ == "prune_in_channels"):
            continue
        for tensor in ("weight", "bias"):
            value = getattr(module, tensor, None)
            if isinstance(value, nn.Parameter) and (key := names.get(id(value))) is not None:
                transposed = isinstance(module, nn.Embedding | nn.ConvTranspose2d) and tensor == "weight"
                parameters[key].index_fill_(1 if transposed else 0, index, 0.0)


def _compare(model: nn.Module, masked: nn.Module, smaller: nn.Module, cases: list[Inputs]) -> Outcome:
    before, after = (sum(p.numel() for p in item.parameters()) for item in (model, smaller))
    worst, note = 0.0, ""
    for case in cases:
        try:
            for a, b in zip(case(masked), case(smaller), strict=True):
                difference = float((a - b).abs().max()) / max(1.0, float(a.abs().max())) if a.shape == b.shape else 1e9
                worst = max(worst, difference)
        except Exception as error:
            worst, note = float("inf"), f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"
    return Outcome(1.0 - after / before, worst, _tied(smaller) if _tied(model) else None, note)


def _tied(model: nn.Module) -> bool:
    """Whether one tensor is a parameter under several names."""
    return len(list(model.named_parameters(remove_duplicate=False))) > len(list(model.parameters()))


def table() -> str:
    """The zoo network by network, in Markdown."""
    import importlib

    try:
        importlib.import_module("only_train_once")
        other, why = "not compared", ""
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        other, why = "import fails", f"\nonly_train_once on torch {torch.__version__.split('+')[0]}: {reason}\n"
    lines = ["| network | curvature.pruning | torch-pruning | only_train_once |", "|---|---|---|---|"]
    lines += [f"| {name} | {_cell(ours(name))} | {_cell(torch_pruning(name))} | {other} |" for name in ZOO]
    return "\n".join(lines) + "\n" + why


def _cell(outcome: Outcome) -> str:
    if not outcome.exact and outcome.note:
        return f"**fails**: {outcome.note.replace('|', '/')}"
    if not outcome.removed:
        return "nothing pruned"
    ties = {None: "", True: ", ties kept", False: ", **ties lost**"}[outcome.tied]
    return f"-{100 * outcome.removed:.0f} %, {'exact' if outcome.exact else f'**wrong by {outcome.error:.1g}**'}{ties}"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(table())

"""From a network to its search space: candidates, then a proof by numbers of each."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from curvature.pruning.attention import attentions, head_candidates
from curvature.pruning.graph import Candidate, candidates
from curvature.pruning.inputs import Inputs
from curvature.pruning.slimming import apply_recipe, recipe_of, slim
from curvature.pruning.space import Cut, NodeGroup, SearchSpace

TOLERANCE = 1e-9


def build_search_space(model: nn.Module, example_inputs: Any, exclude: Sequence[str] = ()) -> SearchSpace:
    """Node groups of ``model`` whose units can be removed once they are zero, without a change of its function.

    Candidates come from torch-pruning's dependency graph; heads of attention modules are units of their own. Each is
    then proved on a float64 copy in evaluation mode with random normalisation statistics: a random half of its groups
    is set to zero, and the network must agree with its slim copy to 1e-9 on inputs of two batch sizes, and two lengths
    of sequence for tokens. What disagrees, fails or cannot be traced is not prunable, with a reason; nothing is raised
    for it. Units that become constant instead of zero (sigmoid and the like) are folded where that is exact.

    Args:
        model: any network; it is not changed. Groups with a frozen parameter are not prunable.
        example_inputs: a tensor, a sequence of positional arguments or a mapping of keyword arguments.
        exclude: parts of names of layers that are to be left alone.
    """
    inputs = Inputs.of(example_inputs)
    space = SearchSpace(model, [], {}, example_inputs)
    prover = _Prover(model, inputs)
    if prover.failure:
        space.unprunable["(model)"] = prover.failure
        return space
    space.checked = prover.checked
    found = [*head_candidates(model), *candidates(model, inputs, attentions(model))]
    idle = {name: (widths, "was not executed, may use its units") for name, widths in prover.idle.items()}
    order = {name: index for index, (name, _) in enumerate(model.named_modules())}
    for name, candidate in sorted(found, key=lambda item: order.get(item[0], -1)):
        if isinstance(candidate, str):
            space.unprunable[name or "(model)"] = candidate
            continue
        reason = _refusal(candidate, model, exclude)
        node = _numbered(candidate, 0, fold=False)
        if reason is None and (reason := prover.refute([node])) is not None:
            folding = _numbered(candidate, 0, fold=True)
            if prover.refute([folding]) is None:
                node, reason = folding, None
        if reason is None:
            reason = next(
                (f"{layer}, which {why}" for layer, (widths, why) in idle.items() if _fits(node, widths)), None
            )
        if reason is None and (reason := _collision(node, space.nodes)) is None:
            space.nodes.append(_shifted(node, space.size))
        if reason is not None:
            for layer in candidate.layers or [name]:
                space.unprunable[layer] = reason
    if len(space.nodes) > 1 and prover.refute(space.nodes) is not None:
        _keep_what_agrees(space, prover)
    return space


def _keep_what_agrees(space: SearchSpace, prover: "_Prover") -> None:
    """Drop node groups that are right alone and wrong together with earlier ones."""
    kept: list[NodeGroup] = []
    for node in space.nodes:
        tried = [*kept, _shifted(node, sum(other.size for other in kept) - node.start)]
        if (reason := prover.refute(tried)) is None:
            kept = tried
        else:
            space.unprunable[node.name] = f"together with other layers: {reason}"
    space.nodes = kept


def _refusal(candidate: Candidate, model: nn.Module, exclude: Sequence[str]) -> str | None:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for layer in candidate.layers:
        if part := next((part for part in exclude if part in layer), None):
            return f"excluded by {part!r}"
    for (tensor, _), (_, role) in candidate.cuts.items():
        if role != "input" and tensor in parameters and not parameters[tensor].requires_grad:
            return f"{tensor} is frozen"
    return "it has a single unit" if candidate.units < 2 else None


def _collision(node: NodeGroup, others: Sequence[NodeGroup]) -> str | None:
    taken = {(cut.tensor, cut.dim): cut for other in others for cut in other.cuts}
    for cut in node.cuts:
        other = taken.get((cut.tensor, cut.dim))
        if other is not None and bool(((cut.owner >= 0) & (other.owner >= 0)).any()):
            return f"{cut.tensor} belongs to another node group too"
    return None


def _fits(node: NodeGroup, widths: set[int]) -> bool:
    return any(cut.role == "member" and len(cut.owner) in widths for cut in node.cuts)


def _numbered(candidate: Candidate, start: int, fold: bool) -> NodeGroup:
    cuts = tuple(Cut(tensor, dim, owner, role) for (tensor, dim), (owner, role) in candidate.cuts.items())
    scalars = tuple((module, attribute, each) for (module, attribute), each in candidate.scalars.items())
    return _shifted(NodeGroup(candidate.name, 0, candidate.units, cuts, scalars, fold), start)


def _shifted(node: NodeGroup, by: int) -> NodeGroup:
    cuts = tuple(
        Cut(cut.tensor, cut.dim, torch.where(cut.owner >= 0, cut.owner + by, cut.owner), cut.role) for cut in node.cuts
    )
    return NodeGroup(node.name, node.start + by, node.size, cuts, node.scalars, node.fold)


class _Prover:
    """Compares a network with zeroed groups and its slim copy, both in float64."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self.failure: str | None = None
        self.checked: list[str] = []
        self.inputs: list[Inputs] = []
        self.reference = copy.deepcopy(model).cpu().double().eval()
        _randomise(self.reference)
        variants = [("batch 2", inputs.like(0, batch=2)), ("batch 5", inputs.like(1, batch=5))]
        if inputs.is_sequence():
            variants.append(("another length", inputs.like(2, batch=3, length=max(2, inputs.length() - 1))))
        called: set[str] = set()
        hooks = [
            module.register_forward_hook(lambda *_, name=name: called.add(name))
            for name, module in self.reference.named_modules()
        ]
        for name, variant in variants:
            try:
                variant(self.reference)
            except Exception as error:
                self.failure = f"{name}: {type(error).__name__}: {error}"
                continue
            self.checked.append(name)
            self.inputs.append(variant)
        for hook in hooks:
            hook.remove()
        self.idle = {name: widths for name, widths in _widths(self.reference).items() if name not in called}
        self.failure = None if self.inputs else f"cannot be evaluated in float64: {self.failure}"

    def refute(self, nodes: Sequence[NodeGroup]) -> str | None:
        """Why ``nodes`` cannot be removed, or None if the outputs agree."""
        start = nodes[0].start
        nodes = [_shifted(node, -start) for node in nodes]
        space = SearchSpace(self.reference, list(nodes), {}, self.inputs[0].value)  # type: ignore[arg-type]
        gone = _random_half(space)
        zeroed = copy.deepcopy(self.reference)
        _zero(zeroed, space, gone)
        try:
            recipe = recipe_of(zeroed, space, gone)
            smaller = slim(zeroed, space) if recipe["biases"] else apply_recipe(copy.deepcopy(zeroed), recipe, True)
            for name, inputs in zip(self.checked, self.inputs, strict=True):
                if (difference := _difference(inputs(zeroed), inputs(smaller))) > TOLERANCE:
                    return f"the slim copy differs by {difference:.1e} ({name})"
        except Exception as error:
            return f"the slim copy fails: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return None


def _widths(model: nn.Module) -> dict[str, set[int]]:
    """Numbers of inputs and outputs of the layers that forward passes go through, by name."""
    keys = ("in_features", "out_features", "in_channels", "out_channels", "num_features")
    plain = {name: {getattr(module, key, 0) for key in keys} for name, module in model.named_modules()}
    inside = [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    return {
        name: widths
        for name, widths in plain.items()
        if widths != {0} and not any(name.startswith(f"{outer}.") for outer in inside)
    }


def _random_half(space: SearchSpace) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    gone = torch.zeros(space.size, dtype=torch.bool)
    for node in space.nodes:
        order = torch.randperm(node.size, generator=generator)
        gone[node.start + order[: max(1, node.size // 2)]] = True
    return gone


@torch.no_grad()
def _zero(model: nn.Module, space: SearchSpace, gone: Tensor) -> None:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    padded = torch.cat([gone, gone.new_zeros(1)])
    for cut in space.cuts("member", "auxiliary"):
        if cut.tensor in parameters:
            rows = padded[torch.where(cut.owner < 0, space.size, cut.owner)].nonzero()[:, 0]
            parameters[cut.tensor].index_fill_(cut.dim, rows, 0.0)


@torch.no_grad()
def _randomise(model: nn.Module) -> None:
    """Parameters that are equal or zero at the start would hide errors."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if getattr(module, "running_var", None) is not None:
            module.running_mean.normal_(generator=generator)  # type: ignore[operator]
            module.running_var.uniform_(0.5, 1.5, generator=generator)  # type: ignore[operator]
    for parameter in model.parameters():
        scale = 1.0 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
        parameter.normal_(std=scale, generator=generator)


def _difference(left: list[Tensor], right: list[Tensor]) -> float:
    if len(left) != len(right) or any(a.shape != b.shape for a, b in zip(left, right)):
        return float("inf")
    worst = 0.0
    for a, b in zip(left, right):
        if not a.is_floating_point() or a.numel() == 0:
            continue
        scale = max(1.0, float(a.abs().max()))
        difference = float((a - b).abs().max()) / scale
        worst = max(worst, difference if difference == difference else float("inf"))
    return worst

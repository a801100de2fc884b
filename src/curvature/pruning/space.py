"""What can be removed from a network: zero-invariant groups of parameter slices, and everything that goes with them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

Role = Literal["member", "auxiliary", "input"]


@dataclass(frozen=True)
class Cut:
    """A dimension of a tensor whose entries leave together with groups.

    Attributes:
        tensor: name of a parameter or buffer.
        dim: dimension that becomes shorter.
        owner: (size of ``dim``,) int64, the group each entry belongs to, -1 for none.
        role: ``member``: the slices that make up the group, whose norm counts; ``auxiliary``: slices that must vanish
            with it but belong to several layers, e.g. a normalisation after a concatenation, or statistics;
            ``input``: columns of a consumer, which become idle.
    """

    tensor: str
    dim: int
    owner: Tensor
    role: Role


@dataclass(frozen=True)
class NodeGroup:
    """Layers whose output dimensions are tied.

    Attributes:
        name: of its first layer.
        start, size: its groups are ``start`` to ``start + size - 1`` of the whole space.
        cuts: all dimensions that shrink with it.
        scalars: (module, attribute, per group): attributes that lose ``per group`` for every group removed.
        fold: the units do not vanish but become constants, which the consumers' biases take over.
    """

    name: str
    start: int
    size: int
    cuts: tuple[Cut, ...]
    scalars: tuple[tuple[str, str, int], ...] = ()
    fold: bool = False


@dataclass
class SearchSpace:
    """The prunable groups of ``model``, numbered from 0 to ``size - 1``.

    Attributes:
        model: the network the names refer to.
        nodes: node groups, in order of the numbering.
        unprunable: name of a layer -> why none of its outputs can be removed.
        example_inputs: positional arguments of a forward pass.
        checked: which variants of the inputs the groups were verified on, in words.
    """

    model: nn.Module
    nodes: list[NodeGroup]
    unprunable: dict[str, str] = field(default_factory=dict)
    example_inputs: tuple[Any, ...] = ()
    checked: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Number of groups, G."""
        return sum(node.size for node in self.nodes)

    @property
    def layer(self) -> Tensor:
        """(G,) index of the node group of every group."""
        sizes = torch.tensor([node.size for node in self.nodes], dtype=torch.int64)
        return torch.repeat_interleave(torch.arange(len(sizes)), sizes)

    def cuts(self, *roles: Role) -> Iterator[Cut]:
        """The cuts of all node groups with one of ``roles``; one per tensor, dimension and role."""
        merged: dict[tuple[str, int, Role], Cut] = {}
        for node in self.nodes:
            for cut in node.cuts:
                if cut.role not in roles:
                    continue
                key = (cut.tensor, cut.dim, cut.role)
                if key in merged:
                    owner = torch.where(cut.owner >= 0, cut.owner, merged[key].owner)
                    cut = Cut(cut.tensor, cut.dim, owner, cut.role)
                merged[key] = cut
        yield from merged.values()

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers of the model by every name they have."""
        return tensors_of(self.model)

    def describe(self) -> str:
        """A table in words: node groups with their sizes, then what is unprunable and why."""
        lines = [f"{node.name}: {node.size} groups{', folded' if node.fold else ''}" for node in self.nodes]
        return "\n".join([*lines, *(f"{name}: not prunable, {why}" for name, why in self.unprunable.items())])


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of ``model``; a tied tensor appears under each of its names."""
    found: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    return found | dict(model.named_buffers(remove_duplicate=False))


def rows_as_groups(model: nn.Module, parameters: Mapping[str, nn.Parameter] | None = None) -> SearchSpace:
    """The space in which every row (index of dimension 0) of every parameter is a group of its own.

    Args:
        model: any module; nothing is said of its function.
        parameters: those to use, by name; default all.
    """
    nodes: list[NodeGroup] = []
    start = 0
    for name, parameter in (parameters or dict(model.named_parameters())).items():
        rows = len(parameter)
        cut = Cut(name, 0, torch.arange(start, start + rows), "member")
        nodes.append(NodeGroup(name, start, rows, (cut,)))
        start += rows
    return SearchSpace(model, nodes)

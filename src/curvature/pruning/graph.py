"""Candidate node groups from torch-pruning's dependency graph; nothing here is trusted before it is checked."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from curvature.pruning.inputs import Inputs
from curvature.pruning.space import Role
from curvature.pruning.trace import Attention, Joined, Reached, Unprunable, dependency_graph, groups

NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass
class Candidate:
    """A node group before it is checked.

    Attributes:
        name: of its first layer.
        layers: all layers whose outputs it consists of.
        units: number of groups.
        cuts: (tensor, dim) -> owners, (size of dim,) int64 with units from 0, -1 for none; and the role.
        scalars: (module, attribute) -> entries that leave with one unit.
    """

    name: str
    layers: list[str]
    units: int
    cuts: dict[tuple[str, int], tuple[Tensor, Role]] = field(default_factory=dict)
    scalars: dict[tuple[str, str], int] = field(default_factory=dict)


def candidates(
    model: nn.Module, inputs: Inputs, attentions: Sequence[Attention] = ()
) -> Iterator[tuple[str, Candidate | str]]:
    """Pairs of a layer's name and the candidate that begins there, or the reason why there is none.

    Args:
        model: any network; it is copied for tracing.
        inputs: of one forward pass.
        attentions: attention modules, of whose projections somebody else takes care.
    """
    # Recurrent layers are one operation in float32 on a CPU only.
    traced = copy.deepcopy(model).cpu().float().requires_grad_(True)
    names = {module: name for name, module in traced.named_modules()}
    try:
        graph = dependency_graph(traced, inputs, attentions)
    except Exception as error:
        yield "", f"cannot be traced: {type(error).__name__}: {error}"
        return
    skipped = {name for attention in attentions for name in attention.projections}
    for root, reached, joined in groups(graph):
        if names[root] in skipped:
            continue
        try:
            if isinstance(reached, Unprunable):
                raise reached
            yield names[root], _candidate(graph, names[root], reached, joined, names, skipped)
        except Unprunable as reason:
            yield names[root], str(reason)


def _candidate(
    graph: Any, name: str, reached: list[Reached], joined: Joined, names: dict[nn.Module, str], skipped: set[str]
) -> Candidate:
    for item in reached:
        if isinstance(item.node.module, nn.GroupNorm):
            _join_norm_groups(item, joined)
    unit, units = joined.units()
    found = Candidate(name, [], units)
    consumed = False
    for item in reached:
        module, kind = item.node.module, item.node.type.name
        if kind == "OUTPUT":
            raise Unprunable("its outputs are outputs of the network")
        owners = unit[torch.tensor(item.roots, dtype=torch.int64)]
        where = torch.tensor(item.idxs, dtype=torch.int64)
        if kind == "PARAMETER":
            tensor, dim = graph._param_to_name[module], item.node.pruning_dim
            _add(found, tensor, dim % module.ndim, module.shape[dim], where, owners, "member")
            if isinstance(owner := _owner_of(graph.model, tensor), nn.RMSNorm):
                _scalar(found, names[owner], "normalized_shape", owners)
        elif module in names:
            incoming = graph.is_in_channel_pruning_fn(item.handler) and item.handler.__name__.endswith("in_channels")
            if names[module] in skipped and not incoming:
                raise Unprunable(f"tied to {names[module]}, whose units are heads")
            consumed |= incoming
            _add_module(found, names[module], module, incoming, where, owners)
    if not consumed:
        raise Unprunable("nothing in the network consumes its outputs")
    return found


def _add_module(found: Candidate, name: str, module: nn.Module, incoming: bool, where: Tensor, owners: Tensor) -> None:
    shape: Any = getattr(module, "weight", None)
    match module:
        case nn.Linear() | nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            depthwise = getattr(module, "groups", 1) > 1 and module.groups == module.in_channels == module.out_channels
            if incoming and not depthwise:
                columns = where % shape.shape[1]
                _add(found, f"{name}.weight", 1, shape.shape[1], columns, owners, "input")
                _scalar(found, name, "in_features" if isinstance(module, nn.Linear) else "in_channels", owners)
                return
            _outputs(found, name, module, 0, where, owners)
            if isinstance(module, nn.Linear):
                _scalar(found, name, "out_features", owners)
            else:
                for attribute in ("out_channels", *(("in_channels", "groups") if depthwise else ())):
                    _scalar(found, name, attribute, owners)
        case nn.ConvTranspose1d() | nn.ConvTranspose2d() | nn.ConvTranspose3d():
            if module.groups > 1:
                raise Unprunable(f"{name} is a grouped convolution")
            if incoming:
                _add(found, f"{name}.weight", 0, shape.shape[0], where, owners, "input")
                _scalar(found, name, "in_channels", owners)
            else:
                _outputs(found, name, module, 1, where, owners)
                _scalar(found, name, "out_channels", owners)
        case nn.modules.batchnorm._BatchNorm() | nn.modules.instancenorm._InstanceNorm():
            role: Role = "member" if len(where) == module.num_features else "auxiliary"
            for tensor in ("weight", "bias"):
                if getattr(module, tensor) is not None:
                    _add(found, f"{name}.{tensor}", 0, module.num_features, where, owners, role)
            for buffer in ("running_mean", "running_var"):
                if getattr(module, buffer) is not None:
                    _add(found, f"{name}.{buffer}", 0, module.num_features, where, owners, "auxiliary")
            _scalar(found, name, "num_features", owners)
        case nn.GroupNorm():
            for tensor in ("weight", "bias"):
                if getattr(module, tensor) is not None:
                    _add(found, f"{name}.{tensor}", 0, module.num_channels, where, owners, "member")
            _scalar(found, name, "num_channels", owners)
            size = module.num_channels // module.num_groups
            found.scalars[name, "num_groups"] = found.scalars[name, "num_channels"] // size
        case nn.PReLU():
            if module.num_parameters > 1:
                _add(found, f"{name}.weight", 0, module.num_parameters, where, owners, "member")
                _scalar(found, name, "num_parameters", owners)
        case nn.Embedding():
            _add(found, f"{name}.weight", 1, module.embedding_dim, where, owners, "member")
            _scalar(found, name, "embedding_dim", owners)
            found.layers.append(name)
        case nn.LayerNorm():
            raise Unprunable(f"{name} normalises over the units, so that removing zeros changes its statistics")
        case nn.RMSNorm():
            pass
        case _ if list(module.parameters(recurse=False)):
            raise Unprunable(f"{name} is a {type(module).__name__}")


def _outputs(found: Candidate, name: str, module: Any, dim: int, where: Tensor, owners: Tensor) -> None:
    _add(found, f"{name}.weight", dim, module.weight.shape[dim], where, owners, "member")
    if module.bias is not None:
        _add(found, f"{name}.bias", 0, len(module.bias), where, owners, "member")
    found.layers.append(name)


def _add(found: Candidate, tensor: str, dim: int, size: int, where: Tensor, owners: Tensor, role: Role) -> None:
    if len(where) and not 0 <= int(where.min()) <= int(where.max()) < size:
        wrong = int(where.min()) if int(where.min()) < 0 else int(where.max())
        raise Unprunable(f"the dependency graph names entry {wrong} of {tensor}, which has {size}")
    owner = torch.full((size,), -1, dtype=torch.int64)
    owner[where] = owners
    found.cuts[tensor, dim] = owner, role


def _scalar(found: Candidate, module: str, attribute: str, owners: Tensor) -> None:
    counts = torch.bincount(owners, minlength=found.units)
    if int(counts.min()) != int(counts.max()):
        raise Unprunable(f"its groups have different numbers of entries in {module}")
    found.scalars[module, attribute] = int(counts[0])


def _owner_of(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def _join_norm_groups(item: Reached, joined: Joined) -> None:
    norm = item.node.module
    size = norm.num_channels // norm.num_groups
    if norm.num_groups == 1:
        raise Unprunable("a GroupNorm of one group normalises over the units")
    if len(item.idxs) < norm.num_channels:
        raise Unprunable("a GroupNorm spans several layers")
    members: dict[int, list[int]] = {}
    for index, root in zip(item.idxs, item.roots, strict=True):
        members.setdefault(index // size, []).append(root)
    for together in members.values():
        joined.join(together)

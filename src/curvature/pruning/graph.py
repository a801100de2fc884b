"""Candidate node groups from torch-pruning's dependency graph; nothing here is trusted before it is checked."""

import copy
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from curvature.pruning.inputs import Inputs
from curvature.pruning.space import Role

ROOTS = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MIXING = ("SPLIT", "SLICE", "UNBIND")


class Unprunable(Exception):
    """Why a candidate cannot be pruned."""


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


def candidates(model: nn.Module, inputs: Inputs, skip: Iterable[str] = ()) -> Iterator[tuple[str, Candidate | str]]:
    """Pairs of a layer's name and the candidate that begins there, or the reason why there is none.

    Args:
        model: any network; it is copied for tracing.
        inputs: of one forward pass.
        skip: layers that somebody else takes care of.
    """
    import torch_pruning as tp

    # Recurrent layers are one operation in float32 on a CPU only.
    traced = copy.deepcopy(model).cpu().float().requires_grad_(True)
    names = {module: name for name, module in traced.named_modules()}
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = tp.DependencyGraph().build_dependency(
                traced, inputs.cast(torch.device("cpu"), torch.float32).value, verbose=False
            )
            found = list(graph.get_all_groups(root_module_types=ROOTS))
    except Exception as error:
        yield "", f"cannot be traced: {type(error).__name__}: {error}"
        return
    skipped = set(skip)
    for group in found:
        root = names[group[0].dep.target.module]
        if root in skipped:
            continue
        try:
            yield root, _candidate(graph, group, names, skipped)
        except Unprunable as reason:
            yield root, str(reason)


def _candidate(graph: Any, group: Any, names: dict[nn.Module, str], skipped: set[str]) -> Candidate:
    root = group[0].dep.target.module
    joined = _Joined(len(group[0].idxs))
    if any(item.dep.target.type.name in MIXING for item in group):
        for channel in range(len(group[0].idxs)):
            one = graph.get_pruning_group(root, group[0].dep.handler, [channel])
            joined.join([index for item in one if item.dep.target.module is root for index in item.idxs])
    for item in group:
        if isinstance(item.dep.target.module, nn.GroupNorm):
            _join_norm_groups(item, joined)
    unit, units = joined.units()
    found = Candidate(names[root], [], units)
    consumed = False
    for item in group:
        module, kind = item.dep.target.module, item.dep.target.type.name
        if kind == "OUTPUT":
            raise Unprunable("its outputs are outputs of the network")
        owners = unit[torch.tensor(item.root_idxs, dtype=torch.int64)]
        where = torch.tensor(item.idxs, dtype=torch.int64)
        if kind == "PARAMETER":
            name, dim = graph._param_to_name[module], item.dep.target.pruning_dim
            _add(found, name, dim % module.ndim, module.shape[dim], where, owners, "member")
            if isinstance(owner := _owner_of(graph.model, name), nn.RMSNorm):
                _scalar(found, names[owner], "normalized_shape", owners)
        elif module in names:
            incoming = graph.is_in_channel_pruning_fn(item.dep.handler) and item.dep.handler.__name__.endswith(
                "in_channels"
            )
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
            depthwise = getattr(module, "groups", 1) > 1
            if depthwise and not module.groups == module.in_channels == module.out_channels:
                raise Unprunable(f"{name} is a grouped convolution")
            if incoming and not depthwise:
                _add(found, f"{name}.weight", 1, shape.shape[1], where, owners, "input")
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
    if len(where) and int(where.max()) >= size:
        raise Unprunable(f"the dependency graph names entry {int(where.max())} of {tensor}, which has {size}")
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


def _join_norm_groups(item: Any, joined: "_Joined") -> None:
    norm = item.dep.target.module
    size = norm.num_channels // norm.num_groups
    if norm.num_groups == 1:
        raise Unprunable("a GroupNorm of one group normalises over the units")
    if len(item.idxs) < norm.num_channels:
        raise Unprunable("a GroupNorm spans several layers")
    members: dict[int, list[int]] = {}
    for index, root in zip(item.idxs, item.root_idxs, strict=True):
        members.setdefault(index // size, []).append(root)
    for together in members.values():
        joined.join(together)


class _Joined:
    """Union-find over the channels of a layer."""

    def __init__(self, size: int) -> None:
        self.parent = list(range(size))

    def _root(self, index: int) -> int:
        while self.parent[index] != index:
            self.parent[index] = self.parent[self.parent[index]]
            index = self.parent[index]
        return index

    def join(self, indices: list[int]) -> None:
        for index in indices[1:]:
            a, b = sorted((self._root(indices[0]), self._root(index)))
            self.parent[b] = a

    def units(self) -> tuple[Tensor, int]:
        """Unit of every channel, numbered by first channel, and their number."""
        roots = [self._root(index) for index in range(len(self.parent))]
        number = {root: position for position, root in enumerate(sorted(set(roots)))}
        return torch.tensor([number[root] for root in roots]), len(number)

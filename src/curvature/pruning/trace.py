"""torch-pruning's dependency graph of a network, and which channels of which layers belong together in it."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from curvature.pruning.inputs import Inputs, tensors_in

ROOTS = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding)
STEPS = 2 * 10**7


class Unprunable(Exception):
    """Why a candidate cannot be pruned."""


class Reached(NamedTuple):
    """Entries of one node of the graph that leave with channels of a root: ``idxs[i]`` with channel ``roots[i]``."""

    node: Any
    handler: Any
    idxs: list[int]
    roots: list[int]


class Attention(NamedTuple):
    """Names of the linear layers of an attention module: those before the heads, and the one behind them."""

    projections: Sequence[str]
    output: str


def dependency_graph(model: nn.Module, inputs: Inputs, attentions: Sequence[Attention]) -> Any:
    """The graph of one forward pass in float32 with gradients; attention modules are cut out of it.

    What happens between the projections of a head and the layer that joins the heads is not traced: slices and
    concatenations there, e.g. of rotary embeddings, shift numbers of channels without end.

    Args:
        model: on the CPU, in float32, with gradients everywhere; its hooks are as before afterwards.
        inputs: of the forward pass.
        attentions: what to cut out.
    """
    import torch_pruning as tp

    def forward(model: nn.Module, value: Any) -> list[Tensor]:
        ends: list[Tensor] = []
        hooks = []
        for attention in attentions:
            for name in attention.projections:
                hooks.append(model.get_submodule(name).register_forward_hook(_ending(ends)))
            hooks.append(model.get_submodule(attention.output).register_forward_pre_hook(_beginning))
        output = model(**value) if isinstance(value, dict) else model(*value)
        for hook in hooks:
            hook.remove()
        return [tensor for tensor in [*tensors_in(output), *ends] if tensor.grad_fn is not None]

    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = inputs.cast(torch.device("cpu"), torch.float32).value
        return tp.DependencyGraph().build_dependency(model, value, forward_fn=forward, verbose=False)


def _ending(ends: list[Tensor]) -> Callable[..., Tensor]:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        ends.append(output)
        return output.detach()

    return hook


def _beginning(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return args[0].detach(), *args[1:]


def groups(graph: Any) -> Iterator[tuple[nn.Module, list[Reached] | Unprunable, "Joined"]]:
    """For every layer in :data:`ROOTS` whose outputs no earlier layer is tied to: what its channels reach.

    Yields:
        the layer, what is reached or why that cannot be said, and which of its channels must go together.
    """
    visited: set[Any] = set()
    for root in list(graph.module2node):
        if not isinstance(root, ROOTS) or root in visited:
            continue
        size: int = graph.get_out_channels(root)
        joined = Joined(size)
        try:
            reached = _reach(graph, root, size, joined)
        except Unprunable as reason:
            yield root, reason, joined
            continue
        visited |= {item.node.module for item in reached if graph.is_out_channel_pruning_fn(item.handler)}
        yield root, reached, joined


def _reach(graph: Any, root: nn.Module, size: int, joined: "Joined") -> list[Reached]:
    """Follow every channel of ``root`` through the graph; channels that meet in one entry are joined.

    Only the first of the channels that meet goes on, so that the work is linear in the number of entries.
    """
    from torch_pruning._helpers import _HybridIndex

    start = graph.module2node[root], graph.get_pruner_of_module(root).prune_out_channels
    found: dict[tuple[Any, Any], dict[int, int]] = {}
    steps, work = 0, [(*start, [_HybridIndex(channel, channel) for channel in range(size)])]
    while work:
        node, handler, indices = work.pop()
        known = found.setdefault((node, handler), {})
        new, (period, parts) = [], _repeats(graph, node.module, handler)
        if parts > 1:
            indices = [_HybridIndex(i.idx % period + k * period, i.root_idx) for i in indices for k in range(parts)]
        for index in indices:
            if index.idx in known:
                joined.join([known[index.idx], index.root_idx])
            else:
                known[index.idx] = index.root_idx
                new.append(index)
        steps += len(indices)
        if steps > STEPS:
            raise Unprunable("the dependency graph does not come to an end")
        for dependency in node.dependencies if new else ():
            if dependency.is_triggered_by(handler):
                mapped = new
                for mapping in dependency.index_mapping:
                    mapped = mapped if mapping is None else mapping(mapped)
                if mapped:
                    work.append((dependency.target, dependency.handler, mapped))
    return [Reached(*key, list(pairs), list(pairs.values())) for key, pairs in found.items()]


def _repeats(graph: Any, module: nn.Module, handler: Any) -> tuple[int, int]:
    """Period and number of repetitions of the entries of a layer that leave together: those of grouped convolutions."""
    if not isinstance(module, nn.modules.conv._ConvNd) or module.groups == 1:
        return 0, 1
    if module.groups == module.in_channels == module.out_channels:
        return 0, 1
    size = module.in_channels if graph.is_in_channel_pruning_fn(handler) else module.out_channels
    return size // module.groups, module.groups


class Joined:
    """Union-find over the channels of a layer."""

    def __init__(self, size: int) -> None:
        self.parent = list(range(size))

    def _root(self, index: int) -> int:
        while self.parent[index] != index:
            self.parent[index] = self.parent[self.parent[index]]
            index = self.parent[index]
        return index

    def join(self, indices: list[int]) -> None:
        """Put channels into one unit."""
        for index in indices[1:]:
            a, b = sorted((self._root(indices[0]), self._root(index)))
            self.parent[b] = a

    def units(self) -> tuple[Tensor, int]:
        """Unit of every channel, numbered by first channel, and their number."""
        roots = [self._root(index) for index in range(len(self.parent))]
        number = {root: position for position, root in enumerate(sorted(set(roots)))}
        return torch.tensor([number[root] for root in roots]), len(number)

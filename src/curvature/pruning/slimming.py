"""Cutting removed groups out of a network, as a recipe that can be stored and applied again."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from curvature.errors import ConfigError
from curvature.pruning.inputs import Inputs
from curvature.pruning.space import SearchSpace, tensors_of

Recipe = dict[str, Any]


def zero_groups(model: nn.Module, space: SearchSpace) -> Tensor:
    """(G,) bool: groups of which every slice is exactly zero in ``model``, auxiliary parameters included."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    alive = torch.zeros(space.size + 1, dtype=torch.bool)
    for cut in space.cuts("member", "auxiliary"):
        if cut.tensor in parameters:
            value = parameters[cut.tensor].detach().movedim(cut.dim, 0)
            value = value.reshape(len(value), -1)
            alive[torch.where(cut.owner < 0, space.size, cut.owner)[(value != 0).any(1).cpu()]] = True
    return ~alive[:-1]


@torch.no_grad()
def mask_groups(model: nn.Module, gone: Tensor, space: SearchSpace) -> None:
    """Set every slice of the groups ``gone`` (G,) bool to zero in ``model``, auxiliary parameters included."""
    padded = torch.cat([gone, gone.new_zeros(1)])
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for cut in space.cuts("member", "auxiliary"):
        if cut.tensor in parameters:
            rows = padded[torch.where(cut.owner < 0, space.size, cut.owner)].nonzero()[:, 0]
            parameters[cut.tensor].index_fill_(cut.dim, rows, 0.0)


def keep_one(gone: Tensor, space: SearchSpace) -> Tensor:
    """``gone`` (G,) without the first group of every layer that would lose them all."""
    gone = gone.clone()
    for node in space.nodes:
        if bool(gone[node.start : node.start + node.size].all()):
            gone[node.start] = False
    return gone


def slim(model: nn.Module, space: SearchSpace) -> nn.Module:
    """A smaller copy of ``model`` without its zero groups: the same function, in the same classes.

    Tied tensors stay one tensor. Units that become constants instead of zero are folded into the next biases. The
    result can be saved whole without this package, or as its state and :func:`recipe_of`.

    Args:
        model: the network of ``space``, or one of the same structure.
        space: from :func:`curvature.pruning.build_search_space`.
    """
    recipe = recipe_of(model, space)
    folded = _fold(model, space, recipe) if recipe["biases"] else copy.deepcopy(model)
    return apply_recipe(folded, recipe, rescale=True)


def recipe_of(model: nn.Module, space: SearchSpace, gone: Tensor | None = None) -> Recipe:
    """What :func:`slim` removes, as plain JSON data.

    Args:
        model: the network of ``space``, or one of the same structure.
        space: its search space.
        gone: (G,) bool, groups to remove; default those that are zero, but one of every layer.

    Returns:
        ``keep``: tensor -> dimension (as text) -> indices that stay; ``minus``: module -> attribute -> what it loses;
        ``rms``: modules whose divisor has to be corrected -> old and new length; ``biases``: module -> length of a bias
        it has in the end, where folding may give it one.
    """
    gone = keep_one(zero_groups(model, space) if gone is None else gone, space)
    padded = torch.cat([gone, gone.new_zeros(1)])
    keep: dict[str, dict[str, list[int]]] = {}
    for cut in space.cuts("member", "auxiliary", "input"):
        leaving = padded[torch.where(cut.owner < 0, space.size, cut.owner)]
        if bool(leaving.any()):
            stay = (~leaving).nonzero()[:, 0].tolist()
            entry = keep.setdefault(cut.tensor, {})
            known = set(entry.get(str(cut.dim), stay))
            entry[str(cut.dim)] = [index for index in stay if index in known]
    minus: dict[str, dict[str, int]] = {}
    modules = dict(model.named_modules())
    rms: dict[str, list[int]] = {}
    biases: dict[str, int] = {}
    for node in space.nodes:
        removed = int(gone[node.start : node.start + node.size].sum())
        if not removed:
            continue
        for module, attribute, each in node.scalars:
            losses = minus.setdefault(module, {})
            losses[attribute] = losses.get(attribute, 0) + removed * each
            if isinstance(modules[module], nn.RMSNorm):
                length = modules[module].normalized_shape[-1]
                rms[module] = [length, length - losses[attribute]]
        if node.fold:
            for cut in node.cuts:
                if cut.role == "input":
                    name = cut.tensor.removesuffix(".weight")
                    rows = keep.get(cut.tensor, {}).get("0")
                    weight: Tensor = modules[name].weight
                    biases[name] = len(weight) if rows is None else len(rows)
    return {"keep": keep, "minus": minus, "rms": rms, "biases": biases}


@torch.no_grad()
def apply_recipe(model: nn.Module, recipe: Recipe, rescale: bool = False) -> nn.Module:
    """Make ``model`` small, in place, and return it; then a slim network's state can be loaded into it.

    Args:
        model: a network of the original class and size.
        recipe: from :func:`recipe_of`.
        rescale: correct weights for divisors that changed; not needed if a slim state is loaded.

    Raises:
        ConfigError: the recipe names tensors that the network has not.
    """
    tensors = tensors_of(model)
    if unknown := sorted(set(recipe["keep"]) - set(tensors)):
        raise ConfigError("recipe", unknown[:3], "tensors of the network")
    cuts: dict[int, dict[int, list[int]]] = {}
    for name, dims in recipe["keep"].items():
        for dim, stay in dims.items():
            cuts.setdefault(id(tensors[name]), {})[int(dim)] = stay
    biases = [model.get_submodule(name) for name in recipe["biases"]]
    for module, length in zip(biases, recipe["biases"].values(), strict=True):
        if module.bias is None:
            weight: Any = module.weight
            module.bias = nn.Parameter(weight.new_zeros(length))
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for key, old in store.items():
                if old is None or id(old) not in cuts:
                    continue
                if id(old) not in made:
                    made[id(old)] = _cut(old, cuts[id(old)])
                store[key] = made[id(old)]  # type: ignore[assignment]
    for name, losses in recipe["minus"].items():
        module = model.get_submodule(name)
        for attribute, loss in losses.items():
            value: Any = getattr(module, attribute)
            is_shape = isinstance(value, tuple)
            setattr(module, attribute, (*value[:-1], value[-1] - loss) if is_shape else value - loss)
    for name, (old_length, new_length) in recipe["rms"].items():
        norm: Any = model.get_submodule(name)
        if norm.weight is None:
            continue
        eps = torch.finfo(norm.weight.dtype).eps if norm.eps is None else norm.eps
        norm.eps = eps * old_length / new_length
        if rescale:
            norm.weight.mul_((old_length / new_length) ** 0.5)
    return model


def _cut(old: Tensor, dims: dict[int, list[int]]) -> Tensor:
    new = old.detach()
    for dim, stay in dims.items():
        new = new.index_select(dim, torch.tensor(stay, dtype=torch.int64, device=old.device))
    return nn.Parameter(new.clone(), requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new.clone()


@torch.no_grad()
def _fold(model: nn.Module, space: SearchSpace, recipe: Recipe) -> nn.Module:
    """A copy of ``model`` whose biases include what its removed constant units contribute."""
    folded = copy.deepcopy(model)
    seen: dict[str, Tensor] = {}
    hooks = []
    for name in recipe["biases"]:
        hooks.append(folded.get_submodule(name).register_forward_pre_hook(_watch(seen, name)))
    was_training = folded.training
    parameter: Any = next(folded.parameters())
    folded.eval()
    Inputs.of(space.example_inputs).cast(parameter.device, parameter.dtype)(folded)
    folded.train(was_training)
    for hook in hooks:
        hook.remove()
    for name in recipe["biases"]:
        layer: Any = folded.get_submodule(name)
        gone = sorted(set(range(layer.weight.shape[1])) - set(recipe["keep"][f"{name}.weight"]["1"]))
        constants, columns = seen[name][gone], layer.weight[:, gone]
        columns = columns.flatten(2).sum(2) if columns.ndim > 2 else columns
        shift = columns @ constants.to(columns)
        if layer.bias is not None:
            layer.bias.add_(shift)
            continue
        rows = recipe["keep"][f"{name}.weight"].get("0")
        layer.bias = nn.Parameter(shift if rows is None else shift[rows])
    return folded


def _watch(seen: dict[str, Tensor], name: str) -> Any:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        axis = -1 if isinstance(module, nn.Linear) else 1
        seen[name] = args[0].detach().movedim(axis, 0).flatten(1)[:, 0].clone()

    return hook

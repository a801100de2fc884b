"""Values of a config against the annotated types of what they are handed to."""

import contextlib
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from omegaconf import DictConfig, ListConfig, OmegaConf

from curvature.errors import ConfigError

PLAIN = (int, float, str, bool, type(None))
CONTAINERS = (list, tuple, dict, Sequence, Collection, Iterable, Mapping)
LARGEST = float(np.finfo(np.float32).max)
"""Beyond it a number becomes infinite or an error somewhere in float32."""
OF_OPTIMIZERS = dict.fromkeys(("lr", "eps", "momentum", "dampening", "weight_decay"), float) | {
    "betas": tuple[float, float]
}
"""Types of arguments of torch's optimizers, whose annotations also allow tensors."""


def check_arguments(node: Any, key: str) -> None:
    """Check every number and word, and lists and mappings of them, that goes to a class or function of this package.

    Where an annotation says more than that (tensors, callables), only that it is a list or a mapping is looked at; of
    other libraries only the numbers of torch's optimizers are. Integers are floats, but nothing else is converted:
    ``"3"`` and ``3.0`` are no integers.

    Args:
        node: part of a config whose interpolations resolve.
        key: its dotted key, for the message.

    Raises:
        ConfigError: naming the key, the value and the type that is wanted.
    """
    if isinstance(node, ListConfig):
        for index, item in enumerate(node):
            check_arguments(item, f"{key}.{index}")
    if not isinstance(node, DictConfig):
        return
    hints = _hints(node.get("_target_"))
    for name, value in ((str(name), value) for name, value in node.items()):
        if isinstance(value, float) and not abs(value) <= LARGEST:
            raise ConfigError(f"{key}.{name}", value, f"a number between -{LARGEST:.3g} and {LARGEST:.3g}")
        if name == "seed" and isinstance(value, int) and value < 0:
            raise ConfigError(f"{key}.{name}", value, "an integer >= 0")
        if name in hints:
            _check(value, hints[name], f"{key}.{name}")
        check_arguments(value, f"{key}.{name}")


def _check(value: Any, hint: Any, key: str) -> None:
    shape = _shape(hint)
    if shape is None or (isinstance(value, DictConfig) and "_target_" in value):
        return
    from pydantic import TypeAdapter, ValidationError

    plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    adapter = TypeAdapter(shape)
    for form in (plain, tuple(plain)) if isinstance(plain, list) else (plain,):
        with contextlib.suppress(ValidationError):
            adapter.validate_python(form, strict=True)
            return
    raise ConfigError(key, plain, f"a value of type {_described(hint)}")


def _hints(target: Any) -> dict[str, Any]:
    """Annotations by argument; those of base classes too, since options are handed on to them."""
    if isinstance(target, str) and target.startswith("torch.optim."):
        return OF_OPTIMIZERS
    if not isinstance(target, str) or not target.startswith("curvature."):
        return {}
    from hydra.utils import get_object

    found = get_object(target)
    callables = [base.__dict__.get("__init__") for base in found.__mro__] if isinstance(found, type) else [found]
    hints: dict[str, Any] = {}
    for function in filter(None, callables):
        try:
            hints = typing.get_type_hints(function) | hints
        except (NameError, TypeError):
            continue
    return {name: hint for name, hint in hints.items() if name != "return"}


def _shape(hint: Any) -> Any:
    """The part of ``hint`` that plain values can be checked against; None if there is none."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal or hint in PLAIN:
        return hint
    if origin in (typing.Union, types.UnionType):
        shapes = [_shape(argument) for argument in arguments]
        return None if None in shapes else typing.Union[tuple(shapes)]  # noqa: UP007
    if origin in CONTAINERS:
        return origin[tuple(item if item is Ellipsis else _shape(item) or Any for item in arguments)]
    return None


def _described(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("collections.abc.", "").replace("typing.", "")

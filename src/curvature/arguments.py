"""Values of a config against the annotated types of what they are handed to."""

import contextlib
import types
import typing
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal

import numpy as np
from omegaconf import DictConfig, ListConfig, OmegaConf

from curvature.errors import ConfigError

PLAIN = (int, float, str, bool, type(None))
CONTAINERS = (list, tuple, Sequence, Collection, Iterable)
LARGEST = float(np.finfo(np.float32).max)
"""Beyond it a number becomes infinite or an error somewhere in float32."""


def check_arguments(node: Any, key: str) -> None:
    """Check every number, word and list of them in ``node`` that goes to a class or function of this package.

    Annotations that say more than that (tensors, callables, mappings) are not looked at, nor are those of other
    libraries. Integers are floats, but nothing else is converted: ``"3"`` and ``3.0`` are no integers.

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
    if not _is_plain(hint):
        return
    from pydantic import TypeAdapter, ValidationError

    plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    adapter = TypeAdapter(hint)
    for form in (plain, tuple(plain)) if isinstance(plain, list) else (plain,):
        with contextlib.suppress(ValidationError):
            adapter.validate_python(form, strict=True)
            return
    raise ConfigError(key, plain, f"a value of type {_described(hint)}")


def _hints(target: Any) -> dict[str, Any]:
    """Annotations by argument; those of base classes too, since options are handed on to them."""
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


def _is_plain(hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return True
    if origin in (typing.Union, types.UnionType):
        return all(_is_plain(argument) for argument in arguments)
    if origin in CONTAINERS:
        return all(_is_plain(argument) for argument in arguments if argument is not Ellipsis)
    return hint in PLAIN


def _described(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("collections.abc.", "").replace("typing.", "")

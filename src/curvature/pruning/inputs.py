"""Inputs of a forward pass, further ones like them, and outputs as flat lists of tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Inputs:
    """``value``: a tuple of positional arguments or a dict of keyword arguments."""

    value: tuple[Any, ...] | dict[str, Any]

    @classmethod
    def of(cls, example: Any) -> "Inputs":
        """From a tensor, a sequence of arguments, or a mapping of keyword arguments."""
        if isinstance(example, Inputs):
            return example
        if isinstance(example, Mapping):
            return cls(dict(example))
        return cls(tuple(example) if isinstance(example, Sequence) else (example,))

    def __call__(self, model: nn.Module) -> list[Tensor]:
        """Tensors of the output, flattened, detached."""
        with torch.no_grad():
            output = model(**self.value) if isinstance(self.value, dict) else model(*self.value)
        return flattened(output)

    def cast(self, device: torch.device, dtype: torch.dtype) -> "Inputs":
        """The same on ``device``, real tensors as ``dtype``."""

        def move(item: Any) -> Any:
            if not isinstance(item, Tensor):
                return item
            return item.to(device, dtype) if item.is_floating_point() else item.to(device)

        if isinstance(self.value, dict):
            return Inputs({key: move(item) for key, item in self.value.items()})
        return Inputs(tuple(move(item) for item in self.value))

    def like(self, seed: int, batch: int | None = None, length: int | None = None) -> "Inputs":
        """Random inputs of the same kinds: normal for real tensors, in the seen range for integer ones, in float64.

        Args:
            seed: of the draw.
            batch: size of dimension 0; None keeps it.
            length: size of dimension 1 of tensors whose other dimensions are those of the first; None keeps it.
        """
        generator = torch.Generator().manual_seed(seed)
        items = self.value.items() if isinstance(self.value, dict) else enumerate(self.value)
        made = {key: _like(item, generator, batch, length) for key, item in items}
        return Inputs(made if isinstance(self.value, dict) else tuple(made.values()))  # type: ignore[arg-type]

    def is_sequence(self) -> bool:
        """Whether an integer tensor (B, T) is among the inputs, e.g. tokens."""
        items = self.value.values() if isinstance(self.value, dict) else self.value
        return any(isinstance(item, Tensor) and item.ndim == 2 and not item.is_floating_point() for item in items)

    def length(self) -> int:
        """Size of dimension 1 of the first tensor."""
        items = self.value.values() if isinstance(self.value, dict) else self.value
        return next(item.shape[1] for item in items if isinstance(item, Tensor))


def flattened(output: Any) -> list[Tensor]:
    """All tensors in a nested output, in order, detached."""
    return [tensor.detach() for tensor in tensors_in(output)]


def tensors_in(output: Any) -> list[Tensor]:
    """All tensors in a nested output, in order, with their history."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        return [tensor for item in output.values() for tensor in tensors_in(item)]
    if isinstance(output, Sequence) and not isinstance(output, str):
        return [tensor for item in output for tensor in tensors_in(item)]
    return []


def _like(item: Any, generator: torch.Generator, batch: int | None, length: int | None) -> Any:
    if not isinstance(item, Tensor) or item.ndim == 0:
        return item
    shape = list(item.shape)
    if batch is not None:
        shape[0] = batch
    if length is not None and item.ndim >= 2:
        shape[1] = length
    if item.is_floating_point():
        return torch.randn(shape, generator=generator, dtype=torch.float64)
    if item.dtype == torch.bool:
        return torch.ones(shape, dtype=torch.bool)
    low, high = int(item.min()), int(item.max()) + 1
    return torch.randint(low, high, shape, generator=generator, dtype=item.dtype)

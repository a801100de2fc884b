"""A chunk of many small steps as one step of an optimiser, which is what training loops count and save."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class ChunkedDescent(torch.optim.Optimizer):
    """Calls ``advance`` once a step; the parameters change in there.

    Args:
        parameters: what ``advance`` changes.
        advance: takes no argument and returns the loss.
    """

    def __init__(self, parameters: Iterable[Tensor], advance: Callable[[], Tensor]) -> None:
        super().__init__(parameters, {})
        self.advance = advance

    def step(self, closure: Any = None) -> Tensor:  # type: ignore[override]
        return self.advance()

"""Runs that compute rather than train: one evaluation of a function of a seed for each step."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from curvature.stability.descent import ChunkedDescent

Evaluation = Callable[[int], Mapping[str, float]]


class Evaluations(pl.LightningModule):
    """Means of what ``functions`` return, over ``max_steps`` evaluations; no parameter is trained.

    Args:
        functions: each takes a seed and returns metrics by name; names must not repeat.
        seed: step i evaluates at ``seed * max_steps + i``.
        max_steps: evaluations.
    """

    def __init__(self, functions: Sequence[Evaluation], seed: int, max_steps: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.functions, self.seed, self.max_steps = list(functions), seed, max_steps
        self.totals: dict[str, float] = {}
        self.results: dict[str, float] = {}
        self.counter = nn.Parameter(torch.zeros(()), requires_grad=False)

    def configure_optimizers(self) -> ChunkedDescent:
        return ChunkedDescent([self.counter], self._evaluate)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self.optimizers().step()  # type: ignore[union-attr]
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["totals"] = dict(self.totals)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.totals = dict(checkpoint["totals"])
        done = float(checkpoint["state_dict"]["counter"])
        self.results = {name: total / done for name, total in self.totals.items()} if done else {}

    def _evaluate(self) -> Tensor:
        seed = self.seed * self.max_steps + int(self.counter)
        for function in self.functions:
            for name, value in function(seed).items():
                self.totals[name] = self.totals.get(name, 0.0) + value
        self.counter.add_(1)
        self.results = {name: total / float(self.counter) for name, total in self.totals.items()}
        return torch.zeros(())

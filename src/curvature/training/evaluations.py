"""Runs that compute rather than train: one evaluation of a function of a seed for each step."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from curvature.errors import ConfigError
from curvature.stability.descent import ChunkedDescent

Evaluation = Callable[[int], Mapping[str, float]]
KEPT = ("mean", "extremes")


class Evaluations(pl.LightningModule):
    """What ``functions`` return, over ``max_steps`` evaluations; no parameter is trained.

    Args:
        functions: each takes a seed and returns metrics by name; names must not repeat.
        seed: step i evaluates at ``seed * max_steps + i``.
        max_steps: evaluations.
        keep: ``mean`` of each metric under its own name, or ``extremes`` as ``<metric>/min`` and ``<metric>/max``.

    Raises:
        ConfigError: an unknown ``keep``.
    """

    def __init__(self, functions: Sequence[Evaluation], seed: int, max_steps: int, keep: str = "mean") -> None:
        super().__init__()
        if keep not in KEPT:
            raise ConfigError("module.keep", keep, " or ".join(KEPT))
        if not functions or not all(callable(function) for function in functions):
            raise ConfigError("module.functions", list(functions), "functions of a seed, at least one")
        self.automatic_optimization = False
        self.functions, self.seed, self.max_steps, self.keep = list(functions), seed, max_steps, keep
        self.gathered: dict[str, float] = {}
        self.results: dict[str, float] = {}
        self.counter = nn.Parameter(torch.zeros(()), requires_grad=False)

    def configure_optimizers(self) -> ChunkedDescent:
        return ChunkedDescent([self.counter], self._evaluate)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self.optimizers().step()  # type: ignore[union-attr]
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["gathered"] = dict(self.gathered)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.gathered = dict(checkpoint["gathered"])
        self._summarise(float(checkpoint["state_dict"]["counter"]))

    def _evaluate(self) -> Tensor:
        seed = self.seed * self.max_steps + int(self.counter)
        for function in self.functions:
            for name, value in function(seed).items():
                self._gather(name, float(value))
        self.counter.add_(1)
        self._summarise(float(self.counter))
        return torch.zeros(())

    def _gather(self, name: str, value: float) -> None:
        if self.keep == "mean":
            self.gathered[name] = self.gathered.get(name, 0.0) + value
            return
        for suffix, extreme in (("min", min), ("max", max)):
            key = f"{name}/{suffix}"
            self.gathered[key] = extreme(self.gathered.get(key, value), value)

    def _summarise(self, done: float) -> None:
        divisor = done if self.keep == "mean" else 1.0
        self.results = {name: value / divisor for name, value in self.gathered.items()}

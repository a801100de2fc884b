"""Pruning of any experiment's model while it trains, and what came of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from curvature.errors import ConfigError
from curvature.optim.hesso.base import known, update_direction
from curvature.optim.hesso.pruner import GroupPruner
from curvature.optim.hesso.schedule import Moment
from curvature.pruning.build import build_search_space
from curvature.pruning.report import slim_report
from curvature.pruning.slimming import slim
from curvature.pruning.space import SearchSpace

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class PruneWhileTraining(pl.Callback):
    """HESSO around whatever optimiser an experiment has: groups of ``pl_module.model`` shrink and vanish on the way.

    Works through the optimiser's step hooks, so that wrappers (SAM, several optimisers in one) stay what they are. The
    update direction is that of SGD, Adam and AdamW where the optimiser is one of these, else the observed change of the
    parameters over the learning rate. The state is part of the checkpoint. Metrics are those of :class:`SlimReport`,
    which this callback includes.

    Args:
        target_group_sparsity, criteria, group_divisible, selection, seed: see
            :class:`curvature.optim.hesso.pruner.GroupPruner`.
        max_steps: optimiser steps of the training.
        start, duration: shares of ``max_steps`` before pruning and during it.
        periods: pruning periods.
        direction: ``variant``, or ``raw`` gradients.
        exclude: parts of names of layers to leave alone.
        save: also save the slim network and the recipe in this directory; null does not.
        latency_repetitions: forward passes for the latency.

    Raises:
        ConfigError: shares out of range; before training, a model without groups, or a target beyond them.
    """

    def __init__(
        self,
        max_steps: int,
        target_group_sparsity: float = 0.5,
        start: float = 0.1,
        duration: float = 0.5,
        periods: int = 10,
        criteria: Mapping[str, float] | None = None,
        group_divisible: int = 1,
        direction: str = "variant",
        selection: str = "masked",
        exclude: tuple[str, ...] = (),
        seed: int = 0,
        save: str | None = None,
        latency_repetitions: int = 20,
    ) -> None:
        for key, share in (("start", start), ("duration", duration)):
            if not 0.0 <= share <= 1.0 or start + duration > 1.0:
                raise ConfigError(f"pruning.{key}", share, "shares of training with start + duration <= 1")
        self.max_steps, self.start, self.duration, self.direction = max_steps, start, duration, direction
        steps = max(1, int(duration * max_steps))
        self.options: dict[str, Any] = {
            "target_group_sparsity": target_group_sparsity,
            "start_step": int(start * max_steps),
            "pruning_steps": steps,
            "pruning_periods": min(periods, steps),
            "criteria": criteria,
            "group_divisible": group_divisible,
            "selection": selection,
            "seed": seed,
            "max_steps": max_steps,
        }
        self.exclude, self.save = tuple(exclude), save
        self.report = SlimReport(latency_repetitions)
        self.results = self.report.results
        self.pruner: GroupPruner | None = None
        self._loaded: dict[str, Any] | None = None
        self._moment: Moment | None = None
        self._before: list[Tensor] = []
        self._directions: list[Tensor] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit" or self.pruner is not None:
            return
        space = build_search_space(pl_module.model, example_batch(trainer.datamodule), self.exclude)  # type: ignore
        if not space.size:
            raise ConfigError("pruning", type(pl_module.model).__name__, f"a model with groups: {space.describe()}")
        self.pruner = GroupPruner(space, **self.options)
        pl_module.search_space = space  # type: ignore[assignment]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.pruner is not None
        if self._loaded is not None:
            self.pruner.load_state(self._loaded)
        optimizer = trainer.optimizers[0]
        optimizer.register_step_pre_hook(self._before_step)
        optimizer.register_step_post_hook(self._after_step)
        self.report.on_train_start(trainer, pl_module)

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        pruner = self.pruner
        assert pruner is not None
        self._moment = pruner.begin()
        if self._moment.opens:
            self._before = [p.clone() for p in pruner.layout.values()]
            if known(optimizer):
                groups = {p: group for group in optimizer.param_groups for p in group["params"]}
                raw = self.direction == "raw"
                self._directions = [
                    update_direction(optimizer, p, groups[p], raw) if p in groups else torch.zeros_like(p)
                    for p, _, _ in pruner.layout.members
                ]

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        pruner, moment = self.pruner, self._moment
        assert pruner is not None and moment is not None
        if moment.opens:
            directions = self._directions
            if directions is None:
                rate = max(float(optimizer.param_groups[0]["lr"]), 1e-12)
                members = pruner.layout.members
                if self.direction == "raw":
                    directions = [p.grad if p.grad is not None else torch.zeros_like(p) for p, _, _ in members]
                else:
                    directions = [(old - p) / rate for old, (p, _, _) in zip(self._before, members, strict=True)]
            pruner.choose(moment, directions, self._before)
            self._before, self._directions = [], None
        pruner.finish(moment.factor, moment.closes)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.report.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.report.on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.pruner is not None
        self.report.on_train_end(trainer, pl_module)
        self.results["groups/target"] = float(self.pruner.target)
        if self.save and trainer.is_global_zero:
            save_slim(pl_module.model, self.pruner.space, Path(self.save))  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        return {} if self.pruner is None else {"pruner": dict(self.pruner.state)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict.get("pruner")


class SlimReport(pl.Callback):
    """At the end of training, ``results`` holds what :func:`curvature.pruning.report.slim_report` returns.

    Group sparsity is logged as ``train/group_sparsity``. ``plots/saliency.png`` shows the last saliencies, if
    the optimiser keeps them, and sparsity and validation accuracy over steps. The module's ``search_space`` is used;
    without one there are no results.

    Args:
        latency_repetitions: forward passes for the latency; 0 does not measure it.

    Raises:
        ConfigError: a negative number of them.
    """

    def __init__(self, latency_repetitions: int = 20) -> None:
        if latency_repetitions < 0:
            raise ConfigError("callbacks.slim.latency_repetitions", latency_repetitions, "an integer >= 0")
        self.latency_repetitions = latency_repetitions
        self.results: dict[str, float] = {}
        self._history: list[tuple[int, float]] = []
        self._accuracy: list[tuple[int, float]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._pruner = _pruner_of(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self._pruner is None or trainer.global_step % every or trainer.logger is None:
            return
        sparsity = float(self._pruner.state["pruned"].double().mean())
        self._history.append((trainer.global_step, sparsity))
        trainer.logger.log_metrics({"train/group_sparsity": sparsity}, trainer.global_step)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if (accuracy := trainer.callback_metrics.get("val/accuracy")) is not None:
            self._accuracy.append((trainer.global_step, float(accuracy)))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        space = getattr(pl_module, "search_space", None)
        if space is None or not trainer.is_global_zero:
            return
        self.results |= slim_report(pl_module.model, space, self.latency_repetitions)  # type: ignore[arg-type]
        pruner = self._pruner
        if pruner is not None and pruner.scores is not None and trainer.logger is not None:
            tracker: Any = trainer.logger.experiment  # type: ignore[attr-defined]
            tracker.log_figure(saliency_figure(pruner, self._history, self._accuracy), "plots/saliency.png")


def example_batch(datamodule: Any) -> Any:
    """Inputs of two training examples of a data module, as they are in training but for augmentation."""
    return datamodule.measurement_batches(2, "train", 2)[0][0]


def save_slim(model: torch.nn.Module, space: SearchSpace, directory: Path) -> None:
    """Write ``model.pt`` (the whole slim network), ``weights.pt`` (its state) and ``recipe.json`` to ``directory``."""
    import json

    from curvature.pruning.slimming import recipe_of

    directory.mkdir(parents=True, exist_ok=True)
    smaller = slim(model, space)
    torch.save(smaller, directory / "model.pt")
    torch.save(smaller.state_dict(), directory / "weights.pt")
    (directory / "recipe.json").write_text(json.dumps(recipe_of(model, space)))


def saliency_figure(
    pruner: GroupPruner, sparsity: list[tuple[int, float]], accuracy: list[tuple[int, float]]
) -> "Figure":
    """Histogram of the last saliencies, removed and kept groups apart, beside sparsity and accuracy over steps."""
    from matplotlib.figure import Figure

    assert pruner.scores is not None
    scores, gone = pruner.scores.detach().cpu(), pruner.state["pruned"].cpu()
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.hist([scores[~gone].numpy(), scores[gone].numpy()], bins=30, stacked=True, label=["kept", "removed"])
    left.set(xlabel="saliency when groups were last chosen", ylabel="groups")
    left.legend()
    for label, series, style in (("group sparsity", sparsity, "steps-post"), ("accuracy", accuracy, "default")):
        if series:
            right.plot(*zip(*series, strict=True), label=label, drawstyle=style, marker=".")
    right.set(xlabel="optimiser step", ylim=(-0.02, 1.02))
    if sparsity or accuracy:
        right.legend()
    return figure


def _pruner_of(trainer: pl.Trainer) -> GroupPruner | None:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, PruneWhileTraining):
            return callback.pruner
    return getattr(trainer.optimizers[0], "pruner", None)

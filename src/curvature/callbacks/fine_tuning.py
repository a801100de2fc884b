"""Fine-tuning the trained network on other data, as a callback any classifier can use."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from curvature.callbacks.targets import OnTargets
from curvature.data.order import permutation
from curvature.data.seeds import derive
from curvature.errors import ConfigError
from curvature.training.batches import drawn_from


class FineTuning(OnTargets):
    """At the end of training, a copy of the network gets a new classifier and is trained on each target.

    ``results`` holds the test accuracy as ``fine_tuning/<target>`` and their mean as ``fine_tuning/mean``. Every
    arm is fine-tuned alike: optimiser and schedule are those given here, the loss is cross-entropy, the new classifier
    and the order of batches depend on ``seed`` alone. Targets are opened before training.

    Args:
        targets: name -> data module whose images have the shape the model takes, or None to leave it out.
        optimizer: factory taking parameters.
        schedule: factory taking the optimiser and ``max_steps``.
        max_steps: optimiser steps on each target.
        seed: of the new classifier and the order.
        max_grad_norm: clip the global gradient norm; None does not clip.

    Raises:
        ConfigError: no steps; before training, what the targets' data lack.
    """

    def __init__(
        self,
        targets: Mapping[str, Any],
        optimizer: Callable[..., Optimizer],
        schedule: Callable[..., LRScheduler],
        max_steps: int,
        seed: int = 0,
        max_grad_norm: float | None = None,
    ) -> None:
        if max_steps < 1:
            raise ConfigError("callbacks.fine_tuning.max_steps", max_steps, "an integer >= 1")
        super().__init__(targets)
        self.optimizer, self.schedule, self.max_steps = optimizer, schedule, max_steps
        self.seed, self.max_grad_norm = seed, max_grad_norm

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        found: dict[str, float] = {}
        for index, (name, target) in enumerate(self.targets.items()):
            with torch.enable_grad(), drawn_from("fine-tuning", self.seed, index, device=pl_module.device):
                model = self._tuned(pl_module, target)
            found[f"fine_tuning/{name}"] = self._accuracy(model, target, pl_module.device)
        if found:
            self.results = found | {"fine_tuning/mean": float(np.mean(list(found.values())))}

    def _tuned(self, pl_module: Any, target: Any) -> nn.Module:
        model = copy.deepcopy(pl_module.model)
        model.reset_classifier(target.num_classes)
        nn.init.zeros_(model.get_classifier().weight)
        nn.init.zeros_(model.get_classifier().bias)
        model.to(pl_module.device).train()
        optimizer = self.optimizer(model.parameters())
        schedule = self.schedule(optimizer, max_steps=self.max_steps)
        train, size = target.splits["train"], target.batch_size
        batches = len(train) // size
        for step in range(self.max_steps):
            epoch, place = divmod(step, batches)
            order = permutation(len(train), derive("fine-tuning order", self.seed, epoch))
            images, labels = train.examples(order[place * size : (place + 1) * size])
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images.to(pl_module.device)), labels.to(pl_module.device))
            loss.backward()
            if self.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), self.max_grad_norm)
            optimizer.step()
            schedule.step()
        tuned: nn.Module = model
        return tuned

    @torch.no_grad()
    def _accuracy(self, model: nn.Module, target: Any, device: torch.device) -> float:
        model.eval()
        count = len(target.splits["test"])
        batches = target.measurement_batches(count, "test")
        return sum(int((model(x.to(device)).argmax(-1) == y.to(device)).sum()) for x, y in batches) / count

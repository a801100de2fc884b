"""Other data that a trained network is tried on: named data modules, opened before training."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl


class OnTargets(pl.Callback):
    """Base of callbacks that try the trained network on other data.

    Targets are opened before training, on the first process alone, so that a missing one is noticed at once.

    Args:
        targets: name -> data module whose images have the shape the model takes, or None to leave it out.

    Raises:
        ConfigError: before training begins, what the targets' data lack.
    """

    def __init__(self, targets: Mapping[str, Any]) -> None:
        self.targets = {name: target for name, target in targets.items() if target is not None}
        self.results: dict[str, float] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero:
            for target in self.targets.values():
                target.prepare_data()
                target.setup("fit")

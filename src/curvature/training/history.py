"""Records that a module makes while it trains, kept through an interruption."""

from typing import Any

import pytorch_lightning as pl


class Recording(pl.LightningModule):
    """A module whose ``history``, (step, metrics) by the step, is part of its checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[tuple[int, dict[str, float]]] = []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]

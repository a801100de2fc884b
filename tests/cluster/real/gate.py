"""A callback that holds a run before chosen training steps."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
from hold import hold


class Gate(pl.Callback):
    """Holds the first process of a run before each of ``steps``, once over all its starts; see :func:`hold.hold`.

    In the run directory it leaves ``held-<step>`` on arrival and ``begun``, a byte for each step that has begun,
    repeated steps included.

    Args:
        steps: optimiser steps taken before the batch that is held.
        opened: file that opens all gates when it is made.
        pause_s: sleep before every step.
    """

    def __init__(self, steps: Sequence[int], opened: str, pause_s: float = 0.0) -> None:
        self.steps, self.opened, self.pause_s = list(steps), Path(opened), pause_s

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if not trainer.is_global_zero:
            return
        directory = Path(trainer.default_root_dir)
        descriptor = os.open(directory / "begun", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, b".")
        os.close(descriptor)
        time.sleep(self.pause_s)
        if trainer.global_step in self.steps:
            hold(directory / f"held-{trainer.global_step}", self.opened)

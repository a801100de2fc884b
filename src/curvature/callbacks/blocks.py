"""Largest Hessian eigenvalue of every part of the trained network, as a callback any paper can use."""

import copy
from typing import Any

import pytorch_lightning as pl
import torch

from curvature.errors import ConfigError
from curvature.hessian.blocks import block_lambda_max, parameter_blocks


class HessianBlocks(pl.Callback):
    """At the end of training, ``results`` holds ``blocks/<name>``: lambda_max of that diagonal block.

    Names are those of :func:`curvature.hessian.blocks.parameter_blocks`, and ``blocks/last`` is the last ``block<i>``;
    ``blocks_converged`` is the share of blocks whose eigenvalue is known to within ``tolerance``.
    A float64 copy of ``pl_module.model`` is measured on un-augmented training images with their training labels.

    Args:
        images: number of examples.
        tolerance: relative residual at which an eigenvalue is accepted.
        batch_size: examples evaluated at once; it bounds the memory and changes nothing else.

    Raises:
        ConfigError: before training, a model whose blocks are not known, or more images than there are.
    """

    def __init__(self, images: int = 256, tolerance: float = 1e-3, batch_size: int = 512) -> None:
        if batch_size < 1:
            raise ConfigError("callbacks.blocks.batch_size", batch_size, "an integer >= 1")
        self.images, self.tolerance, self.batch_size = images, tolerance, batch_size
        self.results: dict[str, float] = {}

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        parameter_blocks(pl_module.model)
        if stage == "fit":
            trainer.datamodule.check_count("callbacks.blocks.images", self.images, "train")  # type: ignore[attr-defined]

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        model = copy.deepcopy(pl_module.model).double()
        batches = [
            (inputs.to(pl_module.device).double(), labels.to(pl_module.device))
            for inputs, labels in trainer.datamodule.measurement_batches(self.images, "train", self.batch_size)  # type: ignore[attr-defined]
        ]
        criterion = getattr(pl_module, "evaluation_criterion", pl_module.criterion)
        with torch.enable_grad():
            found = block_lambda_max(model, criterion, batches, tolerance=self.tolerance)
        self.results = {f"blocks/{name}": eigenvalue.value for name, eigenvalue in found.items()}
        depth = sum(name.removeprefix("block").isdigit() for name in found)
        self.results["blocks/last"] = self.results[f"blocks/block{depth}"]
        self.results["blocks_converged"] = sum(eigenvalue.converged for eigenvalue in found.values()) / len(found)

"""Condition number of the tangent kernel at initialisation, as a callback any paper can use."""

import copy
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch

from curvature.errors import ConfigError
from curvature.hessian.ntk import MODES, ntk_condition_number


class TangentKernelCondition(pl.Callback):
    """``results`` holds ``ntk/condition_number/<mode>`` and ``ntk/smallest/<mode>`` of the network before training.

    A float64 copy of ``pl_module.model`` is measured on un-augmented training images.

    Args:
        modes: of :func:`curvature.hessian.ntk.ntk_condition_number`.
        images: number of examples, at most 64.

    Raises:
        ConfigError: an unknown mode or a number of images out of range; before training, more images than there are.
    """

    def __init__(self, modes: Sequence[str] = ("per_logit",), images: int = 16) -> None:
        if unknown := sorted(set(modes) - set(MODES)):
            raise ConfigError("callbacks.tangent_kernel.modes", unknown, f"some of {', '.join(MODES)}")
        if not 2 <= images <= 64:
            raise ConfigError("callbacks.tangent_kernel.images", images, "from 2 to 64")
        self.modes, self.images = tuple(modes), images
        self.results: dict[str, float] = {}

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            trainer.datamodule.check_count("callbacks.tangent_kernel.images", self.images, "train")  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        # A resumed run no longer has its initial weights; its results come from the checkpoint.
        if self.results or not trainer.is_global_zero:
            return
        model = copy.deepcopy(pl_module.model).double()
        (inputs, _), *_ = trainer.datamodule.measurement_batches(self.images)  # type: ignore[attr-defined]
        with torch.enable_grad():
            for mode in self.modes:
                found = ntk_condition_number(model, inputs.to(pl_module.device).double(), mode)
                self.results[f"ntk/condition_number/{mode}"] = found.condition_number
                self.results[f"ntk/smallest/{mode}"] = found.smallest

    def state_dict(self) -> dict[str, Any]:
        return dict(self.results)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.results = dict(state_dict)

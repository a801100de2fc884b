"""Second-order measures of the trained network, as a callback any paper can use."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch

from curvature.errors import ConfigError

MEASURES = ("lambda_max", "trace", "average_flatness", "activity", "norm", "loss")


class Measures(pl.Callback):
    """Measures a float64 copy of ``pl_module.model`` on fixed, un-augmented examples, at the end of training.

    ``results`` then holds, for the chosen measures: ``sharpness/lambda_max`` and, 1 if its residual is within
    ``tolerance`` and else 0, ``sharpness/lambda_max_converged``; ``sharpness/trace``,
    ``sharpness/average_flatness`` and ``sharpness/average_flatness/<sigma>``, ``activity/layer<i>``,
    ``activity/early`` and ``activity/late`` (means over the first and the last third of the layers), ``norm/weights``
    and ``train/final_loss``. All but the activity use training images with their training labels; activity uses test
    images. Neither generators nor the model itself are touched.

    Args:
        measures: which of ``lambda_max``, ``trace``, ``average_flatness``, ``activity``, ``norm``, ``loss``.
        images: number of examples.
        sigmas: standard deviations of the weight noise of L_N; the last one gives ``sharpness/average_flatness``.
        draws: weight draws of L_N.
        probes: probe vectors of the trace.
        tolerance: relative residual at which the eigenvalue is accepted.
        every_n_steps: measure during training too, and log under the same names; None does not.
        batch_size: examples evaluated at once; it bounds the memory and changes nothing else.

    Raises:
        ConfigError: an unknown measure or a number out of range; before training, more images than there are.
    """

    def __init__(
        self,
        measures: Sequence[str] = MEASURES,
        images: int = 256,
        sigmas: Sequence[float] = (0.01, 0.02, 0.05),
        draws: int = 20,
        probes: int = 32,
        tolerance: float = 1e-3,
        every_n_steps: int | None = None,
        batch_size: int = 512,
    ) -> None:
        unknown = sorted(set(measures) - set(MEASURES))
        if unknown:
            raise ConfigError("callbacks.measures.measures", unknown, f"some of {', '.join(MEASURES)}")
        for name, count in {"images": images, "draws": draws, "probes": probes, "batch_size": batch_size}.items():
            if count < 1:
                raise ConfigError(f"callbacks.measures.{name}", count, "an integer >= 1")
        if not tolerance > 0.0:
            raise ConfigError("callbacks.measures.tolerance", tolerance, "a number > 0")
        if not sigmas or not all(sigma >= 0.0 for sigma in sigmas):
            raise ConfigError("callbacks.measures.sigmas", list(sigmas), "one or more numbers >= 0")
        self.measures, self.images, self.sigmas = tuple(measures), images, tuple(sigmas)
        self.draws, self.probes, self.tolerance = draws, probes, tolerance
        self.every_n_steps, self.batch_size = every_n_steps, batch_size
        self.results: dict[str, float] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            for split in ["train", *["test"] * ("activity" in self.measures)]:
                trainer.datamodule.check_count("callbacks.measures.images", self.images, split)  # type: ignore[attr-defined]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if self.every_n_steps and step % self.every_n_steps == 0 and trainer.is_global_zero and trainer.logger:
            trainer.logger.log_metrics(self._measure(trainer, pl_module), step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self.results = self._measure(trainer, pl_module)

    def _measure(self, trainer: pl.Trainer, pl_module: Any) -> dict[str, float]:
        from curvature.hessian.activity import active_fraction
        from curvature.hessian.landscape import average_flatness, mean_loss, weight_norm
        from curvature.hessian.spectrum import lambda_max, trace

        model = copy.deepcopy(pl_module.model).double()
        criterion = getattr(pl_module, "evaluation_criterion", pl_module.criterion)
        train = self._batches(trainer, pl_module, "train")
        results: dict[str, float] = {}
        with torch.enable_grad():
            if "lambda_max" in self.measures:
                largest = lambda_max(model, criterion, train, tolerance=self.tolerance)
                results["sharpness/lambda_max"] = largest.value
                results["sharpness/lambda_max_converged"] = float(largest.converged)
            if "trace" in self.measures:
                results["sharpness/trace"] = trace(model, criterion, train, self.probes)
        if "average_flatness" in self.measures:
            for sigma in self.sigmas:
                value = average_flatness(model, criterion, train, sigma, self.draws)
                results[f"sharpness/average_flatness/{sigma}"] = value
                results["sharpness/average_flatness"] = value
        if "activity" in self.measures:
            results |= _thirds(active_fraction(model, self._batches(trainer, pl_module, "test")))
        if "norm" in self.measures:
            results["norm/weights"] = weight_norm(model)
        if "loss" in self.measures:
            results["train/final_loss"] = mean_loss(model, criterion, train)
        return results

    def _batches(self, trainer: pl.Trainer, pl_module: Any, split: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        batches = trainer.datamodule.measurement_batches(self.images, split, self.batch_size)  # type: ignore[attr-defined]
        return [(inputs.to(pl_module.device).double(), labels.to(pl_module.device)) for inputs, labels in batches]


def _thirds(fractions: dict[str, float]) -> dict[str, float]:
    values = list(fractions.values())
    if not values:
        return {}
    third = math.ceil(len(values) / 3)
    results = {f"activity/{name}": value for name, value in fractions.items()}
    results["activity/early"] = sum(values[:third]) / third
    results["activity/late"] = sum(values[-third:]) / third
    return results

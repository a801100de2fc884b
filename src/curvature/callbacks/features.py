"""What a trained feature extractor is like: class structure and linear transfer.

The model must offer ``features(inputs)``; features are scaled to unit length in float64.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from curvature.callbacks.targets import OnTargets
from curvature.errors import ConfigError
from curvature.geometry.class_structure import class_separation, intra_class_variability

Examples = tuple[Tensor, Tensor]


class FeatureStructure(pl.Callback):
    """At the end of training, ``results`` holds ``features/variability`` (degrees) and ``features/separation`` (R^2) of
    test images by the labels that were trained on.

    Args:
        images: number of test images.

    Raises:
        ConfigError: at the start of training, if no two classes have two of these images each.
    """

    def __init__(self, images: int = 500) -> None:
        self.images = images
        self.results: dict[str, float] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        counts = torch.cat([labels for _, labels in self._batches(trainer)]).bincount()
        if int((counts >= 2).sum()) < 2:
            raise ConfigError("callbacks.structure.images", self.images, "enough for two images of two classes")

    def _batches(self, trainer: pl.Trainer) -> list[Examples]:
        found: list[Examples] = trainer.datamodule.measurement_batches(self.images, "test")  # type: ignore[attr-defined]
        return found

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            found, labels = extract(pl_module, self._batches(trainer))
            self.results["features/variability"] = intra_class_variability(found, labels)
            self.results["features/separation"] = class_separation(found, labels)


class LinearTransfer(OnTargets):
    """Linear SVMs (one against the rest) on frozen features of other data, at the end of training.

    Of each target the penalty is the one that is best on its validation split; the SVM is then fitted to training and
    validation examples, and ``results`` holds its test accuracy as ``transfer/<target>`` and their mean as
    ``transfer/mean``. Targets are opened before training, so that a missing one is noticed at once.

    Args:
        targets: name -> data module whose images have the shape the model takes, or None to leave it out.
        penalties: values of the SVM's C to choose from.
        mean_per_class: targets whose accuracy is averaged over classes instead of images.
        images: at most so many examples of a split; None uses all.

    Raises:
        ConfigError: no penalties, or an unknown target in ``mean_per_class``; what the targets' data lack, before
            training begins.
    """

    def __init__(
        self,
        targets: Mapping[str, Any],
        penalties: Sequence[float] = (1.0,),
        mean_per_class: Sequence[str] = (),
        images: int | None = None,
    ) -> None:
        if not penalties or min(penalties) <= 0:
            raise ConfigError("callbacks.transfer.penalties", list(penalties), "positive numbers, at least one")
        super().__init__(targets)
        self.penalties = list(penalties)
        if unknown := sorted(set(mean_per_class) - set(self.targets)):
            raise ConfigError("callbacks.transfer.mean_per_class", unknown, f"some of {', '.join(self.targets)}")
        self.mean_per_class, self.images = frozenset(mean_per_class), images

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        for name, target in self.targets.items():
            train, val, test = (self._features(pl_module, target, split) for split in ("train", "val", "test"))
            per_class = name in self.mean_per_class
            self.results[f"transfer/{name}"] = linear_probe(train, val, test, self.penalties, per_class)
        if self.results:
            self.results["transfer/mean"] = float(np.mean(list(self.results.values())))

    def _features(self, pl_module: pl.LightningModule, target: Any, split: str) -> Examples:
        size = len(target.splits[split])
        count = size if self.images is None else min(size, self.images)
        return extract(pl_module, target.measurement_batches(count, split))


@torch.no_grad()
def extract(pl_module: Any, batches: Sequence[Examples]) -> Examples:
    """Unit features (N, n) in float64 and labels (N,), both on the CPU, with the model in evaluation mode."""
    model = pl_module.model
    was_training = model.training
    model.eval()
    try:
        found = [
            F.normalize(model.features(inputs.to(pl_module.device)).double(), dim=-1).cpu() for inputs, _ in batches
        ]
    finally:
        model.train(was_training)
    return F.normalize(torch.cat(found), dim=-1), torch.cat([labels for _, labels in batches])


def linear_probe(
    train: Examples, val: Examples, test: Examples, penalties: Sequence[float], per_class: bool = False
) -> float:
    """Test accuracy in [0, 1] of scikit-learn's ``LinearSVC`` on features (N, n) with labels (N,).

    Args:
        train, val, test: features and labels; ``val`` chooses the penalty (the first of equals) and is then fitted too.
        penalties: values of C.
        per_class: average the accuracy over classes.
    """
    from sklearn.metrics import accuracy_score, balanced_accuracy_score
    from sklearn.svm import LinearSVC

    score = balanced_accuracy_score if per_class else accuracy_score

    def evaluate(penalty: float, fitted: Sequence[Examples], judged: Examples) -> float:
        features, labels = (np.concatenate([part[i].numpy() for part in fitted]) for i in (0, 1))
        probe = LinearSVC(C=penalty, random_state=0, max_iter=5000).fit(features, labels)
        return float(score(judged[1].numpy(), probe.predict(judged[0].numpy())))

    best = penalties[0]
    if len(penalties) > 1:
        best = max(penalties, key=lambda penalty: evaluate(penalty, [train], val))
    return evaluate(best, [train, val], test)

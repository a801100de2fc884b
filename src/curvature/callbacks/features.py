"""What a trained feature extractor is like: class structure and linear transfer."""

from typing import Any

import pytorch_lightning as pl
import torch

from curvature.geometry.class_structure import class_separation, intra_class_variability


class FeatureStructure(pl.Callback):
    """At the end of training, sets in ``results``: intra-class variability, class separation and transfer accuracies.

    The model must offer ``features(inputs)``. Variability and separation are those of test features by the labels that
    were trained on. If the data module offers ``probe_tasks() -> {name: (train_x, train_y, test_x, test_y)}``, a linear
    SVM (C = 1, one against the rest) is fitted to unit features of each, and its test accuracy is
    ``transfer/<name>``.

    Args:
        images: number of test images for the class structure.
    """

    def __init__(self, images: int = 1000) -> None:
        self.images = images
        self.results: dict[str, float] = {}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        model: Any = pl_module.model
        was_training = model.training
        model.eval()
        try:
            self._measure(datamodule, model, pl_module.device)
        finally:
            model.train(was_training)

    @torch.no_grad()
    def _measure(self, datamodule: Any, model: Any, device: torch.device) -> None:
        def features(inputs: torch.Tensor) -> torch.Tensor:
            parts = [model.features(part.to(device)).double().cpu() for part in inputs.split(512)]
            return torch.nn.functional.normalize(torch.cat(parts), dim=-1)

        batches = datamodule.measurement_batches(self.images, "test")
        inputs, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        found = features(inputs)
        self.results["features/variability"] = intra_class_variability(found, labels)
        self.results["features/separation"] = class_separation(found, labels)
        tasks = datamodule.probe_tasks() if hasattr(datamodule, "probe_tasks") else {}
        for name, (train_x, train_y, test_x, test_y) in tasks.items():
            accuracy = linear_probe(features(train_x), train_y, features(test_x), test_y)
            self.results[f"transfer/{name}"] = accuracy


def linear_probe(
    train: torch.Tensor, train_labels: torch.Tensor, test: torch.Tensor, test_labels: torch.Tensor
) -> float:
    """Test accuracy of scikit-learn's ``LinearSVC(C=1)`` fitted to ``train`` (N, n)."""
    from sklearn.svm import LinearSVC

    probe = LinearSVC(C=1.0, random_state=0, max_iter=5000).fit(train.numpy(), train_labels.numpy())
    return float(probe.score(test.numpy(), test_labels.numpy()))

"""HESSO: Towards Automatic Efficient and User Friendly Any Neural Network Training and Pruning (Chen et al. 2024)."""

from collections.abc import Mapping
from typing import Any

import torch

from curvature.callbacks.pruning import example_batch
from curvature.data.seeds import derive
from curvature.errors import ConfigError
from curvature.pruning import SearchSpace, build_search_space
from curvature.training.classifier import Classifier
from curvature.training.question_answering import QuestionAnswering
from curvature.training.super_resolution import SuperResolution
from curvature.training.supervised import Supervised


class TrainedAndPruned(Supervised):
    """Training by one optimiser that is made from the model's search space and prunes it on the way, for any task.

    ``passes/forward`` and ``passes/backward`` in ``results`` count the passes of a training step, and
    ``passes/without_progress`` the share of steps after which the weights were as before, or were put back later.

    Args:
        exclude: parts of names of layers that are not pruned.
        **options: see :class:`curvature.training.supervised.Supervised`; ``optimizer`` takes a search space.
    """

    def __init__(self, exclude: tuple[str, ...] = (), **options: Any) -> None:
        super().__init__(**options)
        self.exclude = exclude
        self.search_space: SearchSpace | None = None
        self.results: dict[str, float] = {}
        self._counts = {"forward": 0, "backward": 0, "steps": 0, "idle": 0}

    def check_data(self, datamodule: Any, processes: int = 1) -> None:
        """Build the search space on the data's inputs, and the optimiser; arguments as in the base class."""
        self._build(datamodule)
        super().check_data(datamodule, processes)

    def _build(self, datamodule: Any) -> None:
        if self.search_space is None:
            self.search_space = build_search_space(self.model, example_batch(datamodule), self.exclude)

    def configure_optimizers(self) -> Any:
        if self.search_space is None:
            self._build(self.trainer.datamodule)  # type: ignore[attr-defined]
        optimizer = self.optimizer_factory(self.search_space)
        return [optimizer], [self.schedule_factory(optimizer, max_steps=self.max_steps)]

    def on_train_start(self) -> None:
        def count(*_: Any) -> None:
            self._counts["forward"] += self.model.training and torch.is_grad_enabled()

        self.model.register_forward_hook(count)

    def on_after_backward(self) -> None:
        self._counts["backward"] += 1

    def update(self, optimizer: Any, loss: torch.Tensor) -> None:
        # HESSO-CRIC compares losses while it samples.
        optimizer.step(lambda: loss)
        self._counts["steps"] += 1
        self._counts["idle"] += getattr(optimizer.optimizer, "phase", "") in ("projection", "cycle")

    def on_train_end(self) -> None:
        steps = max(1, self._counts["steps"])
        for which in ("forward", "backward"):
            self.results[f"passes/{which}"] = self._counts[which] / steps
        self.results["passes/without_progress"] = self._counts["idle"] / steps
        pruner = getattr(self.trainer.optimizers[0], "pruner", None)
        if pruner is not None:
            self.results["groups/target"] = float(pruner.target)
            self.results |= self._left_per_layer(pruner.state["pruned"])

    def _left_per_layer(self, pruned: torch.Tensor) -> dict[str, float]:
        assert self.search_space is not None
        left = [int((~pruned[node.start : node.start + node.size]).sum()) for node in self.search_space.nodes]
        return {"groups/least_left": float(min(left, default=0))}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["counts"] = dict(self._counts)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._counts.update(checkpoint["counts"])


class Hesso(TrainedAndPruned, Classifier):
    """Classification by a network that is trained densely, then trained and pruned at once.

    Args:
        seed: of the batches of the pretraining.
        pretrain_steps: Adam steps on the network before the optimiser begins, with the batch of the data module.
        pretrain_lr: their learning rate.
        rescale: part of a parameter's name -> factor on it after pretraining; of inverse factors on the two sides of a
            ReLU, the function takes no notice.
        **options: see :class:`TrainedAndPruned` and :class:`curvature.training.classifier.Classifier`.

    Raises:
        ConfigError: negative steps, or a factor for no parameter.
    """

    def __init__(
        self,
        seed: int = 0,
        pretrain_steps: int = 0,
        pretrain_lr: float = 1e-3,
        rescale: Mapping[str, float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if pretrain_steps < 0:
            raise ConfigError("module.pretrain_steps", pretrain_steps, "an integer >= 0")
        self.rescale = dict(rescale or {})
        names = [name for name, _ in self.model.named_parameters()]
        if unused := [part for part in self.rescale if not any(part in name for name in names)]:
            raise ConfigError("module.rescale", unused, f"parts of {', '.join(names[:8])}")
        self.seed, self.pretrain_steps, self.pretrain_lr = seed, pretrain_steps, pretrain_lr

    def on_fit_start(self) -> None:
        if self.trainer.ckpt_path is not None:
            return
        if self.pretrain_steps:
            self.pretrain(self.trainer.datamodule)  # type: ignore[attr-defined]
        self.apply_rescale()

    @torch.no_grad()
    def apply_rescale(self) -> None:
        """Multiply the parameters that ``rescale`` names by their factors."""
        for name, p in self.model.named_parameters():
            for part, factor in self.rescale.items():
                if part in name:
                    p.mul_(factor)

    def pretrain(self, datamodule: Any) -> None:
        """The ``pretrain_steps`` Adam steps, on the training split of ``datamodule``."""
        batches = datamodule.measurement_batches(datamodule.train_size, "train")
        inputs, labels = (torch.cat(parts).to(self.device) for parts in zip(*batches, strict=True))
        generator = torch.Generator().manual_seed(derive("pretraining", self.seed))
        optimizer = torch.optim.Adam(self.model.parameters(), lr=self.pretrain_lr)
        self.model.train()
        order = torch.empty(0, dtype=torch.int64)
        for _ in range(self.pretrain_steps):
            if len(order) < datamodule.batch_size:
                order = torch.randperm(len(labels), generator=generator)
            chosen, order = order[: datamodule.batch_size], order[datamodule.batch_size :]
            optimizer.zero_grad()
            self.criterion(self.model(inputs[chosen]), labels[chosen]).backward()
            optimizer.step()
        optimizer.zero_grad()


class HessoSuperResolution(TrainedAndPruned, SuperResolution):
    """Super-resolution by a network that is trained and pruned at once.

    Args:
        **options: see :class:`TrainedAndPruned` and :class:`curvature.training.super_resolution.SuperResolution`.
    """


class HessoQuestionAnswering(QuestionAnswering, TrainedAndPruned):
    """Question answering by a network that is trained and pruned at once.

    Args:
        **options: see :class:`TrainedAndPruned` and :class:`curvature.training.question_answering.QuestionAnswering`.
    """

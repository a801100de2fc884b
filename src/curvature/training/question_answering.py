"""Extractive question answering: spans of a text as answers, judged as SQuAD v1.1 does."""

from typing import Any

import torch
from torch import nn
from torchmetrics import MeanMetric
from torchmetrics.text import SQuAD

from curvature.errors import ConfigError
from curvature.models.question_answering import SpanCrossEntropy
from curvature.training.supervised import Supervised


class QuestionAnswering(Supervised):
    """Training of a ``model`` that points at the first and last token of answers.

    Validation and test report ``loss``, the mean over windows, and ``f1`` and ``exact_match`` in percent, the metrics
    of SQuAD v1.1 as torchmetrics has them: answers without case, punctuation and articles, the best of all references.
    The prediction is the best span over all windows of a question.

    Args:
        longest_answer: tokens of a predicted span at most.
        **options: see :class:`curvature.training.supervised.Supervised`; the model maps ``input_ids``,
            ``token_type_ids`` and ``attention_mask`` to logits (B, T, 2).

    Raises:
        ConfigError: ``longest_answer`` below 1; from ``check_data``, a model for fewer tokens than the data's.
    """

    def __init__(self, longest_answer: int = 30, **options: Any) -> None:
        super().__init__(criterion=SpanCrossEntropy(), **options)
        if longest_answer < 1:
            raise ConfigError("module.longest_answer", longest_answer, "an integer >= 1")
        self.longest_answer = longest_answer
        self._metrics = nn.ModuleDict(
            {split: nn.ModuleDict({"squad": SQuAD(), "loss": MeanMetric()}) for split in ("val", "test")}
        )

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        logits: torch.Tensor = self.model(**inputs)
        return logits

    def check_data(self, datamodule: Any, processes: int = 1) -> None:
        """Raises ConfigError if the model knows too few tokens or positions, or what the base class finds.

        Args:
            datamodule, processes: as in the base class.
        """
        if self.model.vocabulary < datamodule.num_tokens:
            allowed = f"at least {datamodule.num_tokens}, the tokens of the data"
            raise ConfigError("model.vocabulary", self.model.vocabulary, allowed)
        if self.model.positions < datamodule.max_length:
            allowed = f"at most {self.model.positions}, the positions of the model"
            raise ConfigError("data.max_length", datamodule.max_length, allowed)
        super().check_data(datamodule, processes)

    def _check_model(self, datamodule: Any) -> None:
        """The vocabulary and the positions decide, which :meth:`check_data` compares."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def on_validation_epoch_end(self) -> None:
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        self._finish("test")

    def _evaluate(self, split: str, batch: Any) -> None:
        inputs, labels, rows = batch
        logits = self(inputs)
        windows = self.trainer.datamodule.splits[split]  # type: ignore[attr-defined]
        metrics: Any = self._metrics[split]
        metrics["squad"].update(*windows.answers(rows, logits, self.longest_answer))
        metrics["loss"].update(self.criterion(logits, labels), weight=len(labels))

    def _finish(self, split: str) -> None:
        metrics: Any = self._metrics[split]
        found = {**metrics["squad"].compute(), "loss": metrics["loss"].compute()}
        self.report({f"{split}/{name}": value for name, value in found.items()})
        for metric in metrics.values():
            metric.reset()

"""Understanding Hessian Alignment for Domain Generalization (Hemati et al., ICCV 2023)."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from curvature.alignment.attack import accuracy, head_attack
from curvature.alignment.domain import Domain, check_linear, observe
from curvature.alignment.measures import alignment_measures, hessian_distances
from curvature.alignment.method import Method
from curvature.data.domains import DomainDataModule, Evaluation
from curvature.errors import ConfigError
from curvature.models.domain_nets import head_parameters
from curvature.models.mlp import HeadedNetwork
from curvature.training.history import Recording


class HessianAlignment(Recording):
    """Trains on several domains with one method and records how aligned they become.

    Every ``eval_every`` steps: ``<domain>/<part>/accuracy`` of all domains (part ``in``, and ``out`` where examples are
    held out), their means ``train``, ``test`` and ``val/accuracy`` (the training domains' held-out parts), and the
    distance of the training domains' head Hessians. At the end: ``alignment/...`` of
    :func:`curvature.alignment.measures.alignment_measures`, ``attack/...`` of
    :func:`curvature.alignment.attack.head_attack` from the last training domain to the first test domain, and
    ``trend/rho``, Spearman's correlation over the records after annealing of the logarithm of the relative Hessian
    distance with the test accuracy.

    Args:
        model: network with features and a linear head.
        method: penalty and schedule.
        optimizer: factory taking named parameters.
        seed: of the probes.
        max_steps: of the run.
        l2: factor of the sum of all squared parameters inside the loss.
        eval_every: steps between records.
        measure_samples: examples of each domain that enter measures; null takes all.
        attack_radius: radius of the head attack.

    Raises:
        ConfigError: an ``eval_every``, ``measure_samples`` or ``attack_radius`` that is not above 0.
    """

    def __init__(
        self,
        model: HeadedNetwork,
        method: Method,
        optimizer: Callable[..., Optimizer],
        seed: int,
        max_steps: int,
        l2: float = 0.0,
        eval_every: int = 10,
        measure_samples: int | None = None,
        attack_radius: float = 2.0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        for key, value in (("eval_every", eval_every), ("attack_radius", attack_radius)):
            if not value > 0:
                raise ConfigError(f"module.{key}", value, "a number > 0")
        if measure_samples is not None and measure_samples < 1:
            raise ConfigError("module.measure_samples", measure_samples, "null, or an integer >= 1")
        self.network, self.method, self.optimizer_factory = model, method, optimizer
        self.seed, self.max_steps, self.l2 = seed, max_steps, l2
        self.eval_every, self.measure_samples, self.attack_radius = eval_every, measure_samples, attack_radius
        self.results: dict[str, float] = {}

    def check_data(self, datamodule: DomainDataModule, processes: int = 1) -> None:
        """Raises ConfigError if network, method, optimiser and data do not fit, before anything is trained."""
        if processes != 1:
            raise ConfigError("trainer.devices", processes, "1: each step sees a batch of every domain")
        check_linear(self.network)
        self.method.bind(self.network, len(datamodule.training), self.seed)
        self.configure_optimizers()
        inputs, _ = next(datamodule.evaluations[0].batches(2))
        try:
            logits = self.network(inputs)
        except RuntimeError as error:
            shape = tuple(inputs.shape[1:])
            raise ConfigError("model", type(self.network).__name__, f"a network for inputs of shape {shape}") from error
        classes = max(int(e.split.labels.max()) + 1 for e in datamodule.evaluations)
        if classes > max(logits.shape[1], 2):
            raise ConfigError("model.num_classes", logits.shape[1], f"at least {classes}, the classes of the data")

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer_factory(self.network.named_parameters())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        batches = [(inputs, labels) for inputs, labels in batch]
        progress = self.method.update(self.network, batches, optimizer, self.trainer.global_step, self.l2)
        done = self.trainer.global_step
        if done % self.eval_every == 0 or done == self.max_steps:
            self._record(done, float(progress.loss), float(progress.penalty))
        return progress.objective

    def on_train_end(self) -> None:
        if not self.history:
            return
        _, last = self.history[-1]
        self.results = {name: value for name, value in last.items() if "accuracy" in name}
        domains = [self._domain(e) for e in self._evaluations("train", "in")]
        measures = alignment_measures(domains, self.network)
        self.results |= {f"alignment/{name}": value for name, value in measures.items()}
        if test := self._evaluations("test", "in"):
            found = head_attack(
                head_parameters(self.network), domains[-1], self._domain(test[0]), delta=self.attack_radius
            )
            self.results |= {f"attack/{name}": value for name, value in vars(found).items()}
        self.results["trend/rho"] = self._trend()

    @property
    def _data(self) -> DomainDataModule:
        data: DomainDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    def _evaluations(self, role: str, part: str) -> list[Evaluation]:
        return [e for e in self._data.evaluations if e.environment.role == role and e.part == part]

    def _record(self, step: int, loss: float, penalty: float) -> None:
        self.network.eval()
        with torch.no_grad():
            accuracies = {id(e): self._accuracy(e) for e in self._data.evaluations}
            domains = [self._domain(e) for e in self._evaluations("train", "in")]
            metrics = {"train/loss": loss, "train/penalty": penalty}
            metrics |= {f"alignment/{name}": value for name, value in hessian_distances(domains).items()}
        self.network.train()
        for e in self._data.evaluations:
            metrics[f"{_key(e.environment.name)}/{e.part}/accuracy"] = accuracies[id(e)]
            if e.environment.role == "extra":
                metrics[f"{_key(e.environment.name)}/accuracy"] = accuracies[id(e)]
        for name, role, part in (("train", "train", "in"), ("test", "test", "in"), ("val", "train", "out")):
            if chosen := self._evaluations(role, part):
                metrics[f"{name}/accuracy"] = sum(accuracies[id(e)] for e in chosen) / len(chosen)
        self.history.append((step, metrics))
        if self.logger is not None:
            self.logger.log_metrics(metrics, step)

    def _accuracy(self, evaluation: Evaluation) -> float:
        right = 0.0
        for inputs, labels in evaluation.batches():
            logits = self.network(inputs.to(self.device))
            right += accuracy(logits, labels.to(self.device)) * len(labels)
        return right / len(evaluation.split)

    def _domain(self, evaluation: Evaluation) -> Domain:
        size = min(self.measure_samples or len(evaluation.split), len(evaluation.split))
        inputs, labels = next(evaluation.batches(size))
        return observe(self.network, inputs.to(self.device), labels.to(self.device))

    def _trend(self) -> float:
        from scipy.stats import spearmanr

        name = "alignment/hessian_distance_relative"
        late = [values for step, values in self.history if step > self.method.anneal_steps]
        kept = [(math.log(v[name]), v["test/accuracy"]) for v in late if v.get(name, 0) > 0 and "test/accuracy" in v]
        if len(kept) < 4:
            return math.nan
        return float(spearmanr(*zip(*kept)).statistic)


def _key(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else {"+": "p"}.get(c, "_") for c in name)

"""The Implicit Regularization of Dynamical Stability in Stochastic Gradient Descent (Wu & Su, ICML 2023)."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from curvature.errors import ConfigError
from curvature.stability import Conduct, LinearisedSGD, Recipe, Replicas, spread
from curvature.stability.autograd import AutogradFamily
from curvature.stability.descent import ChunkedDescent
from curvature.stability.generalisation import stable_gap_bound
from curvature.stability.paths import almost_sure_exponent
from curvature.stability.plots import escape_figure, sweep_figure, trajectory_figure
from curvature.stability.problems import Problem
from curvature.stability.references import reference_losses
from curvature.stability.summary import Lane, lane_metrics, sweep_metrics
from curvature.training.history import Recording

ESCAPED = 1e-6


class SgdStability(Recording):
    """One sweep over learning rates at one seed: every rate is a lane, and all lanes descend together.

    A training step is ``chunk`` steps of descent of every lane on the half-MSE, from the same start and with the same
    order of samples. Final metrics are ``<metric>/<lane>``, e.g. ``sharpness/trace/lr_0.004``, and those of the whole
    sweep; see :func:`curvature.stability.summary.lane_metrics` and :func:`~curvature.stability.summary.sweep_metrics`.

    Args:
        model: factory of one net, taking a ``generator``; a net without closed forms (``family``) is differentiated by
            autograd.
        seed: of the start and of the order of samples.
        grid: places of the lanes on the axis of learning rates; with ``imbalances``, a single one.
        max_steps: chunks.
        chunk: descent steps a chunk.
        batch_size: samples a step; None is gradient descent.
        replacement: whether a batch may hold a sample twice.
        rate_scale: learning rates are ``rate_scale * grid``.
        clip: largest global gradient norm; null never clips.
        schedule: ``constant`` or ``cosine``.
        stop_loss: lanes rest below this training loss.
        imbalances: lanes differ by the ``imbalance`` of their start instead of the learning rate.
        start: makes lanes start near a minimum found by another descent, and records how they leave it: ``rate``,
            ``stop_loss``, ``max_steps``, ``batch_size`` and ``clip`` of that descent, and the standard deviation
            ``perturbation`` of noise added.
        records: number of points of the trajectories, in geometric progression.

    Raises:
        ConfigError: a ``chunk`` or ``rate_scale`` that is not above 0, a lane twice, or ``imbalances`` with more than
            one learning rate.
    """

    def __init__(
        self,
        model: Callable[..., nn.Module],
        seed: int,
        grid: Sequence[float],
        max_steps: int,
        chunk: int,
        batch_size: int | None,
        replacement: bool = True,
        rate_scale: float = 1.0,
        clip: float | None = None,
        schedule: str = "constant",
        stop_loss: float = 0.0,
        imbalances: Sequence[float] | None = None,
        start: Mapping[str, Any] | None = None,
        records: int = 25,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        if chunk < 1:
            raise ConfigError("module.chunk", chunk, "at least 1")
        if not 0 < rate_scale < math.inf:
            raise ConfigError("module.rate_scale", rate_scale, "a finite number > 0")
        if imbalances is not None and len(grid) != 1:
            raise ConfigError("module.grid", list(grid), "a single learning rate, since lanes differ by imbalance")
        lanes = [float(v) for v in (grid if imbalances is None else imbalances)]
        rates = [rate_scale * float(v) for v in (grid if imbalances is None else list(grid) * len(lanes))]
        if len(set(lanes)) < len(lanes):
            raise ConfigError("module.grid" if imbalances is None else "module.imbalances", lanes, "no value twice")
        self.factory, self.seed, self.chunk, self.max_steps = model, seed, chunk, max_steps
        self.imbalances: Sequence[float | None] | None = imbalances
        self.start = dict(start) if start else None
        self.positions = lanes
        self.labels = [f"{'lr' if imbalances is None else 'r0'}_{value:g}" for value in lanes]
        self.recipe = Recipe(tuple(rates), max_steps * chunk, batch_size, replacement, clip, schedule, stop_loss)
        self.due = {round(float(v)) for v in np.geomspace(1, max_steps, min(records, max_steps))}
        self.results: dict[str, float] = {}
        self.before_escape: dict[str, float] = {}
        self.replicas: Replicas | None = None
        self.problem: Problem | None = None

    def check_data(self, datamodule: Any, processes: int = 1) -> None:
        """Build the replicas on the problem of ``datamodule``.

        Raises:
            ConfigError: net and data do not fit, the batch cannot be drawn, or there is more than one process.
        """
        if processes != 1:
            raise ConfigError("trainer.devices", processes, "1: all replicas live in one process")
        problem = self.problem = datamodule.problem
        nets = [self._net(imbalance) for imbalance in (self.imbalances or (None,))]
        try:
            nets[0](problem.inputs[:1])
        except RuntimeError as error:
            raise ConfigError("model", type(nets[0]).__name__, f"a net for {problem.inputs.shape[1]} inputs") from error
        family = getattr(nets[0], "family", None) or AutogradFamily(nets[0])
        parameters = [dict(net.named_parameters()) for net in nets]
        initial = {name: torch.stack([p[name].detach() for p in parameters])[None] for name in parameters[0]}
        if len(nets) == 1:
            initial = spread({name: p[:, 0] for name, p in initial.items()}, len(self.labels))
        data = problem.inputs[None], problem.targets[None], (self.seed,)
        if self.start is not None:
            initial = self._escape_start(family, initial, data)
        self.replicas = Replicas(family, initial, *data, self.recipe)

    def setup(self, stage: str) -> None:
        if self.replicas is None:
            self.check_data(self.trainer.datamodule)  # type: ignore[attr-defined]

    def configure_optimizers(self) -> ChunkedDescent:
        assert self.replicas is not None
        return ChunkedDescent(self.replicas.parameters(), lambda: self.replicas.advance(self.chunk))  # type: ignore

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        assert self.replicas is not None
        if not self.history:
            self._record(0)
        loss: Tensor = self.optimizers().step()  # type: ignore[union-attr]
        if self.trainer.global_step in self.due:
            self._record(self.trainer.global_step)
        return loss.mean()

    def on_train_end(self) -> None:
        lanes = self._lanes()
        samples = lanes[0].sgd.samples
        size, replacement = self.recipe.batch_size, self.recipe.replacement
        drawn = (samples, False) if size is None else (size, replacement)
        per_lane = [lane_metrics(lane, *drawn) for lane in lanes]
        for lane, metrics, residuals in zip(lanes, per_lane, self._residuals()):
            if residuals.any():
                metrics["stability/alignment"] = lane.sgd.alignment(residuals)
        if size == 1:
            self.results |= self._generalisation(lanes, per_lane)
        for lane, metrics in zip(lanes, per_lane):
            self.results |= {f"{name}/{lane.label}": value for name, value in metrics.items()}
        self.results |= sweep_metrics(lanes, per_lane)
        assert self.problem is not None
        self.results |= {f"reference/{name}": loss for name, loss in reference_losses(self.problem).items()}
        if self.imbalances is not None:
            final = [(lane.position, metrics["norm/imbalance"]) for lane, metrics in zip(lanes, per_lane)]
            self.results["balance/final_max"] = max(after for _, after in final)
            self.results["balance/kept_min"] = min(after / before for before, after in final)
        if self.start is not None:
            self.results |= self.before_escape | self._escape_metrics()
        if self.logger is not None:
            self._plot(lanes, per_lane)

    def _net(self, imbalance: float | None) -> nn.Module:
        options = {} if imbalance is None else {"imbalance": imbalance}
        return self.factory(generator=torch.Generator().manual_seed(self.seed), **options)

    def _values(self) -> list[dict[str, float]]:
        """Cheap metrics of each lane."""
        assert self.replicas is not None and self.problem is not None
        replicas, problem, state = self.replicas, self.problem, self.replicas.state()
        outputs = replicas.family.predict(state, problem.test_inputs[None])[0]
        columns = {
            "train/loss": replicas.loss[0],
            "train/gradient_norm": replicas.gradient_norm()[0],
            "test/loss": (outputs - problem.test_targets).square().mean(-1) / 2,
            "sharpness/trace": replicas.family.trace(state, replicas.inputs)[0],
            **{f"norm/{name}": values[0] for name, values in replicas.family.norms(state).items()},
        }
        if problem.binary:
            columns["test/accuracy"] = (outputs * problem.test_targets > 0).double().mean(-1)
        return [{name: float(c[lane]) for name, c in columns.items()} for lane in range(len(self.labels))]

    def _record(self, chunks: int) -> None:
        pairs = zip(self.labels, self._values())
        metrics = {f"{name}/{label}": value for label, values in pairs for name, value in values.items()}
        self.history.append((chunks * self.chunk, metrics))
        if self.logger is not None:
            self.logger.log_metrics(metrics, chunks)

    def _residuals(self) -> np.ndarray:
        """Output minus target, (lanes, n)."""
        assert self.replicas is not None
        outputs = self.replicas.family.predict(self.replicas.state(), self.replicas.inputs)
        residuals: np.ndarray = (outputs - self.replicas.targets[:, None])[0].numpy()
        return residuals

    def _lanes(self) -> list[Lane]:
        assert self.replicas is not None and self.problem is not None
        replicas = self.replicas
        grams = replicas.family.gram(replicas.state(), replicas.inputs)[0]
        lanes = []
        for index, values in enumerate(self._values()):
            conduct = Conduct(
                loss=values.pop("train/loss"),
                label_variance=self.problem.label_variance,
                steps=int(replicas.steps[0, index]),
                last_clipped=int(replicas.last_clipped[0, index]),
                diverged=int(replicas.diverged_at[0, index]) >= 0,
                constant_rate=self.recipe.schedule == "constant",
            )
            rate, sgd = self.recipe.rates[index], LinearisedSGD(grams[index])
            lanes.append(Lane(self.labels[index], self.positions[index], rate, conduct, sgd, values))
        return lanes

    def _escape_start(
        self, family: Any, initial: dict[str, Tensor], data: tuple[Tensor, Tensor, tuple[int]]
    ) -> dict[str, Tensor]:
        assert self.start is not None
        first = {name: p[:, :1] for name, p in initial.items()}
        own = {name: self.start[name] for name in ("batch_size", "clip", "stop_loss")}
        recipe = Recipe((self.start["rate"],), self.start["max_steps"], **own)
        descent = Replicas(family, first, *data, recipe)
        while not descent.finished:
            descent.advance(100)
        sgd = LinearisedSGD(family.gram(descent.state(), descent.inputs)[0, 0])
        self.before_escape = {
            "escape/minimum/loss": float(descent.loss),
            "escape/minimum/test_loss": self._test_loss(family, descent.state()),
            "escape/minimum/trace": sgd.sharpness.trace,
            "escape/minimum/lambda_max": sgd.sharpness.lambda_max,
        }
        for label, rate in zip(self.labels, self.recipe.rates):
            size = self.recipe.batch_size or sgd.samples
            growth = sgd.growth_factor(rate, size, self.recipe.replacement)
            exponent = almost_sure_exponent(sgd, rate, size, self.recipe.replacement)
            self.before_escape[f"escape/minimum/growth/{label}"] = growth
            self.before_escape[f"escape/minimum/almost_sure/{label}"] = exponent.value
            self.before_escape[f"escape/minimum/almost_sure_error/{label}"] = exponent.error
        noise = torch.Generator().manual_seed(self.seed + 1)
        deviation = self.start["perturbation"]
        moved = {
            name: p + deviation * torch.randn(p.shape, generator=noise, dtype=p.dtype)
            for name, p in descent.state().items()
        }
        return spread({name: p[:, 0] for name, p in moved.items()}, len(self.labels))

    def _test_loss(self, family: Any, state: dict[str, Tensor]) -> float:
        assert self.problem is not None
        outputs = family.predict(state, self.problem.test_inputs[None])
        return float((outputs[0, 0] - self.problem.test_targets).square().mean() / 2)

    def _escape_metrics(self) -> dict[str, float]:
        assert self.problem is not None
        metrics: dict[str, float] = {}
        agree, decidable = [], []
        for label in self.labels:
            losses = [values[f"train/loss/{label}"] for _, values in self.history]
            left = max(losses) > ESCAPED * self.problem.label_variance
            growth = self.before_escape[f"escape/minimum/growth/{label}"]
            agree.append(left == (growth > 1))
            expected = math.log(losses[0]) + self.history[-1][0] * math.log(growth)
            metrics[f"escape/expected_log_rise/{label}"] = expected - math.log(losses[0])
            if growth <= 1 or expected > math.log(ESCAPED * self.problem.label_variance):
                decidable.append(agree[-1])
            metrics[f"escape/left/{label}"] = float(left)
            metrics[f"escape/peak_loss/{label}"] = max(losses)
            rise = [(s, math.log(x)) for (s, _), x in zip(self.history, losses) if x > 0]
            peak = next((i for i, x in enumerate(losses) if x > ESCAPED * self.problem.label_variance), None)
            if left and peak is not None and peak >= 2:
                steps, logs = zip(*rise[: peak + 1])
                metrics[f"escape/log_slope/{label}"] = float(np.polyfit(steps, logs, 1)[0])
        metrics["escape/agreement"] = float(np.mean(agree))
        if decidable:
            metrics["escape/agreement_decidable"] = float(np.mean(decidable))
        return metrics

    def _generalisation(self, lanes: list[Lane], per_lane: list[dict[str, float]]) -> dict[str, float]:
        """Adds gap and bound to eligible lanes; returns the largest ratio of the two."""
        assert self.replicas is not None and self.problem is not None
        ratios = []
        for lane, metrics in zip(lanes, per_lane):
            bound = stable_gap_bound(self.replicas.family, self.problem, lane.rate)
            if lane.eligible and bound is not None:
                gap = abs(metrics["test/loss"] - metrics["train/loss"])
                metrics |= {"generalisation/gap": gap, "generalisation/bound": bound}
                ratios.append(gap / bound)
        return {"generalisation/ratio_max": max(ratios)} if ratios else {}

    def _plot(self, lanes: list[Lane], per_lane: list[dict[str, float]]) -> None:
        tracker = self.logger.experiment  # type: ignore[union-attr]
        bounds = [2 / lane.rate for lane in lanes]
        norm = next((n for n in ("norm/path_norm", "norm/l1") if n in per_lane[0]), "norm/weights")
        axis = "learning rate" if self.imbalances is None else "initial imbalance"
        tracker.log_figure(sweep_figure(self.positions, bounds, per_lane, norm, axis), "plots/sweep.png")
        threshold = self.recipe.clip if self.recipe.batch_size is None else None
        trajectories = trajectory_figure(self.history, self.labels, bounds, norm, threshold)
        tracker.log_figure(trajectories, "plots/trajectories.png")
        if self.start is not None:
            growth = [self.before_escape[f"escape/minimum/growth/{label}"] for label in self.labels]
            tracker.log_figure(escape_figure(self.history, self.labels, growth), "plots/escape.png")

"""Stochastic Policy Gradient Methods: Improved Sample Complexity for Fisher-non-degenerate Policies (ICML 2023)."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from curvature.data.seeds import derive
from curvature.errors import ConfigError
from curvature.optim.policy_gradient import Ascent
from curvature.rl import PolicyOracle, TabularSoftmax
from curvature.rl.cubic import Cubic, CubicOracle
from curvature.rl.gym import GymEnvironment
from curvature.rl.instruments import LargestTensor
from curvature.rl.lqr import LinearQuadratic
from curvature.rl.tabular import TabularMDP

log = logging.getLogger(__name__)

SCORE_TERMS = ("exact", "none", "negated", "official")


class PolicyGradient(pl.LightningModule):
    """One method on one environment; the optimiser draws its own samples.

    What is measured at theta_t, never at a look-ahead point, depends on the environment: ``gap`` and ``error``
    (J* - J and |d_t - grad J|, mean over replicas) where the objective is known, ``return`` of fresh episodes else.
    Final metrics: ``<name>/final`` (of the last policy), ``<name>/largest`` and ``<name>/mean`` (over the records),
    ``error/slope`` and ``gap/slope`` (log-log, of the mean error and the median gap, after the first thirtieth of the
    run), ``unstable`` (replicas whose gap is infinite; without replicas 1 where the direction ended up not finite,
    which no step follows: such a run ends with what its policy is worth), ``fisher/floor`` (lower bound of LQR's
    Fisher matrix at every policy), ``count/*`` of :class:`curvature.rl.PolicyOracle`, ``count/per_iteration``
    (trajectories), ``memory/state`` (floats of parameters and optimiser per parameter) and ``memory/largest``
    (elements of the largest tensor of an iteration over the square of the number of parameters).

    Args:
        optimizer: factory ``optimizer(params, oracle=..., replicas=...)`` of one of
            :mod:`curvature.optim.policy_gradient`.
        seed: of weights, samples and evaluations.
        max_steps: steps, of ``chunk`` iterations each (the data decides).
        records: number of measurements.
        score_term: of Hessian-vector products; other than ``exact`` for ablations.

    Raises:
        ConfigError: no record, or an unknown score term.
    """

    def __init__(
        self,
        optimizer: Callable[..., Ascent],
        seed: int,
        max_steps: int,
        records: int = 20,
        score_term: str = "exact",
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        if records < 1:
            raise ConfigError("module.records", records, "at least 1")
        if score_term not in SCORE_TERMS:
            raise ConfigError("module.score_term", score_term, f"one of {', '.join(SCORE_TERMS)}")
        self.optimizer_factory, self.seed, self.max_steps = optimizer, seed, max_steps
        self.records, self.score_term = records, score_term
        self.results: dict[str, float] = {}
        self.history: list[tuple[int, dict[str, float]]] = []
        self.largest = 0
        self.policy: nn.Module | None = None

    def check_data(self, datamodule: Any, processes: int = 1) -> None:
        """Build policy and oracle for the environment of ``datamodule``.

        Raises:
            ConfigError: more than one process, or replicas of an environment that has none.
        """
        if processes != 1:
            raise ConfigError("trainer.devices", processes, "1: a policy is sampled in one process")
        environment = self.environment = datamodule.environment
        self.chunk, self.evaluations = datamodule.chunk, datamodule.evaluations
        self.total = self.max_steps * self.chunk
        self.exact = isinstance(environment, LinearQuadratic | Cubic)
        self.batched = self.exact
        if datamodule.replicas is not None and not self.batched:
            raise ConfigError("data.replicas", datamodule.replicas, "null: only LQR and the cubic have replicas")
        spacing = np.geomspace(1, self.total, self.records) if self.exact else np.linspace(0, self.total, self.records)
        self.due = {round(float(step)) for step in spacing}
        if isinstance(environment, Cubic):
            self.policy, self.oracle = environment.start(self.seed), CubicOracle(environment)
            return
        policy: Any
        if isinstance(environment, LinearQuadratic):
            policy = environment.policy(datamodule.replicas or 1)
        elif isinstance(environment, TabularMDP):
            policy = TabularSoftmax(environment.states, environment.actions)
        else:
            assert isinstance(environment, GymEnvironment)
            policy = environment.policy(datamodule.hidden, torch.Generator().manual_seed(self.seed))
        self.policy = policy
        self.oracle = PolicyOracle(  # type: ignore[assignment]
            environment,
            policy,
            datamodule.trajectories,
            datamodule.leave_one_out,
            self.score_term,  # type: ignore[arg-type]
            self.seed,
            datamodule.product_trajectories,
        )

    def setup(self, stage: str) -> None:
        if self.policy is None:
            self.check_data(self.trainer.datamodule)  # type: ignore[attr-defined]

    def configure_optimizers(self) -> Ascent:
        assert self.policy is not None
        return self.optimizer_factory(self.policy.parameters(), oracle=self.oracle, replicas=self.batched)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raw: Ascent = self.optimizers(use_pl_optimizer=False)  # type: ignore[assignment]
        for _ in range(self.chunk - 1):
            self._iterate(raw, raw.step)
        # Lightning counts the steps of its wrapper: one for the whole chunk.
        norm = self._iterate(raw, self.optimizers().step)  # type: ignore[union-attr]
        if raw.iteration == self.total:
            self._record(raw.iteration, raw.parameters, None)
        finite = norm[norm.isfinite()]
        # Without replicas divergence is a result, not the end of the run.
        return finite.mean() if finite.numel() or self.batched else norm.new_zeros(())

    def on_train_end(self) -> None:
        optimizer: Ascent = self.optimizers(use_pl_optimizer=False)  # type: ignore[assignment]
        for name, value in self.history[-1][1].items():
            self.results[name if name == "unstable" else f"{name}/final"] = value
        for name in self.history[0][1]:
            values = [metrics[name] for _, metrics in self.history if name in metrics]
            self.results |= {f"{name}/largest": max(values), f"{name}/mean": float(np.mean(values))}
        if self.exact:
            for metric, column in (("error/slope", "error"), ("gap/slope", "gap_median")):
                self.results[metric] = self._slope(column)
        if isinstance(self.environment, LinearQuadratic):
            self.results["fisher/floor"] = self.environment.fisher_floor()
        if not self.exact and not all(bool(part.isfinite().all()) for part in optimizer.direction):
            self.results["unstable"] = 1.0
            log.warning("the direction is not finite any more: the policy has stayed where it was")
        counts = self.oracle.counts
        self.results |= {f"count/{name}": float(count) for name, count in counts.items()}
        self.results["count/per_iteration"] = counts["trajectories"] / (self._per_estimate() * optimizer.iteration)
        size = sum(p.numel() for p in optimizer.parameters)
        held = sum(t.numel() for state in optimizer.state.values() for t in state.values())
        self.results["memory/state"] = (size + held) / size
        self.results["memory/largest"] = self.largest / size**2
        if self.logger is not None:
            self._plot()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["policy_gradient"] = {
            "history": self.history,
            "largest": self.largest,
            "oracle": self.oracle.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint["policy_gradient"]
        self.history, self.largest = [(step, metrics) for step, metrics in saved["history"]], saved["largest"]
        self.oracle.load_state_dict(saved["oracle"])

    def _per_estimate(self) -> int:
        return getattr(self.oracle, "count", 1)

    def _iterate(self, optimizer: Ascent, step: Callable[[], Any]) -> Tensor:
        t = optimizer.iteration
        before = [p.detach().clone() for p in optimizer.parameters] if t in self.due else None
        if t == 1:
            with LargestTensor() as instrument:
                norm: Tensor = step()
            self.largest = instrument.elements
        else:
            norm = step()
        if before is not None:
            self._record(t, before, optimizer.direction)
        return norm

    def _record(self, t: int, parameters: list[Tensor], direction: list[Tensor] | None) -> None:
        seed = derive("evaluation", self.seed, t)
        measured = self.environment.evaluate(self.policy, parameters, direction, self.evaluations, seed)
        metrics: dict[str, float] = {}
        for name, values in measured.items():
            finite = values[values.isfinite()]
            metrics[name] = float(finite.mean()) if finite.numel() else float("nan")
            if name == "gap":
                metrics |= {"gap_median": float(values.median()), "unstable": float(values.numel() - finite.numel())}
        self.history.append((t, metrics))
        if self.logger is not None:
            self.logger.log_metrics({k: v for k, v in metrics.items() if np.isfinite(v)}, -(-t // self.chunk))

    def _slope(self, column: str) -> float:
        points = [(t, m[column]) for t, m in self.history if t >= self.total / 30 and m.get(column, 0) > 0]
        points = [(t, value) for t, value in points if np.isfinite(value)]
        if len(points) < 3:
            return float("nan")
        x, y = np.log(np.array(points, dtype=float)).T
        return float(np.polyfit(x, y, 1)[0])

    def _plot(self) -> None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5, 3.4), layout="constrained")
        axes = figure.subplots()
        for name in self.history[0][1]:
            if name in ("return", "error", "gap_median", "objective"):
                points = [(t, metrics[name]) for t, metrics in self.history if name in metrics]
                axes.plot(*zip(*points), label=name.replace("_", " "))
        if self.exact:
            axes.set(xscale="log", yscale="log")
        axes.set_xlabel("iterations")
        axes.legend()
        self.logger.experiment.log_figure(figure, "plots/learning_curve.png")  # type: ignore[union-attr]

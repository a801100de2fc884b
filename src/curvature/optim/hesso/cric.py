"""HESSO-CRIC: redundant groups are identified by following them on their way to zero (Chen et al. 2024)."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from curvature.errors import ConfigError
from curvature.optim.hesso.hesso import HESSO, refuse
from curvature.optim.hesso.saliency import combined
from curvature.optim.hesso.selection import lowest
from curvature.optim.passes import evaluated
from curvature.pruning.space import SearchSpace

COUNTERS = ("repaired", "oto")
TERMINATIONS = ("visited", "oto")
LOSS_TERMS = ("normalised", "oto", "none")
NORMALISATIONS = ("pointwise", "pooled")
RATIOS = (0.25, 0.5, 0.75)
EXTRA = "cric"


class HESSOCRIC(HESSO):
    """HESSO with corrective redundancy identification: plain training, sampling, one decision, hybrid training.

    From step ``start_step`` on, parameters are sampled without progress: for every node group and each ratio of
    0.25, 0.5, 0.75, two evaluations (as they are, and with that share of its least salient groups at zero), then cycles
    in which a set of groups shrinks to zero over ``sampling_steps`` updates while saliencies are stored. Groups that
    come to look redundant on the way are followed in the next cycle, no group twice. The groups with the lowest mean
    saliency are redundant; parameters return to where sampling began, and those groups shrink during
    ``hybrid_training_steps``.

    ``step`` needs the loss while sampling: from ``closure``, or as ``loss``. The size of a cycle's set is read from the
    device, once a cycle. Three defects of the released code are repaired, each behind a flag; two more (indices of
    heads and transposed layers) do not exist here. Cyclic updates use the base optimiser and its momentum;
    normalisation statistics are not restored.

    Args:
        space, variant, lr, target_group_sparsity: see :class:`curvature.optim.hesso.HESSO`.
        start_step: first step of sampling.
        sampling_steps: S, steps of a cycle.
        max_cycle_period: M; there are at most M - 1 cycles.
        tolerance: a cycle of so few groups is not run.
        hybrid_training_steps: H.
        counter: ``repaired``: a cycle shrinks by (S-t-1)/(S-t); ``oto``: to zero in its first step,
            as released, where the counter is one step ahead.
        termination: ``visited``: cycles go on while one of the K least salient groups has not been followed; ``oto``:
            until no step of a cycle proposed a new one.
        loss_term: what the loss at the samples without a layer's groups, over the loss at the start and the size of the
            layer, adds to its groups' saliency: ``normalised`` like a criterion, ``oto``: as it is, or ``none``.
        normalisation: ``pointwise``: every sample's criteria are normalised before they are averaged, so that what two
            cycles say of their groups has no common scale; ``pooled``: afterwards.
        loss_weight: weight of that term; default 0.2, and 1 for ``oto``.
        official: all of these flags as released, and ``direction="variant"`` and ``adam="oto"``. What has no flag stays
            ours: what a layer cannot give is taken from others, every parameter is updated in cycles, and a cycle's
            first step scores after the reset.
        max_steps: steps of the training; phases that may not fit are refused.
        **options: ``criteria``, ``group_divisible``, ``direction``, ``adam``, ``lr_factors``, ``seed`` and options of
            the base optimiser, see :class:`curvature.optim.hesso.HESSO`.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        space: SearchSpace,
        variant: str = "sgd",
        lr: float = 0.1,
        target_group_sparsity: float = 0.5,
        start_step: int = 0,
        sampling_steps: int = 10,
        max_cycle_period: int = 10,
        tolerance: int = 0,
        hybrid_training_steps: int = 100,
        counter: str = "repaired",
        termination: str = "visited",
        loss_term: str = "normalised",
        loss_weight: float | None = None,
        normalisation: str = "pointwise",
        official: bool = False,
        max_steps: int | None = None,
        **options: Any,
    ) -> None:
        if official:
            counter = termination = loss_term = "oto"
            normalisation = "pointwise"
            options |= {"direction": "variant", "adam": "oto"}
        choices: dict[str, tuple[str, tuple[str, ...]]]
        choices = {"counter": (counter, COUNTERS), "termination": (termination, TERMINATIONS)}
        choices |= {"loss_term": (loss_term, LOSS_TERMS), "normalisation": (normalisation, NORMALISATIONS)}
        for key, (value, known) in choices.items():
            if value not in known:
                raise ConfigError(f"optimizer.{key}", value, f"one of {', '.join(known)}")
        lengths = {"sampling_steps": (sampling_steps, 1), "hybrid_training_steps": (hybrid_training_steps, 1)}
        for key, (length, least) in (lengths | {"max_cycle_period": (max_cycle_period, 2)}).items():
            if not isinstance(length, int) or length < least:
                raise ConfigError(f"optimizer.{key}", length, f"an integer >= {least}")
        longest = 6 * len(space.nodes) + (max_cycle_period - 1) * sampling_steps + hybrid_training_steps
        if max_steps is not None and target_group_sparsity > 0 and start_step + longest > max_steps:
            allowed = f"so few that sampling and hybrid training, up to {longest} steps, end by {max_steps}"
            raise ConfigError("optimizer.start_step", start_step, allowed)
        refuse(options, "pruning_steps", "pruning_periods", "selection")
        super().__init__(space, variant, lr, target_group_sparsity, start_step, **options)
        self.sampling_steps, self.cycles, self.tolerance = sampling_steps, max_cycle_period, tolerance
        self.hybrid_steps, self.counter, self.termination = hybrid_training_steps, counter, termination
        self.loss_term, self.normalisation = loss_term, normalisation
        self.loss_weight = (1.0 if loss_term == "oto" else 0.2) if loss_weight is None else loss_weight
        self.state[EXTRA] = {"phase": "warmup"}  # type: ignore[index]

    @property
    def phase(self) -> str:
        """``warmup``, ``projection``, ``cycle``, ``hybrid`` or ``frozen``."""
        phase: str = self._sampling["phase"]
        return phase

    @property
    def _sampling(self) -> dict[str, Any]:
        found: dict[str, Any] = self.state[EXTRA]  # type: ignore[index]
        return found

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, loss: Tensor | float | None = None) -> Any:
        """One training step, or one evaluation while sampling; returns what ``closure`` returns, or ``loss``.

        Raises:
            ConfigError: a sample needs the loss and there is none.
        """
        if closure is not None:
            loss = evaluated(closure)
        self._adopt()
        pruner, sampling = self.pruner, self._sampling
        pruner.begin()
        if sampling["phase"] == "warmup" and pruner.target and pruner.state["num_steps"] >= pruner.schedule.start:
            self._begin(self._agreed(loss))
        match sampling["phase"]:
            case "projection":
                self._project(self._agreed(loss))
            case "cycle":
                self._follow()
            case "hybrid":
                t, steps = sampling["t"], self.hybrid_steps
                self._update((steps - t - 1) / (steps - t), closes=t == steps - 1)
                sampling["t"] = t + 1
                if t == steps - 1:
                    sampling["phase"] = "frozen"
            case _:
                self._update()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of ``state_dict``, also in the middle of sampling."""
        super().load_state_dict(state_dict)
        self.state[EXTRA] = dict(self.state[EXTRA])  # type: ignore[index]

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _begin(self, loss: Tensor) -> None:
        groups, device, dtype = self.pruner.space.size, self.pruner.layout.device, self.pruner.layout.dtype
        rows = len(self.pruner.criteria) if self.normalisation == "pooled" else 1
        self._sampling.update(
            phase="projection",
            index=0,
            zeroed=False,
            origin=[p.detach().clone() for p in self._parameters()],
            reference=loss,
            total=torch.zeros(rows, groups, dtype=dtype, device=device),
            count=0,
            losses=torch.zeros(len(self.pruner.space.nodes), dtype=dtype, device=device),
        )

    def _restore(self) -> None:
        for p, origin in zip(self._parameters(), self._sampling["origin"], strict=True):
            p.copy_(origin)

    def _record(self) -> Tensor:
        saliencies = self.pruner.saliencies(self.directions())
        scores = combined(saliencies, self.pruner.criteria)
        stored = saliencies if self.normalisation == "pooled" else scores[None]
        self._sampling["total"] = self._sampling["total"] + stored
        self._sampling["count"] += 1
        return scores

    def _mean(self) -> Tensor:
        mean: Tensor = self._sampling["total"] / self._sampling["count"]
        return combined(mean, self.pruner.criteria) if self.normalisation == "pooled" else mean[0]

    def _project(self, loss: Tensor) -> None:
        sampling, layout = self._sampling, self.pruner.layout
        node = self.pruner.space.nodes[sampling["index"] // len(RATIOS)]
        scores = self._record()
        if not sampling["zeroed"]:
            count = int(RATIOS[sampling["index"] % len(RATIOS)] * node.size)
            factors = torch.ones_like(scores)
            inside = scores[node.start : node.start + node.size]
            factors[node.start + torch.argsort(inside, stable=True)[:count]] = 0.0
            layout.scale_(factors)
            sampling["zeroed"] = True
            return
        relative = loss / sampling["reference"].clamp_min(torch.finfo(loss.dtype).tiny)
        where = torch.arange(len(sampling["losses"]), device=layout.device) == sampling["index"] // len(RATIOS)
        sampling["losses"] = sampling["losses"] + torch.where(where, relative.to(layout.dtype) / len(RATIOS), 0.0)
        self._restore()
        sampling["zeroed"] = False
        sampling["index"] += 1
        if sampling["index"] == len(self.pruner.space.nodes) * len(RATIOS):
            nothing = torch.zeros_like(scores, dtype=torch.bool)
            sampling.update(phase="cycle", cycle=1, t=0, violating=None, history=nothing, trial=nothing)

    def _lowest(self, scores: Tensor) -> Tensor:
        pruner = self.pruner
        nothing = torch.zeros_like(scores, dtype=torch.bool)
        layers = len(pruner.space.nodes)
        return lowest(scores, pruner.layout.layer(), nothing, pruner.target, layers, pruner.divisible)

    def _follow(self) -> None:
        sampling, steps = self._sampling, self.sampling_steps
        scores = self._record()
        candidates = self._lowest(scores)
        if sampling["violating"] is None:
            sampling["violating"] = sampling["history"] = candidates
        violating, t = sampling["violating"], sampling["t"]
        sampling["trial"] = sampling["trial"] | (candidates & ~sampling["history"])
        self._update()
        done = (t - 1) % steps if self.counter == "oto" else t
        factor = (steps - done - 1) / (steps - done)
        one = torch.ones_like(scores)
        self.pruner.layout.scale_(torch.where(violating, one * factor, one))
        sampling["t"] = t + 1
        if sampling["t"] < steps:
            return
        self._restore()
        following = sampling["trial"] & ~sampling["history"]
        if self.termination == "visited":
            following = following | (self._lowest(self._mean()) & ~sampling["history"])
        sampling["cycle"] += 1
        if sampling["cycle"] >= self.cycles or int(following.sum()) <= self.tolerance:
            self._decide()
        else:
            sampling["violating"], sampling["history"] = following, sampling["history"] | following
            sampling.update(t=0, trial=torch.zeros_like(following))

    def _decide(self) -> None:
        sampling, layer = self._sampling, self.pruner.layout.layer()
        scores = self._mean()
        sizes = torch.tensor([node.size for node in self.pruner.space.nodes]).to(scores)
        per_group = (sampling["losses"] / sizes)[layer]
        if self.loss_term == "normalised":
            per_group = per_group / per_group.norm().clamp_min(torch.finfo(per_group.dtype).tiny)
        if self.loss_term != "none":
            scores = scores + self.loss_weight * per_group
        self.pruner.scores = scores
        self.pruner.set_active(self._lowest(scores))
        kept = {"phase": "hybrid", "t": 0, "cycles": sampling["cycle"] - 1}
        sampling.clear()
        sampling.update(kept)

    def _agreed(self, loss: Any) -> Tensor:
        if loss is None:
            raise ConfigError("optimizer.step(loss)", None, "the loss, which HESSO-CRIC compares while sampling")
        agreed = torch.as_tensor(loss, device=self.pruner.layout.device).detach().clone()
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(agreed)
            agreed = agreed / dist.get_world_size()
        return agreed

"""Many descents at once: replicas that differ by learning rate and seed, advanced in chunks of steps."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from curvature.errors import ConfigError
from curvature.stability.family import Family, State
from curvature.stability.sampling import batch_order, check_batch_size

GATHER = 256


@dataclass(frozen=True)
class Recipe:
    """How replicas descend: everything but the net and the data.

    Attributes:
        rates: learning rates, one a lane; constant unless ``schedule`` says otherwise.
        total_steps: length of the descent.
        batch_size: samples a step; None is full-batch gradient descent.
        replacement: whether a batch may hold a sample twice.
        clip: largest allowed global gradient norm; None never clips.
        schedule: ``constant``, or ``cosine`` from the rate to 0 over ``total_steps``.
        stop_loss: a replica whose full training loss falls below this rests from then on.
    """

    rates: tuple[float, ...]
    total_steps: int
    batch_size: int | None = 1
    replacement: bool = True
    clip: float | None = None
    schedule: str = "constant"
    stop_loss: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "rates", tuple(float(rate) for rate in self.rates))
        if not self.rates or not all(math.isfinite(rate) and rate > 0 for rate in self.rates):
            raise ConfigError("rates", list(self.rates), "one or more finite learning rates above 0")
        if self.total_steps < 1:
            raise ConfigError("total_steps", self.total_steps, "at least 1")
        if self.clip is not None and not self.clip > 0:
            raise ConfigError("clip", self.clip, "a gradient norm above 0, or null")
        if self.schedule not in ("constant", "cosine"):
            raise ConfigError("schedule", self.schedule, "constant or cosine")
        if not self.stop_loss >= 0:
            raise ConfigError("stop_loss", self.stop_loss, "a loss of at least 0")

    def multiplier(self, step: int) -> float:
        """Factor of the learning rates at ``step``, counted from 0."""
        if self.schedule == "constant":
            return 1.0
        return (1 + math.cos(math.pi * step / self.total_steps)) / 2


def spread(initial: Mapping[str, Tensor], lanes: int) -> State:
    """The same start for every lane: parameters (S, ...) to (S, lanes, ...)."""
    return {name: p[:, None].expand(p.shape[0], lanes, *p.shape[1:]) for name, p in initial.items()}


class Replicas(nn.Module):
    """S seeds times L lanes of one family of nets; lane l of every seed descends at learning rate ``rates[l]``.

    Parameters and counters are part of ``state_dict``; the order of samples is a function of (seed, step). A restored
    descent therefore goes on bit for bit, if it is advanced in the same chunks. A replica that becomes infinite or
    NaN goes back to the start of its chunk and rests; the others are not disturbed.

    Args:
        family: closed forms or autograd of the nets.
        initial: parameters (S, L, ...) by name; see :func:`spread`. Copied.
        inputs: (S, n, d), float64.
        targets: (S, n).
        seeds: of the order of samples, one for each of the S data sets; lanes of a seed share their order.
        recipe: how to descend.

    Raises:
        ConfigError: shapes that do not fit, or a batch that cannot be drawn.
    """

    loss: Tensor
    steps: Tensor
    last_clipped: Tensor
    diverged_at: Tensor
    resting: Tensor
    done: Tensor

    def __init__(
        self,
        family: Family,
        initial: Mapping[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
        seeds: tuple[int, ...],
        recipe: Recipe,
    ) -> None:
        super().__init__()
        shape = (len(seeds), len(recipe.rates))
        for name, values in initial.items():
            if values.shape[:2] != shape:
                raise ConfigError(f"initial.{name}", tuple(values.shape), f"leading dimensions {shape}: seeds, lanes")
        if inputs.shape[0] != shape[0] or inputs.shape[:2] != targets.shape:
            raise ConfigError("inputs", tuple(inputs.shape), f"{shape[0]} data sets as targets {tuple(targets.shape)}")
        if recipe.batch_size is not None:
            check_batch_size(inputs.shape[1], recipe.batch_size, recipe.replacement)
        self.family, self.recipe, self.seeds = family, recipe, tuple(seeds)
        self.inputs, self.targets = inputs, targets
        self.names = tuple(initial)
        self.replicas = nn.ParameterList(
            nn.Parameter(p.reshape(-1, *p.shape[2:]).clone(), requires_grad=False) for p in initial.values()
        )
        count = (shape[0], shape[1])
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))
        self.register_buffer("steps", torch.zeros(count, dtype=torch.int64))
        self.register_buffer("last_clipped", torch.full(count, -1))
        self.register_buffer("diverged_at", torch.full(count, -1))
        self.register_buffer("resting", torch.zeros(count, dtype=torch.bool))
        self.register_buffer("loss", self._loss(self.state()))

    def state(self, lanes: Tensor | None = None) -> State:
        """Parameters (S, L, ...) by name; views, or copies of the chosen lanes."""
        leading = (len(self.seeds), len(self.recipe.rates))
        views = {name: p.data.view(*leading, *p.shape[1:]) for name, p in zip(self.names, self.replicas)}
        return views if lanes is None else {name: view[:, lanes] for name, view in views.items()}

    @torch.inference_mode()
    def advance(self, steps: int) -> Tensor:
        """Let the replicas that do not rest take up to ``steps`` further steps, together.

        Returns:
            Half-MSE (S, L) of each replica on its whole training set.
        """
        first = int(self.done)
        steps = min(steps, self.recipe.total_steps - first)
        lanes = (~self.resting).any(0).nonzero()[:, 0]
        self.done += max(steps, 0)
        if steps <= 0 or not len(lanes):
            return self.loss
        awake = ~self.resting[:, lanes]
        rate = torch.tensor(self.recipe.rates, dtype=self.inputs.dtype)[lanes] * awake
        state = self.state(lanes)
        last_clipped = self._descend(state, rate, first, steps)
        loss = self._loss(state)
        finite = torch.isfinite(loss)
        for values in state.values():
            finite &= torch.isfinite(values.flatten(2)).all(-1)
        keep = awake & finite
        for view, values in zip(self.state().values(), state.values()):
            mask = keep.view(*keep.shape, *[1] * (values.ndim - 2))
            view[:, lanes] = torch.where(mask, values, view[:, lanes])
        self.loss[:, lanes] = torch.where(keep, loss, self.loss[:, lanes])
        self.steps[:, lanes] += steps * keep
        self.last_clipped[:, lanes] = torch.where(keep, last_clipped, -1).maximum(self.last_clipped[:, lanes])
        self.diverged_at[:, lanes] = torch.where(awake & ~finite, first + steps, self.diverged_at[:, lanes])
        self.resting[:, lanes] |= (awake & ~finite) | (self.loss[:, lanes] < self.recipe.stop_loss)
        return self.loss

    @torch.enable_grad()
    def gradient_norm(self) -> Tensor:
        """Norm (S, L) of the gradient of each replica's loss on its whole training set."""
        state = {name: values.clone().requires_grad_() for name, values in self.state().items()}
        gradients = torch.autograd.grad(self._loss(state).sum(), list(state.values()))
        return torch.stack([gradient.flatten(2).square().sum(-1) for gradient in gradients]).sum(0).sqrt()

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return int(self.done) >= self.recipe.total_steps or bool(self.resting.all())

    def _descend(self, state: State, rate: Tensor, first: int, steps: int) -> Tensor:
        """Step ``state`` in place; returns the last clipped step (S, L) within, or -1."""
        constant = self.recipe.schedule == "constant"
        last = torch.full(rate.shape, -1)
        for begin in range(first, first + steps, GATHER):
            count = min(GATHER, first + steps - begin)
            factors = []
            for offset, (inputs, targets) in enumerate(self._batches(begin, count)):
                current = rate if constant else rate * self.recipe.multiplier(begin + offset)
                factors.append(self.family.step(state, inputs, targets, current, self.recipe.clip))
            if self.recipe.clip is not None:
                clipped = torch.stack([f for f in factors if f is not None]) < 1
                numbers = torch.arange(begin, begin + count).view(-1, 1, 1)
                last = torch.where(clipped, numbers, -1).amax(0).maximum(last)
        return last

    def _batches(self, first: int, count: int) -> list[tuple[Tensor, Tensor]]:
        size, samples = self.recipe.batch_size, self.inputs.shape[1]
        if size is None:
            return [(self.inputs, self.targets)] * count
        orders = [batch_order(seed, first, count, samples, size, self.recipe.replacement) for seed in self.seeds]
        order = torch.stack(orders)
        sets = torch.arange(len(self.seeds)).view(-1, 1, 1)
        return list(zip(self.inputs[sets, order].unbind(1), self.targets[sets, order].unbind(1)))

    def _loss(self, state: State) -> Tensor:
        return (self.family.predict(state, self.inputs) - self.targets[:, None]).square().mean(-1) / 2

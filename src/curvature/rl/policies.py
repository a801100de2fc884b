"""Stochastic policies as modules: ``forward(states)`` gives the parameters of the law of the action."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from curvature.errors import ConfigError

LOG_STD_FLOOR = math.log(1e-6)


class Policy(nn.Module):
    """What all policies share. ``outputs`` is what ``forward`` returns."""

    @abstractmethod
    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """log pi(a|s), one number a step: (...) for outputs and actions of steps (...)."""

    @abstractmethod
    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """One action a state: (...) integers or (..., m) numbers."""

    def at(self, parameters: Sequence[Tensor] | None, states: Tensor) -> Tensor:
        """``forward`` with ``parameters``, ordered as ``self.parameters()``, in place of the module's own."""
        if parameters is None:
            outputs: Tensor = self(states)
            return outputs
        names = (name for name, _ in self.named_parameters())
        found: Tensor = functional_call(self, dict(zip(names, parameters)), (states,))
        return found

    def push(self, parameters: Sequence[Tensor], direction: Sequence[Tensor], states: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs at ``parameters`` and their derivative along ``direction``, both differentiable once more.

        By forward-mode differentiation; policies whose derivative is short write it down, which spares the products
        with zero tangents.
        """
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(value, tangent) for value, tangent in zip(parameters, direction)]
            outputs, along = forward_ad.unpack_dual(self.at(duals, states))
        return outputs, torch.zeros_like(outputs) if along is None else along


class Categorical(Policy):
    """Base of policies whose outputs are unnormalised log-probabilities (..., A); actions are integers (...)."""

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        return outputs.log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        # Gumbel's trick: the largest of logits - log E with E ~ Exp(1) is at each action with its probability.
        draws = torch.empty_like(outputs).exponential_(generator=generator)
        return (outputs - draws.log()).argmax(-1)


class TabularSoftmax(Categorical):
    """One logit for every state and action; states are integers.

    Args:
        states: number of states S.
        actions: number of actions A.
        dtype: of the logits (S, A), which start at zero.
    """

    def __init__(self, states: int, actions: int, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(states, actions, dtype=dtype))

    def forward(self, states: Tensor) -> Tensor:
        return self.logits[states]


class SoftmaxMLP(Categorical):
    """tanh network with a softmax over its outputs.

    Args:
        observations: length of a state vector.
        actions: number of actions.
        hidden: widths of the hidden layers.
        generator: of the initial weights.

    Raises:
        ConfigError: a width below 1.
    """

    def __init__(
        self,
        observations: int,
        actions: int,
        hidden: Sequence[int] = (32, 32),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.net = tanh_mlp([observations, *hidden, actions], generator)

    def forward(self, states: Tensor) -> Tensor:
        outputs: Tensor = self.net(states)
        return outputs

    def push(self, parameters: Sequence[Tensor], direction: Sequence[Tensor], states: Tensor) -> tuple[Tensor, Tensor]:
        return push_tanh_mlp(parameters, direction, states)


class LinearGaussian(Policy):
    """a = K s + sigma e with e ~ N(0, I) and a fixed sigma.

    Args:
        observations: n, length of a state.
        actions: m, length of an action.
        sigma: standard deviation, > 0.
        replicas: independent copies R; ``weight`` (the K above) is (R, m, n) and states are (..., R, M, n). None
            gives one policy with weight (m, n) for states (..., n).
        dtype: of ``weight``, which starts at zero.

    Raises:
        ConfigError: a ``sigma`` that is not above 0.
    """

    def __init__(
        self,
        observations: int,
        actions: int,
        sigma: float,
        replicas: int | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        if sigma <= 0:
            raise ConfigError("model.sigma", sigma, "a positive number")
        self.sigma = sigma
        batch = () if replicas is None else (replicas,)
        self.weight = nn.Parameter(torch.zeros(*batch, actions, observations, dtype=dtype))

    def forward(self, states: Tensor) -> Tensor:
        return self.at(None, states)

    def at(self, parameters: Sequence[Tensor] | None, states: Tensor) -> Tensor:
        (weight,) = [self.weight] if parameters is None else parameters
        if weight.ndim == 2 or states.ndim != 4:
            return states @ weight.mT
        # One product a replica; broadcasting over the time axis would make one for every step of it.
        flat = states.transpose(0, 1)
        return (flat.flatten(1, 2) @ weight.mT).unflatten(1, flat.shape[1:3]).transpose(0, 1)

    def push(self, parameters: Sequence[Tensor], direction: Sequence[Tensor], states: Tensor) -> tuple[Tensor, Tensor]:
        return self.at(parameters, states), self.at(direction, states)

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        constant = actions.shape[-1] * (math.log(self.sigma) + 0.5 * math.log(2 * math.pi))
        return (actions - outputs).square().sum(-1) * (-0.5 / self.sigma**2) - constant

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        return outputs + self.sigma * torch.randn(outputs.shape, generator=generator, dtype=outputs.dtype)


class GaussianMLP(Policy):
    """Normal law with the mean from a tanh network and a learned standard deviation that does not depend on the state.

    Outputs (..., 2m) hold mean and log standard deviation, the latter never below log 1e-6.

    Args:
        observations: length of a state vector.
        actions: m, length of an action.
        hidden: widths of the hidden layers.
        log_std: initial log standard deviation.
        generator: of the initial weights.
    """

    def __init__(
        self,
        observations: int,
        actions: int,
        hidden: Sequence[int] = (64, 64),
        log_std: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.net = tanh_mlp([observations, *hidden, actions], generator)
        self.log_std = nn.Parameter(torch.full((actions,), log_std))

    def forward(self, states: Tensor) -> Tensor:
        mean: Tensor = self.net(states)
        return torch.cat((mean, self.log_std.clamp(min=LOG_STD_FLOOR).expand_as(mean)), -1)

    def push(self, parameters: Sequence[Tensor], direction: Sequence[Tensor], states: Tensor) -> tuple[Tensor, Tensor]:
        mean, along = push_tanh_mlp(parameters[1:], direction[1:], states)
        log_std = parameters[0].clamp(min=LOG_STD_FLOOR).expand_as(mean)
        moving = torch.where(parameters[0] > LOG_STD_FLOOR, direction[0], 0).expand_as(mean)
        return torch.cat((mean, log_std), -1), torch.cat((along, moving), -1)

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        mean, log_std = outputs.chunk(2, -1)
        scaled = (actions - mean) * (-log_std).exp()
        return -(0.5 * scaled.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        mean, log_std = outputs.chunk(2, -1)
        return mean + log_std.exp() * torch.randn(mean.shape, generator=generator, dtype=mean.dtype)


def tanh_mlp(widths: Sequence[int], generator: torch.Generator | None = None) -> nn.Sequential:
    """Linear layers with tanh between them; Xavier-uniform weights, zero biases, last layer scaled by 0.01.

    The small last layer makes the first policy nearly uniform (or zero-mean) in every state.

    Args:
        widths: numbers of units, from the input to the output.
        generator: source of the weights.

    Raises:
        ConfigError: a width below 1.
    """
    if min(widths) < 1:
        raise ConfigError("model.hidden", list(widths[1:-1]), "positive integers")
    layers: list[nn.Module] = []
    for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.xavier_uniform_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        layers.append(linear)
        if index < len(widths) - 2:
            layers.append(nn.Tanh())
    with torch.no_grad():
        linear.weight.mul_(0.01)
    return nn.Sequential(*layers)


def push_tanh_mlp(parameters: Sequence[Tensor], direction: Sequence[Tensor], states: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of :func:`tanh_mlp` with ``parameters`` (weight, bias, weight, ...), and their derivative.

    Args:
        parameters: of the layers.
        direction: in which they move, shaped as they are.
        states: (..., n).
    """
    value, along = states, torch.zeros(())
    layers = len(parameters) // 2
    for layer in range(layers):
        weight, bias = parameters[2 * layer : 2 * layer + 2]
        moved = nn.functional.linear(value, *direction[2 * layer : 2 * layer + 2])
        along = moved if layer == 0 else moved + nn.functional.linear(along, weight)
        value = nn.functional.linear(value, weight, bias)
        if layer < layers - 1:
            value = value.tanh()
            along = along * (1 - value.square())
    return value, along

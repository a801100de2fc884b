"""Finite Markov decision processes: sampling, enumeration and closed forms."""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from curvature.errors import ConfigError
from curvature.rl.estimators import gpomdp_gradient, hessian_vector_product
from curvature.rl.policies import Policy, TabularSoftmax
from curvature.rl.trajectories import Trajectories


class TabularMDP:
    """States 0..S-1, actions 0..A-1.

    Args:
        transition: (S, A, S) probabilities P(s'|s, a).
        reward: (S, A).
        initial: (S,) probabilities of the first state.
        discount: in (0, 1).
        horizon: H, steps of a trajectory.

    Raises:
        ConfigError: shapes that do not fit, or rows that are no probabilities.
    """

    def __init__(
        self, transition: Tensor, reward: Tensor, initial: Tensor, discount: float = 0.9, horizon: int = 3
    ) -> None:
        states, actions = reward.shape
        if transition.shape != (states, actions, states) or initial.shape != (states,):
            raise ConfigError("data.transition", tuple(transition.shape), f"shape {(states, actions, states)}")
        for rows in (transition, initial):
            if bool((rows < 0).any()) or not torch.allclose(rows.sum(-1), torch.ones_like(rows.sum(-1))):
                raise ConfigError("data.transition", rows.tolist(), "rows of probabilities that sum to 1")
        self.transition, self.reward, self.initial = transition, reward, initial
        self.discount, self.horizon = discount, horizon
        self.states, self.actions = states, actions

    def rollout(self, policy: Policy, parameters: Sequence[Tensor] | None, count: int, seed: int) -> Trajectories:
        """``count`` trajectories of H steps; see :class:`curvature.rl.oracle.Environment`."""
        generator = torch.Generator().manual_seed(seed)
        state = torch.multinomial(self.initial, count, replacement=True, generator=generator)
        states, actions = [], []
        for _ in range(self.horizon):
            action = policy.sample(policy.at(parameters, state), generator)
            states.append(state)
            actions.append(action)
            state = torch.multinomial(self.transition[state, action], 1, generator=generator).squeeze(-1)
        visited, taken = torch.stack(states), torch.stack(actions)
        return Trajectories(visited, taken, self.reward[visited, taken])

    def enumerate(self, policy: Policy, parameters: Sequence[Tensor] | None = None) -> Trajectories:
        """All (S A)^H trajectories, (H, M), with probabilities (M,), so that averages are exact expectations."""
        pairs = list(product(range(self.states), range(self.actions)))
        table = torch.tensor(list(product(pairs, repeat=self.horizon))).permute(1, 0, 2)
        states, actions = table[..., 0].contiguous(), table[..., 1].contiguous()
        with torch.no_grad():
            chances = policy.log_prob(policy.at(parameters, states), actions).exp().prod(0)
        chances = chances * self.initial[states[0]]
        chances = chances * self.transition[states[:-1], actions[:-1], states[1:]].prod(0)
        return Trajectories(states, actions, self.reward[states, actions], probabilities=chances)

    def truncated_objective(self, probabilities: Tensor) -> Tensor:
        """J_H by dynamic programming; differentiable in ``probabilities`` (S, A) of the policy."""
        rewards = (probabilities * self.reward).sum(-1)
        moves = torch.einsum("sa,sat->st", probabilities, self.transition)
        law, total = self.initial, torch.zeros((), dtype=self.reward.dtype)
        for step in range(self.horizon):
            total = total + self.discount**step * law @ rewards
            law = law @ moves
        return total

    def objective(self, probabilities: Tensor) -> Tensor:
        """J = initial . (I - discount P_pi)^{-1} r_pi, (), of ``probabilities`` (S, A) of the policy."""
        return self.initial @ self._values(probabilities)

    def gradient(self, policy: TabularSoftmax) -> Tensor:
        """dJ/dtheta_{s,a} = d(s) pi(a|s) A(s,a) / (1 - discount), with d the discounted visitation, (S, A)."""
        probabilities = policy.logits.detach().softmax(-1)
        values = self._values(probabilities)
        moves = torch.einsum("sa,sat->st", probabilities, self.transition)
        visits = torch.linalg.solve(self._resolvent(moves).T, self.initial)
        advantages = self.reward + self.discount * self.transition @ values - values[:, None]
        return visits[:, None] * probabilities * advantages

    def optimal_value(self) -> float:
        """J* by enumeration of deterministic policies."""
        eye = torch.eye(self.actions, dtype=self.reward.dtype)
        choices = product(range(self.actions), repeat=self.states)
        return max(float(self.objective(eye[list(choice)])) for choice in choices)

    def _resolvent(self, moves: Tensor) -> Tensor:
        return torch.eye(self.states, dtype=moves.dtype) - self.discount * moves

    def _values(self, probabilities: Tensor) -> Tensor:
        moves = torch.einsum("sa,sat->st", probabilities, self.transition)
        return torch.linalg.solve(self._resolvent(moves), (probabilities * self.reward).sum(-1))

    def evaluate(
        self, policy: Policy, parameters: Sequence[Tensor], direction: Sequence[Tensor] | None, count: int, seed: int
    ) -> dict[str, Tensor]:
        """J_H, and how far exact expectations of the estimators, by enumeration, are from its derivatives.

        ``gradient_error`` and ``product_error`` are the largest absolute differences; the product is with a normal
        vector drawn from ``seed``.
        """
        logits = parameters[0].detach()
        everything = self.enumerate(policy, [logits])
        draw = torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed), dtype=logits.dtype)
        (gradient,) = gpomdp_gradient(everything, policy, self.discount, [logits])
        (product,) = hessian_vector_product(everything, policy, [draw], self.discount, [logits])

        def exact(values: Tensor) -> Tensor:
            return self.truncated_objective(values.softmax(-1))

        hessian = torch.func.hessian(exact)(logits).reshape(logits.numel(), -1)
        return {
            "objective": exact(logits),
            "gradient_error": (gradient - torch.func.grad(exact)(logits)).abs().max(),
            "product_error": (product.flatten() - hessian @ draw.flatten()).abs().max(),
        }


def random_mdp(seed: int = 0, states: int = 2, actions: int = 2, discount: float = 0.9, horizon: int = 3) -> TabularMDP:
    """Transition rows and first state uniform on the simplex, rewards uniform in [0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.rand(states * actions + 1, states, generator=generator, dtype=torch.float64).clamp(min=1e-12).log()
    rows = raw / raw.sum(-1, keepdim=True)
    reward = torch.rand(states, actions, generator=generator, dtype=torch.float64)
    return TabularMDP(rows[1:].view(states, actions, states), reward, rows[0], discount, horizon)

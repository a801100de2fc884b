"""Linear-quadratic control with linear Gaussian policies, batched over replicas, with its closed forms."""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from curvature.errors import ConfigError
from curvature.rl.policies import LinearGaussian, Policy
from curvature.rl.trajectories import Trajectories

Matrix = Sequence[Sequence[float]]


class LinearQuadratic:
    """s' = A s + B a + w, reward -(s^T Q s + a^T R a), a = K s + sigma e, in float64.

    The defaults are a contractive instance: A is stable by itself, so that one-trajectory estimates have moderate
    variance around K = 0. Every method takes weights K of shape (*B, m, n).

    Args:
        dynamics: A, (n, n).
        control: B, (n, m).
        state_cost: Q, (n, n), symmetric and >= 0.
        action_cost: R, (m, m), symmetric and > 0.
        noise: W = noise * I is the covariance of w.
        sigma: standard deviation of the policy.
        discount: in (0, 1).
        horizon: H, steps of a trajectory.

    Raises:
        ConfigError: shapes that do not fit, or a discount outside (0, 1).
    """

    def __init__(
        self,
        dynamics: Matrix = ((0.5, 0.3), (0.0, 0.6)),
        control: Matrix = ((0.0,), (1.0,)),
        state_cost: Matrix = ((1.0, 0.0), (0.0, 1.0)),
        action_cost: Matrix = ((0.5,),),
        noise: float = 0.01,
        sigma: float = 0.5,
        discount: float = 0.7,
        horizon: int = 20,
    ) -> None:
        tensors = (torch.tensor([list(row) for row in m], dtype=torch.float64) for m in (dynamics, control))
        self.a, self.b = tensors
        self.q = torch.tensor([list(row) for row in state_cost], dtype=torch.float64)
        self.r = torch.tensor([list(row) for row in action_cost], dtype=torch.float64)
        n, m = len(self.a), self.b.shape[-1]
        shapes = {"dynamics": (self.a, (n, n)), "control": (self.b, (n, m)), "state_cost": (self.q, (n, n))}
        for name, (matrix, shape) in (shapes | {"action_cost": (self.r, (m, m))}).items():
            if matrix.shape != shape:
                raise ConfigError(f"data.environment.{name}", tuple(matrix.shape), f"shape {shape}")
        if not 0 < discount < 1:
            raise ConfigError("data.environment.discount", discount, "in (0, 1)")
        self.noise, self.sigma, self.discount, self.horizon = noise, sigma, discount, horizon
        self.observations, self.actions = n, m
        eye = torch.eye(n, dtype=torch.float64)
        drive = noise * eye + sigma**2 * self.b @ self.b.T
        self.initial = eye + discount / (1 - discount) * drive
        self.optimum = self._riccati()
        self.optimal_value = float(self.objective(self.optimum))

    def policy(self, replicas: int | None = None) -> LinearGaussian:
        """The policy class whose exploration the closed forms assume, at K = 0."""
        return LinearGaussian(self.observations, self.actions, self.sigma, replicas)

    def rollout(self, policy: Policy, parameters: Sequence[Tensor] | None, count: int, seed: int) -> Trajectories:
        """``count`` trajectories of H steps for each replica, started from N(0, I)."""
        weight = cast(Tensor, policy.weight) if parameters is None else parameters[0]
        batch, n, m = weight.shape[:-2], self.observations, self.actions
        generator = torch.Generator().manual_seed(seed)
        draws = torch.randn(self.horizon, *batch, count, n + m, generator=generator, dtype=torch.float64)
        explore = self.sigma * draws[..., n:]
        # Shocks reach the next state; the first row of the draws is the start.
        shocks = math.sqrt(self.noise) * draws[1:, ..., :n] + explore[:-1] @ self.b.T
        closed = (self.a + self.b @ weight).mT
        state, states = draws[0, ..., :n], [draws[0, ..., :n]]
        step = torch.baddbmm if weight.ndim == 3 else _affine
        for shock in shocks:
            state = step(shock, state, closed)
            states.append(state)
        visited = torch.stack(states)
        actions = policy.at([weight], visited) + explore
        rewards = -_quadratic(visited, self.q) - _quadratic(actions, self.r)
        return Trajectories(visited, actions, rewards)

    def stable(self, weight: Tensor) -> Tensor:
        """Whether J is finite: spectral radius of A + B K below 1/sqrt(discount); (*B,). NaN is unstable."""
        closed = torch.nan_to_num(self.a + self.b @ weight, nan=1e6)
        return torch.linalg.eigvals(closed).abs().amax(-1) < 1 / math.sqrt(self.discount)

    def objective(self, weight: Tensor) -> Tensor:
        """J(K) = -[tr(P S_in) + sigma^2 tr R / (1 - discount)], (*B,); meaningless where unstable."""
        penalty = self.sigma**2 * self.r.trace() / (1 - self.discount)
        return -((self._cost_to_go(weight) @ self.initial).diagonal(dim1=-2, dim2=-1).sum(-1) + penalty)

    def truncated_objective(self, weight: Tensor) -> Tensor:
        """J_H(K), (*B,); differentiable."""
        closed = self.a + self.b @ weight
        cost = self.q + weight.mT @ self.r @ weight
        eye = torch.eye(self.observations, dtype=torch.float64)
        drive = self.noise * eye + self.sigma**2 * self.b @ self.b.T
        second, total = eye, torch.zeros((), dtype=torch.float64)
        for step in range(self.horizon):
            loss = (cost @ second).diagonal(dim1=-2, dim2=-1).sum(-1) + self.sigma**2 * self.r.trace()
            total = total - self.discount**step * loss
            second = closed @ second @ closed.mT + drive
        return total

    def gradient(self, weight: Tensor) -> Tensor:
        """grad J(K) = -2 [(R + g B^T P B) K + g B^T P A] S, (*B, m, n)."""
        to_go = self._cost_to_go(weight)
        inner = self.r + self.discount * self.b.T @ to_go @ self.b
        return -2 * (inner @ weight + self.discount * self.b.T @ to_go @ self.a) @ self.second_moment(weight)

    def second_moment(self, weight: Tensor) -> Tensor:
        """S = sum_h g^h E[s_h s_h^T], (*B, n, n)."""
        return self._discounted_sum(self.a + self.b @ weight, self.initial.expand(*weight.shape[:-2], -1, -1))

    def fisher_floor(self) -> float:
        """(1 - g) lambda_min(S_in) / sigma^2, a lower bound of the Fisher matrix at every K."""
        return (1 - self.discount) * float(torch.linalg.eigvalsh(self.initial)[0]) / self.sigma**2

    def evaluate(
        self, policy: Policy, parameters: Sequence[Tensor], direction: Sequence[Tensor] | None, count: int, seed: int
    ) -> dict[str, Tensor]:
        """For each replica ``gap`` J* - J and, of ``direction``, ``error`` |d - grad J|; infinite where unstable."""
        weight = parameters[0].detach()
        stable = self.stable(weight)
        safe = torch.where(stable[..., None, None], weight, torch.zeros_like(weight))
        metrics = {"gap": torch.where(stable, self.optimal_value - self.objective(safe), math.inf)}
        if direction is not None:
            error = torch.linalg.matrix_norm(direction[0] - self.gradient(safe))
            metrics["error"] = torch.where(stable & error.isfinite(), error, math.inf)
        return metrics

    def _riccati(self) -> Tensor:
        from scipy.linalg import solve_discrete_are

        root = math.sqrt(self.discount)
        solved = solve_discrete_are(root * self.a.numpy(), root * self.b.numpy(), self.q.numpy(), self.r.numpy())
        p = torch.from_numpy(solved)
        inner = self.r + self.discount * self.b.T @ p @ self.b
        return -torch.linalg.solve(inner, self.discount * self.b.T @ p @ self.a)

    def _cost_to_go(self, weight: Tensor) -> Tensor:
        cost = self.q + weight.mT @ self.r @ weight
        return self._discounted_sum((self.a + self.b @ weight).mT, cost)

    def _discounted_sum(self, closed: Tensor, start: Tensor) -> Tensor:
        """X = start + g M X M^T for M = ``closed``, by one linear solve of order n^2."""
        n = self.observations
        kron = torch.einsum("...ij,...kl->...ikjl", closed, closed).reshape(*closed.shape[:-2], n * n, n * n)
        system = torch.eye(n * n, dtype=torch.float64) - self.discount * kron
        solution = torch.linalg.solve(system, start.reshape(*start.shape[:-2], n * n, 1))
        return solution.reshape(*closed.shape[:-2], n, n)


def _affine(shock: Tensor, state: Tensor, closed: Tensor) -> Tensor:
    return shock + state @ closed


def _quadratic(vectors: Tensor, matrix: Tensor) -> Tensor:
    """v^T M v of the last axis. The sum is a product with ones: reductions over two or three numbers are slow."""
    return ((vectors @ matrix) * vectors) @ vectors.new_ones(vectors.shape[-1])

"""Gymnasium environments, many copies at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curvature.errors import ConfigError, near_matches
from curvature.rl.policies import GaussianMLP, Policy, SoftmaxMLP
from curvature.rl.trajectories import Trajectories


class GymEnvironment:
    """Episodes of one gymnasium environment, one a slot of a vector environment.

    A batched implementation (``vector_entry_point``) is used where the environment has one. An episode ends when the
    environment terminates or truncates it, or after ``horizon`` steps; time limits are part of the objective, so
    nothing is bootstrapped. What a slot does after its first end (vector environments start anew) is masked.

    Args:
        env_id: id in gymnasium's registry.
        horizon: H, longest episode; null takes the environment's own limit.
        discount: in (0, 1].
        options: keyword arguments of the environment.

    Raises:
        ConfigError: unknown id, spaces other than a box of vectors and discrete or box actions, no horizon.
    """

    def __init__(
        self,
        env_id: str,
        horizon: int | None = None,
        discount: float = 0.99,
        options: dict[str, Any] | None = None,
    ) -> None:
        import gymnasium

        if env_id not in gymnasium.registry:
            hint = near_matches(env_id, gymnasium.registry)
            raise ConfigError("data.environment.env_id", env_id, f"an id that gymnasium knows, e.g. {hint}")
        spec = gymnasium.registry[env_id]
        limit = spec.max_episode_steps
        if horizon is None and limit is None:
            raise ConfigError("data.environment.horizon", None, f"a number of steps: {env_id} has no limit of its own")
        if horizon is not None and horizon < 1:
            raise ConfigError("data.environment.horizon", horizon, "at least 1")
        if not 0 < discount <= 1:
            raise ConfigError("data.environment.discount", discount, "in (0, 1]")
        self.env_id, self.discount, self.options = env_id, discount, dict(options or {})
        self.horizon = int(min(horizon or limit, limit or horizon))  # type: ignore[type-var, arg-type]
        self.batched = spec.vector_entry_point is not None
        self._vectors: dict[int, Any] = {}
        vector = self._vector(1)
        observations, actions = vector.single_observation_space, vector.single_action_space
        self.discrete = isinstance(actions, gymnasium.spaces.Discrete)
        if not isinstance(observations, gymnasium.spaces.Box) or len(observations.shape) != 1:
            raise ConfigError("data.environment.env_id", env_id, "an environment whose observations are vectors")
        if not self.discrete and not isinstance(actions, gymnasium.spaces.Box):
            raise ConfigError("data.environment.env_id", env_id, "an environment with discrete or box actions")
        self.observations = int(observations.shape[0])
        self.actions = int(actions.n) if self.discrete else int(np.prod(actions.shape))
        self.bounds = None if self.discrete else (actions.low, actions.high)

    def policy(self, hidden: Sequence[int], generator: torch.Generator) -> Policy:
        """tanh network with a softmax or a Gaussian on top, as the actions ask for."""
        make = SoftmaxMLP if self.discrete else GaussianMLP
        return make(self.observations, self.actions, hidden, generator=generator)

    def rollout(self, policy: Policy, parameters: Sequence[Tensor] | None, count: int, seed: int) -> Trajectories:
        """``count`` episodes, begun anew; actions outside of a box are clipped for the environment only."""
        vector = self._vector(count)
        generator = torch.Generator().manual_seed(seed)
        states = np.zeros((self.horizon, count, self.observations), dtype=np.float32)
        shape = (self.horizon, count) if self.discrete else (self.horizon, count, self.actions)
        actions = np.zeros(shape, dtype=np.int64 if self.discrete else np.float32)
        rewards = np.zeros((self.horizon, count), dtype=np.float32)
        mask = np.zeros((self.horizon, count), dtype=bool)
        alive = np.ones(count, dtype=bool)
        observation, _ = vector.reset(seed=seed % 2**31)
        length = 0
        with torch.no_grad():
            while length < self.horizon and alive.any():
                states[length] = observation
                action = policy.sample(policy.at(parameters, torch.from_numpy(states[length])), generator).numpy()
                actions[length], mask[length] = action, alive
                taken = action if self.bounds is None else np.clip(action, *self.bounds)
                observation, rewards[length], ended, cut, _ = vector.step(taken)
                alive = alive & ~(ended | cut)
                length += 1
        states_t, actions_t, rewards_t, mask_t = (
            torch.from_numpy(array[:length]) for array in (states, actions, rewards, mask)
        )
        return Trajectories(states_t, actions_t, rewards_t, mask_t)

    def evaluate(
        self, policy: Policy, parameters: Sequence[Tensor], direction: Sequence[Tensor] | None, count: int, seed: int
    ) -> dict[str, Tensor]:
        """``return``: mean undiscounted return of ``count`` episodes at ``parameters``; ``length`` of an episode."""
        sample = self.rollout(policy, parameters, count, seed)
        assert sample.mask is not None
        return {"return": sample.returns().mean(), "length": sample.mask.sum(0).float().mean()}

    def _vector(self, count: int) -> Any:
        import gymnasium

        if count not in self._vectors:
            mode = "vector_entry_point" if self.batched else "sync"
            self._vectors[count] = gymnasium.make_vec(self.env_id, count, vectorization_mode=mode, **self.options)
        return self._vectors[count]

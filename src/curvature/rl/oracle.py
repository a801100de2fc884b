"""Fresh, counted samples of gradients and Hessian-vector products of one environment's objective."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from curvature.data.seeds import derive
from curvature.errors import ConfigError
from curvature.rl.estimators import ScoreTerm, gpomdp_gradient, hessian_vector_product, weighted_gradient_pair
from curvature.rl.policies import Policy
from curvature.rl.trajectories import Trajectories

COUNTS = ("trajectories", "steps", "gradients", "products", "ratios")


class Environment(Protocol):
    """What can be sampled."""

    discount: float

    def rollout(self, policy: Policy, parameters: Sequence[Tensor] | None, count: int, seed: int) -> Trajectories:
        """``count`` trajectories (for each replica) of the policy at ``parameters``; equal seeds, equal results."""


class PolicyOracle:
    """Every call samples anew at the parameters it is given, and estimates from that sample alone.

    The random numbers of a call are a function of ``seed`` and of the number of calls before it.

    Args:
        environment: what is sampled.
        policy: its structure; its own parameters are not used.
        count: trajectories M an estimate, at least 1.
        product_count: of a Hessian-vector product; None is ``count``. A single one has no baseline.
        leave_one_out: baseline, see :meth:`Trajectories.rewards_to_go`.
        score_term: see :func:`curvature.rl.estimators.hessian_vector_product`.
        seed: of all samples.

    Attributes:
        counts: so far, for each replica: ``trajectories``; estimates by kind: ``gradients``, Hessian-vector
            ``products``, importance-weight ``ratios`` (pairs of gradients); over all replicas: ``steps``.

    Raises:
        ConfigError: ``count`` too small.
    """

    def __init__(
        self,
        environment: Environment,
        policy: Policy,
        count: int = 1,
        leave_one_out: bool = False,
        score_term: ScoreTerm = "exact",
        seed: int = 0,
        product_count: int | None = None,
    ) -> None:
        if count < 1 or (leave_one_out and count < 2):
            raise ConfigError("data.trajectories", count, "at least 1, and 2 with the leave-one-out baseline")
        self.environment, self.policy, self.count = environment, policy, count
        self.product_count = count if product_count is None else product_count
        self.leave_one_out, self.score_term, self.seed = leave_one_out, score_term, seed
        self.calls = 0
        self.counts = dict.fromkeys(COUNTS, 0)

    def gradient(self, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """g(tau, theta) with tau sampled at theta."""
        self.counts["gradients"] += 1
        sample = self._sample(parameters, self.count)
        return gpomdp_gradient(sample, self.policy, self.environment.discount, parameters, self.leave_one_out)

    def hessian_vector_product(self, parameters: Sequence[Tensor], direction: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """B(tau, theta) u with tau sampled at theta."""
        self.counts["products"] += 1
        return hessian_vector_product(
            self._sample(parameters, self.product_count),
            self.policy,
            direction,
            self.environment.discount,
            parameters,
            self.leave_one_out and self.product_count > 1,
            self.score_term,
        )

    def gradient_pair(
        self, parameters: Sequence[Tensor], previous: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """g(tau, theta) and w g(tau, previous), both on one sample at theta."""
        self.counts["ratios"] += 1
        sample = self._sample(parameters, self.count)
        discount = self.environment.discount
        return weighted_gradient_pair(sample, self.policy, discount, parameters, previous, self.leave_one_out)

    def state_dict(self) -> dict[str, Any]:
        """Position in the random numbers, and the counts."""
        return {"calls": self.calls, "counts": dict(self.counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.calls, self.counts = int(state["calls"]), dict(state["counts"])

    def _sample(self, parameters: Sequence[Tensor], count: int) -> Trajectories:
        with torch.no_grad():
            seed = derive("rollout", self.seed, self.calls)
            sample = self.environment.rollout(self.policy, parameters, count, seed)
        self.calls += 1
        self.counts["trajectories"] += sample.count
        self.counts["steps"] += sample.steps
        return sample

"""Batches of trajectories, padded to one length and masked."""

from dataclasses import dataclass

import torch
from torch import Tensor

from curvature.errors import ConfigError


@dataclass(frozen=True)
class Trajectories:
    """M trajectories of at most H steps, for each of the replicas in the leading batch shape ``*B`` (often none).

    Attributes:
        states: (H, *B, M, ...) states in which actions were taken.
        actions: (H, *B, M, ...) actions.
        rewards: (H, *B, M) rewards; what stands after the end of a trajectory is ignored.
        mask: (H, *B, M), true for steps that were taken; None if every trajectory has H steps.
        probabilities: (*B, M) weights of the trajectories in an average; None is 1/M each.
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    mask: Tensor | None = None
    probabilities: Tensor | None = None

    @property
    def count(self) -> int:
        """M."""
        return int(self.rewards.shape[-1])

    @property
    def steps(self) -> int:
        """Environment steps taken, over all trajectories and replicas."""
        return self.rewards.numel() if self.mask is None else int(self.mask.sum())

    def masked(self, values: Tensor) -> Tensor:
        """``values`` (H, *B, M), and zero after the end of each trajectory."""
        return values if self.mask is None else torch.where(self.mask, values, torch.zeros_like(values))

    def returns(self, discount: float = 1.0) -> Tensor:
        """sum_h discount^h r_h, (*B, M)."""
        return self._discounted(discount).sum(0)

    def rewards_to_go(self, discount: float, leave_one_out: bool = False) -> Tensor:
        """Psi_h = sum over h' >= h of discount^h' r_h', (H, *B, M): discounted from the start, not from step h.

        Args:
            discount: in (0, 1].
            leave_one_out: subtract from each trajectory's Psi_h the mean of the other trajectories' Psi_h. This
                baseline is independent of the trajectory, so gradient and Hessian estimates stay unbiased.

        Raises:
            ConfigError: ``leave_one_out`` with a single trajectory.
        """
        to_go = self._discounted(discount).flip(0).cumsum(0).flip(0)
        if not leave_one_out:
            return to_go
        if self.count < 2:
            raise ConfigError("module.baseline", "leave_one_out", "none, or at least 2 trajectories an estimate")
        others = (to_go.sum(-1, keepdim=True) - to_go) / (self.count - 1)
        return self.masked(to_go - others)

    def average(self, values: Tensor) -> Tensor:
        """Mean, (*B,), over trajectories of ``values`` (*B, M), with ``probabilities`` if there are any."""
        return values.mean(-1) if self.probabilities is None else (self.probabilities * values).sum(-1)

    def _discounted(self, discount: float) -> Tensor:
        rewards = self.masked(self.rewards)
        powers = discount ** torch.arange(len(rewards), dtype=rewards.dtype, device=rewards.device)
        return rewards * powers.view(-1, *[1] * (rewards.ndim - 1))

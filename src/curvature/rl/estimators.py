"""Unbiased estimates of the policy gradient and of Hessian-vector products from trajectories.

Fatkhullin et al. (ICML 2023). All quantities are for ascent on the truncated objective
J_H(theta) = E sum_{h<H} discount^h r_h. Replicas are estimated in one call; each estimate depends on the parameters of
its replica only.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from curvature.rl.policies import Policy
from curvature.rl.trajectories import Trajectories

ScoreTerm = Literal["exact", "none", "negated", "official"]


def gpomdp_gradient(
    trajectories: Trajectories,
    policy: Policy,
    discount: float,
    parameters: Sequence[Tensor] | None = None,
    leave_one_out: bool = False,
) -> tuple[Tensor, ...]:
    """g = sum_h Psi_h grad log pi(a_h|s_h), averaged over trajectories (GPOMDP; Baxter and Bartlett 2001).

    Args:
        trajectories: sampled by the policy at ``parameters``.
        policy: gives log-probabilities.
        discount: in (0, 1].
        parameters: where to differentiate, ordered as ``policy.parameters()``; by default the policy's own.
        leave_one_out: see :meth:`Trajectories.rewards_to_go`.

    Returns:
        One tensor a parameter, of its shape; ascent direction.
    """
    with torch.enable_grad():
        leaves = _leaves(policy, parameters)
        log_probs = trajectories.masked(_log_probs(trajectories, policy, leaves))
        to_go = trajectories.rewards_to_go(discount, leave_one_out)
        surrogate = trajectories.average((to_go * log_probs).sum(0))
        return torch.autograd.grad(surrogate.sum(), leaves)


def hessian_vector_product(
    trajectories: Trajectories,
    policy: Policy,
    direction: Sequence[Tensor],
    discount: float,
    parameters: Sequence[Tensor] | None = None,
    leave_one_out: bool = False,
    score_term: ScoreTerm = "exact",
) -> tuple[Tensor, ...]:
    """B u = <grad log p(tau), u> g(tau) + grad <g(tau), u>, averaged over trajectories; E B u = Hessian of J_H times u.

    One forward pass with tangents and one reverse pass: the derivative of the log-probabilities along ``direction``
    gives the factor of the score term of each trajectory, and its own gradient is the curvature term. No Hessian and
    no Jacobian of single samples is formed.

    Args:
        trajectories: sampled by the policy at ``parameters``.
        policy: gives log-probabilities.
        direction: u, ordered and shaped as the parameters.
        discount: in (0, 1].
        parameters: where to differentiate, ordered as ``policy.parameters()``; by default the policy's own.
        leave_one_out: see :meth:`Trajectories.rewards_to_go`; used in both terms.
        score_term: ``exact``; for ablations ``none`` (leave the first term out) and ``negated``; ``official`` as in the
            authors' code: minus the mean of <score, u> over all steps, times the batch's mean gradient.

    Returns:
        One tensor a parameter, of its shape.
    """
    with torch.enable_grad():
        leaves = _leaves(policy, parameters)
        outputs, moved = policy.push(leaves, [part.detach() for part in direction], trajectories.states)
        log_probs = policy.log_prob(outputs, trajectories.actions)
        (slopes,) = torch.autograd.grad(log_probs.sum(), outputs, create_graph=True)
        along, log_probs = trajectories.masked((slopes * moved).sum(-1)), trajectories.masked(log_probs)
        to_go = trajectories.rewards_to_go(discount, leave_one_out)
        surrogate = (to_go * along).sum(0)
        if score_term != "none":
            surrogate = surrogate + _score_factor(trajectories, along.detach(), score_term) * (to_go * log_probs).sum(0)
        return torch.autograd.grad(trajectories.average(surrogate).sum(), leaves)


def weighted_gradient_pair(
    trajectories: Trajectories,
    policy: Policy,
    discount: float,
    parameters: Sequence[Tensor],
    previous: Sequence[Tensor],
    leave_one_out: bool = False,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """g at ``parameters``, where the trajectories were sampled, and w g at ``previous``.

    The importance weight w = p(tau|previous) / p(tau|parameters) of each trajectory makes the second one unbiased for
    the gradient at ``previous`` (Yuan et al. 2020).
    """
    with torch.enable_grad():
        to_go = trajectories.rewards_to_go(discount, leave_one_out)
        here, before = _leaves(policy, parameters), _leaves(policy, previous)
        log_here = trajectories.masked(_log_probs(trajectories, policy, here))
        log_before = trajectories.masked(_log_probs(trajectories, policy, before))
        weight = (log_before - log_here).detach().sum(0).exp()
        current = torch.autograd.grad(trajectories.average((to_go * log_here).sum(0)).sum(), here)
        surrogate = trajectories.average(weight * (to_go * log_before).sum(0)).sum()
        return current, torch.autograd.grad(surrogate, before)


def _score_factor(trajectories: Trajectories, along: Tensor, score_term: ScoreTerm) -> Tensor:
    """Factor of each trajectory's gradient, (*B, M), from <score, u> of every step, (H, *B, M)."""
    if score_term == "official":
        steps = along.shape[0] if trajectories.mask is None else trajectories.mask.sum(0)
        over = torch.as_tensor(steps, dtype=along.dtype).expand_as(along[0]).sum(-1, keepdim=True)
        return -(along.sum(0).sum(-1, keepdim=True) / over).expand_as(along[0])
    return along.sum(0) if score_term == "exact" else -along.sum(0)


def _leaves(policy: Policy, parameters: Sequence[Tensor] | None) -> list[Tensor]:
    source = policy.parameters() if parameters is None else parameters
    return [parameter.detach().requires_grad_() for parameter in source]


def _log_probs(trajectories: Trajectories, policy: Policy, parameters: Sequence[Tensor]) -> Tensor:
    return policy.log_prob(policy.at(parameters, trajectories.states), trajectories.actions)

"""Gradient and Hessian-vector estimators against exact expectations: oracles 8.1, 8.2, 8.8, 8.9."""

import numpy as np
import pytest
import torch

from curvature.rl import (
    GaussianMLP,
    SoftmaxMLP,
    TabularSoftmax,
    Trajectories,
    gpomdp_gradient,
    hessian_vector_product,
    weighted_gradient_pair,
)
from curvature.rl.policies import Categorical
from curvature.rl.tabular import TabularMDP

U = torch.tensor([[1.0, -2.0], [0.5, 0.25]], dtype=torch.float64)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture
def mdp():
    transition = tensor([[[0.7, 0.3], [0.2, 0.8]], [[0.5, 0.5], [0.9, 0.1]]])
    return TabularMDP(transition, tensor([[1.0, 0.0], [0.2, 0.6]]), tensor([0.6, 0.4]), discount=0.9, horizon=3)


@pytest.fixture
def policy():
    policy = TabularSoftmax(2, 2)
    policy.logits.data = tensor([[0.3, -0.2], [0.1, 0.5]])
    return policy


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, tensor(expected).view_as(actual), atol=tolerance, rtol=0)


def j_h(mdp):
    return lambda logits: mdp.truncated_objective(logits.softmax(-1))


def test_objectives_of_the_two_state_mdp(mdp, policy):
    probabilities = policy.logits.detach().softmax(-1)
    assert float(mdp.truncated_objective(probabilities)) == pytest.approx(1.4892152901397417, abs=1e-13)
    assert float(mdp.objective(probabilities)) == pytest.approx(5.496109783937584, abs=1e-12)
    assert mdp.optimal_value() == pytest.approx(8.949152542372882, abs=1e-12)


def test_enumerated_gradient_is_exact(mdp, policy):
    everything = mdp.enumerate(policy)
    assert everything.count == 64
    assert float(everything.probabilities.sum()) == pytest.approx(1, abs=1e-14)
    (gradient,) = gpomdp_gradient(everything, policy, mdp.discount)
    close(gradient, [0.402741026437, -0.402741026437, -0.114498600370, 0.114498600370], 1e-11)
    exact = torch.func.grad(j_h(mdp))(policy.logits.detach())
    torch.testing.assert_close(gradient, exact, atol=1e-12, rtol=0)


def test_enumerated_hessian_vector_product_is_exact(mdp, policy):
    everything = mdp.enumerate(policy)
    (product,) = hessian_vector_product(everything, policy, [U], mdp.discount)
    close(product, [-0.137360766172, 0.137360766172, -0.017852409510, 0.017852409510], 1e-11)
    hessian = torch.func.hessian(j_h(mdp))(policy.logits.detach()).reshape(4, 4)
    torch.testing.assert_close(product.flatten(), hessian @ U.flatten(), atol=1e-12, rtol=0)


def test_score_term_alone(mdp, policy):
    everything = mdp.enumerate(policy)
    (both,) = hessian_vector_product(everything, policy, [U], mdp.discount)
    (curvature,) = hessian_vector_product(everything, policy, [U], mdp.discount, score_term="none")
    (negated,) = hessian_vector_product(everything, policy, [U], mdp.discount, score_term="negated")
    close(both - curvature, [1.153839182121, -1.153839182121, 0.044789507673, -0.044789507673], 1e-11)
    torch.testing.assert_close(negated, 2 * curvature - both, atol=1e-12, rtol=0)


def single(everything, index):
    return Trajectories(*(x[:, index : index + 1] for x in (everything.states, everything.actions, everything.rewards)))


def test_covariance_of_one_trajectory(mdp, policy):
    everything = mdp.enumerate(policy)
    each = torch.stack([gpomdp_gradient(single(everything, i), policy, mdp.discount)[0].flatten() for i in range(64)])
    mean = everything.probabilities @ each
    trace = (everything.probabilities @ each.square() - mean.square()).sum()
    assert float(trace) == pytest.approx(1.4777314007561486, abs=1e-12)


def test_batch_averages_products_not_means(mdp, policy):
    everything = mdp.enumerate(policy)
    pick = [3, 17, 40]
    batch = Trajectories(*(x[:, pick] for x in (everything.states, everything.actions, everything.rewards)))
    (together,) = hessian_vector_product(batch, policy, [U], mdp.discount)
    each = [hessian_vector_product(single(everything, i), policy, [U], mdp.discount)[0] for i in pick]
    torch.testing.assert_close(together, torch.stack(each).mean(0), atol=1e-13, rtol=0)


def test_discount_counts_from_the_start(mdp, policy):
    everything = mdp.enumerate(policy)
    exact = torch.func.grad(j_h(mdp))(policy.logits.detach())
    restarted = everything.rewards_to_go(mdp.discount) / mdp.discount ** torch.arange(3.0).double()[:, None]
    log_probs = policy.log_prob(policy(everything.states), everything.actions)
    (biased,) = torch.autograd.grad((everything.probabilities * (restarted * log_probs).sum(0)).sum(), policy.logits)
    assert float((biased - exact).norm()) > 0.01


def test_closed_form_gradient_of_the_infinite_horizon(mdp, policy):
    closed = mdp.gradient(policy)
    exact = torch.func.grad(lambda logits: mdp.objective(logits.softmax(-1)))(policy.logits.detach())
    torch.testing.assert_close(closed, exact, atol=1e-12, rtol=0)
    assert float(closed.sum(-1).abs().max()) < 1e-12


def test_softmax_fisher_is_singular(mdp, policy):
    probabilities = policy.logits.detach().softmax(-1)
    fisher = torch.zeros(4, 4, dtype=torch.float64)
    for state in range(2):
        for action in range(2):
            score = torch.zeros(2, 2, dtype=torch.float64)
            score[state] -= probabilities[state]
            score[state, action] += 1
            fisher += 0.5 * probabilities[state, action] * torch.outer(score.flatten(), score.flatten())
    assert int(torch.linalg.matrix_rank(fisher)) == mdp.states * (mdp.actions - 1)


def test_gauss_legendre_along_a_segment_is_the_change_of_the_gradient(mdp, policy):
    start, end = policy.logits.detach(), policy.logits.detach() + U
    nodes, weights = np.polynomial.legendre.leggauss(12)
    total = torch.zeros_like(start)
    for node, weight in zip((nodes + 1) / 2, weights / 2):
        at = [start + node * (end - start)]
        everything = mdp.enumerate(policy, at)
        (product,) = hessian_vector_product(everything, policy, [end - start], mdp.discount, at)
        total += weight * product
    gradient = torch.func.grad(j_h(mdp))
    torch.testing.assert_close(total, gradient(end) - gradient(start), atol=1e-12, rtol=0)


class StateMLP(Categorical):
    """An MLP on one-hot states."""

    def __init__(self):
        super().__init__()
        self.mlp = SoftmaxMLP(2, 2, [3], torch.Generator().manual_seed(0)).double()
        for parameter in self.mlp.parameters():
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)).double()

    def forward(self, states):
        return self.mlp(torch.nn.functional.one_hot(states, 2).double())


def test_mlp_product_is_linear_symmetric_and_the_dense_hessian(mdp):
    policy = StateMLP()
    everything = mdp.enumerate(policy)
    parameters = [p.detach() for p in policy.parameters()]
    sizes = [p.numel() for p in parameters]

    def unflatten(vector):
        return [part.view_as(p) for part, p in zip(vector.split(sizes), parameters)]

    def product(vector):
        found = hessian_vector_product(everything, policy, unflatten(vector), mdp.discount)
        return torch.cat([part.flatten() for part in found])

    def exact(vector):
        return mdp.truncated_objective(policy.at(unflatten(vector), torch.arange(2)).softmax(-1))

    flat = torch.cat([p.flatten() for p in parameters])
    u, w = (torch.randn(len(flat), generator=torch.Generator().manual_seed(s)).double() for s in (2, 3))
    torch.testing.assert_close(product(2 * u - 3 * w), 2 * product(u) - 3 * product(w), atol=1e-12, rtol=1e-12)
    assert float(w @ product(u)) == pytest.approx(float(u @ product(w)), abs=1e-12)
    hessian = torch.func.hessian(exact)(flat)
    torch.testing.assert_close(product(u), hessian @ u, atol=1e-11, rtol=0)


def test_leave_one_out_baseline_is_unbiased(mdp, policy):
    horizon_one = TabularMDP(mdp.transition, mdp.reward, mdp.initial, mdp.discount, horizon=1)
    everything = horizon_one.enumerate(policy)
    chances = everything.probabilities
    gradient, product = torch.zeros(2, 2).double(), torch.zeros(2, 2).double()
    for i in range(everything.count):
        for j in range(everything.count):
            pair = Trajectories(*(x[:, [i, j]] for x in (everything.states, everything.actions, everything.rewards)))
            chance = chances[i] * chances[j]
            gradient += chance * gpomdp_gradient(pair, policy, 0.9, leave_one_out=True)[0]
            product += chance * hessian_vector_product(pair, policy, [U], 0.9, leave_one_out=True)[0]
    exact = j_h(horizon_one)
    torch.testing.assert_close(gradient, torch.func.grad(exact)(policy.logits.detach()), atol=1e-13, rtol=0)
    hessian = torch.func.hessian(exact)(policy.logits.detach()).reshape(4, 4)
    torch.testing.assert_close(product.flatten(), hessian @ U.flatten(), atol=1e-13, rtol=0)


def test_importance_weighted_gradient_is_unbiased_for_the_earlier_point(mdp, policy):
    here = [policy.logits.detach()]
    before = [here[0] - 0.3 * U]
    everything = mdp.enumerate(policy, here)
    current, previous = weighted_gradient_pair(everything, policy, mdp.discount, here, before)
    exact = torch.func.grad(j_h(mdp))
    torch.testing.assert_close(current[0], exact(here[0]), atol=1e-12, rtol=0)
    torch.testing.assert_close(previous[0], exact(before[0]), atol=1e-12, rtol=0)


def test_what_stands_after_the_end_of_an_episode_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    policy = GaussianMLP(3, 2, [5], generator=generator).double()
    states, actions = (torch.randn(6, 2, k, generator=generator).double() for k in (3, 2))
    rewards = torch.randn(6, 2, generator=generator).double()
    mask = torch.ones(6, 2, dtype=torch.bool)
    mask[3:, 1] = False
    direction = [torch.randn(p.shape, generator=generator).double() for p in policy.parameters()]

    def estimates(trajectories):
        return gpomdp_gradient(trajectories, policy, 0.9) + hessian_vector_product(trajectories, policy, direction, 0.9)

    padded = estimates(Trajectories(states, actions, rewards, mask))
    alone = [
        estimates(Trajectories(states[:length, i : i + 1], actions[:length, i : i + 1], rewards[:length, i : i + 1]))
        for i, length in ((0, 6), (1, 3))
    ]
    for both, first, second in zip(padded, *alone):
        torch.testing.assert_close(both, (first + second) / 2, atol=1e-12, rtol=0)


def test_product_agrees_with_double_backward_for_a_gaussian_mlp():
    generator = torch.Generator().manual_seed(0)
    policy = GaussianMLP(3, 2, [5], generator=generator).double()
    states, actions = (torch.randn(4, 1, k, generator=generator).double() for k in (3, 2))
    trajectory = Trajectories(states, actions, torch.randn(4, 1, generator=generator).double())
    parameters = list(policy.parameters())
    direction = [torch.randn(p.shape, generator=generator).double() for p in parameters]
    log_probs = policy.log_prob(policy(states), actions)
    surrogate = (trajectory.rewards_to_go(0.9) * log_probs).sum()
    gradient = torch.autograd.grad(surrogate, parameters, create_graph=True)
    score = torch.autograd.grad(log_probs.sum(), parameters, retain_graph=True)
    factor = sum((s * u).sum() for s, u in zip(score, direction))
    curvature = torch.autograd.grad(sum((g * u).sum() for g, u in zip(gradient, direction)), parameters)
    found = hessian_vector_product(trajectory, policy, direction, 0.9)
    for part, g, c in zip(found, gradient, curvature):
        torch.testing.assert_close(part, factor * g.detach() + c, atol=1e-11, rtol=1e-11)


def test_sampled_trajectories_follow_the_law_that_is_enumerated(mdp, policy):
    sample = mdp.rollout(policy, None, 200_000, seed=0)
    (estimate,) = gpomdp_gradient(sample, policy, mdp.discount)
    exact = torch.func.grad(j_h(mdp))(policy.logits.detach())
    assert float((estimate - exact).norm()) < 4 * (1.4777314007561486 / 200_000) ** 0.5
    (product,) = hessian_vector_product(sample, policy, [U], mdp.discount)
    close(product, [-0.137360766172, 0.137360766172, -0.017852409510, 0.017852409510], 0.06)


@pytest.mark.parametrize("make", [SoftmaxMLP, GaussianMLP])
def test_written_derivatives_of_networks_are_those_of_forward_mode(make):
    generator = torch.Generator().manual_seed(0)
    policy = make(3, 2, [5, 4], generator=generator).double()
    for parameter in policy.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    parameters = [p.detach() for p in policy.parameters()]
    direction = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
    states = torch.randn(6, 2, 3, generator=generator, dtype=torch.float64)
    outputs, along = policy.push(parameters, direction, states)
    exact = torch.func.jvp(lambda *at: policy.at(at, states), tuple(parameters), tuple(direction))
    torch.testing.assert_close((outputs, along), exact, atol=1e-13, rtol=0)


def test_official_score_term_is_minus_the_mean_over_steps_times_the_mean_gradient(mdp, policy):
    everything = mdp.enumerate(policy)
    pick = [5, 21, 60]
    mask = torch.ones(3, 3, dtype=torch.bool)
    mask[2, 1] = mask[1:, 2] = False
    tensors = (x[:, pick] for x in (everything.states, everything.actions, everything.rewards))
    batch = Trajectories(*tensors, mask)
    (gradient,) = gpomdp_gradient(batch, policy, mdp.discount)
    (curvature,) = hessian_vector_product(batch, policy, [U], mdp.discount, score_term="none")
    (official,) = hessian_vector_product(batch, policy, [U], mdp.discount, score_term="official")

    def mean_log_prob(logits):
        return policy.log_prob(logits[batch.states], batch.actions)[mask].mean()

    slope = (torch.func.grad(mean_log_prob)(policy.logits.detach()) * U).sum()
    torch.testing.assert_close(official, curvature - slope * gradient, atol=1e-13, rtol=0)

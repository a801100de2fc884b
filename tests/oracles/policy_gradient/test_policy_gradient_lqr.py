"""Closed forms of linear-quadratic control: oracle 8.3."""

import pytest
import torch

from curvature.errors import ConfigError
from curvature.rl import gpomdp_gradient, hessian_vector_product
from curvature.rl.lqr import LinearQuadratic

K = torch.tensor([[-0.1, 0.05]], dtype=torch.float64)
ZERO = torch.zeros(1, 2, dtype=torch.float64)


def close(actual, expected, tolerance=1e-11):
    expected = torch.as_tensor(expected, dtype=torch.float64).view_as(actual)
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def test_known_values():
    lqr = LinearQuadratic()
    close(lqr.optimum, [-0.035689843524, -0.397691059941])
    assert lqr.optimal_value == pytest.approx(-3.5851207088665147, abs=1e-12)
    close(lqr.objective(ZERO), -4.056249388900171)
    close(lqr.gradient(ZERO), [-0.621115153976, -2.878238064397])
    close(lqr.objective(K), -4.174513958417994)
    close(lqr.gradient(K), [-0.079402517289, -3.289280125057])


def test_gradient_vanishes_at_the_optimum_and_is_autograd_elsewhere():
    lqr = LinearQuadratic()
    assert float(lqr.gradient(lqr.optimum).norm()) < 1e-12
    torch.testing.assert_close(lqr.gradient(K), torch.func.grad(lqr.objective)(K), atol=1e-11, rtol=0)


def test_truncated_objective_tends_to_the_objective():
    gaps = [
        abs(float(LinearQuadratic(horizon=h).truncated_objective(K) - LinearQuadratic().objective(K)))
        for h in (5, 10, 20, 80)
    ]
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] < 1e-11


def test_optimum_does_not_depend_on_exploration():
    close(LinearQuadratic(sigma=0.1).optimum, LinearQuadratic(sigma=2.0).optimum)


def test_gradient_dominance_and_fisher_floor():
    lqr = LinearQuadratic()
    grid = torch.cartesian_prod(*[torch.linspace(-0.8, 0.8, 23, dtype=torch.float64)] * 2)[:, None, :]
    grid = grid[lqr.stable(grid)]
    gap, gradient = lqr.optimal_value - lqr.objective(grid), lqr.gradient(grid)
    floor = float(torch.linalg.eigvalsh(lqr.initial)[0])
    ceiling = float(torch.linalg.matrix_norm(lqr.second_moment(lqr.optimum), 2))
    bound = ceiling * gradient.square().sum((-1, -2)) / (4 * floor**2 * 0.5)
    assert len(grid) > 400 and bool((gap >= -1e-12).all()) and bool((gap <= bound).all())
    weak = gap / gradient.square().sum((-1, -2)).sqrt()
    assert 0 < float(weak.max()) < 0.64
    fisher = (1 - lqr.discount) * torch.linalg.eigvalsh(lqr.second_moment(grid))[:, 0] / lqr.sigma**2
    assert lqr.fisher_floor() > 0 and bool((fisher >= lqr.fisher_floor() - 1e-12).all())


def test_replicas_are_independent_and_equal_single_problems():
    lqr = LinearQuadratic()
    policy = lqr.policy(replicas=3)
    weights = torch.stack([ZERO, K, lqr.optimum])
    sample = lqr.rollout(policy, [weights], count=4, seed=5)
    direction = [torch.ones_like(weights)]
    gradient = gpomdp_gradient(sample, policy, lqr.discount, [weights])[0]
    product = hessian_vector_product(sample, policy, direction, lqr.discount, [weights])[0]
    single = lqr.policy()
    for index in range(3):
        own = type(sample)(sample.states[:, index], sample.actions[:, index], sample.rewards[:, index])
        at = [weights[index]]
        torch.testing.assert_close(gradient[index], gpomdp_gradient(own, single, lqr.discount, at)[0])
        expected = hessian_vector_product(own, single, [torch.ones(1, 2).double()], lqr.discount, at)[0]
        torch.testing.assert_close(product[index], expected)


def test_score_and_curvature_are_those_of_the_gaussian():
    lqr = LinearQuadratic()
    policy = lqr.policy()
    sample = lqr.rollout(policy, [K], count=1, seed=1)
    explore = (sample.actions - sample.states @ K.T)[:, 0]
    to_go = sample.rewards_to_go(lqr.discount)
    expected = (to_go * explore * sample.states[:, 0]).sum(0) / lqr.sigma**2
    torch.testing.assert_close(gpomdp_gradient(sample, policy, lqr.discount, [K])[0][0], expected)
    u = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    (curvature,) = hessian_vector_product(sample, policy, [u], lqr.discount, [K], score_term="none")
    states = sample.states[:, 0]
    exact = -(to_go[:, 0, None] * states * (states @ u[0])[:, None]).sum(0) / lqr.sigma**2
    torch.testing.assert_close(curvature[0], exact)


def test_sampled_estimates_are_unbiased():
    lqr = LinearQuadratic(horizon=4)
    policy = lqr.policy()
    u = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    gradients, products = [], []
    for seed in range(200):
        sample = lqr.rollout(policy, [K], count=1000, seed=seed)
        gradients.append(gpomdp_gradient(sample, policy, lqr.discount, [K], leave_one_out=True)[0][0])
        products.append(hessian_vector_product(sample, policy, [u], lqr.discount, [K], leave_one_out=True)[0][0])
    hessian = torch.func.hessian(lqr.truncated_objective)(K).reshape(2, 2)
    for draws, exact in (
        (torch.stack(gradients), torch.func.grad(lqr.truncated_objective)(K)[0]),
        (torch.stack(products), hessian @ u[0]),
    ):
        error = draws.std(0) / len(draws) ** 0.5
        assert bool(((draws.mean(0) - exact).abs() < 4 * error).all())
        assert bool((error < 0.1 * exact.norm()).all())


def test_fisher_matrix_of_samples_is_that_of_the_closed_form():
    """F = (1 - g) sum_h g^h E[psi psi^T], whose least eigenvalue the floor bounds at every policy."""
    lqr = LinearQuadratic(horizon=60)
    sample = lqr.rollout(lqr.policy(), [K], count=50_000, seed=3)
    scores = (sample.actions - sample.states @ K.T) * sample.states / lqr.sigma**2
    powers = (1 - lqr.discount) * lqr.discount ** torch.arange(60, dtype=torch.float64)
    single = torch.einsum("h,hmi,hmj->mij", powers, scores, scores)
    exact = (1 - lqr.discount) * lqr.second_moment(K) / lqr.sigma**2
    assert bool(((single.mean(0) - exact).abs() < 4 * single.std(0) / len(single) ** 0.5).all())
    assert float(torch.linalg.eigvalsh(exact)[0]) > lqr.fisher_floor() > 1


def test_unstable_weights_have_an_infinite_gap():
    lqr = LinearQuadratic()
    weights = torch.tensor([[[0.0, 5.0]], [[0.0, 0.0]]], dtype=torch.float64)
    metrics = lqr.evaluate(lqr.policy(2), [weights], [weights], 1, 0)
    assert metrics["gap"].isinf().tolist() == [True, False] == metrics["error"].isinf().tolist()


@pytest.mark.parametrize("bad", [{"discount": 1.0}, {"control": ((1.0, 0.0),)}, {"action_cost": ((1.0, 0.0),)}])
def test_bad_arguments(bad):
    with pytest.raises(ConfigError, match=r"data\.environment"):
        LinearQuadratic(**bad)

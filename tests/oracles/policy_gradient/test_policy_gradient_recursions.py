"""Exact error recursions of the methods on noise-free functions, scale and path: oracles 8.4 to 8.7."""

import math

import pytest
import torch
from torch import nn

from curvature.errors import ConfigError
from curvature.optim.policy_gradient import HARPG, NPGIGT, SHARP, MomentumPG, NormalizedPG, StormPG, VanillaPG
from curvature.rl import PolicyOracle
from curvature.rl.cubic import Cubic, CubicOracle
from curvature.rl.lqr import LinearQuadratic

C = 1.5


class Quadratic:
    """-f'(x) = -(H x + b), counting where it was asked."""

    def __init__(self, size=5):
        generator = torch.Generator().manual_seed(0)
        root = torch.randn(size, size, generator=generator, dtype=torch.float64)
        self.hessian, self.offset = root @ root.T, torch.randn(size, generator=generator, dtype=torch.float64)

    def gradient(self, parameters):
        return (-(self.hessian @ parameters[0] + self.offset),)

    def hessian_vector_product(self, parameters, direction):
        return (-self.hessian @ direction[0],)

    def gradient_pair(self, parameters, previous):
        return self.gradient(parameters), self.gradient(previous)


@pytest.mark.parametrize("eta_power", [0.3, 0.8, 1.0])
@pytest.mark.parametrize("make", [NPGIGT, HARPG, SHARP, lambda *a, **k: HARPG(*a, normalized=False, **k)])
def test_direction_is_the_exact_gradient_on_a_quadratic(make, eta_power):
    problem, x = Quadratic(), nn.Parameter(torch.ones(5, dtype=torch.float64))
    optimizer = make([x], problem, lr=0.02, eta_power=eta_power)
    for _ in range(40):
        (exact,) = problem.gradient([x.detach().clone()])
        optimizer.step()
        torch.testing.assert_close(optimizer.direction[0], exact, atol=1e-11, rtol=0)


def test_momentum_is_stale_on_a_quadratic():
    problem, x = Quadratic(), nn.Parameter(torch.ones(5, dtype=torch.float64))
    optimizer, worst = MomentumPG([x], problem, lr=0.02), 0.0
    for _ in range(40):
        (exact,) = problem.gradient([x.detach().clone()])
        optimizer.step()
        worst = max(worst, float((optimizer.direction[0] - exact).norm()))
    assert worst > 1e-2


def errors(optimizer, cubic, point, steps):
    """Iterates x_t and d_t + f'(x_t)."""
    xs, es = [], []
    for _ in range(steps):
        x = point.x.detach().clone()
        optimizer.step()
        xs.append(x)
        es.append(optimizer.direction[0] - cubic.gradient(x))
    return xs, es


def test_igt_error_recursion_on_the_cubic():
    cubic = Cubic(quadratic=C, replicas=3)
    point = cubic.start(0)
    optimizer = NPGIGT(point.parameters(), CubicOracle(cubic), lr=0.1, replicas=True)
    xs, es = errors(optimizer, cubic, point, 300)
    assert float(es[0].abs().max()) == 0
    for t in range(1, 300):
        eta = optimizer.eta(t)
        # The objective is -f: the sign of the curvature is turned.
        expected = (1 - eta) * es[t - 1] - C / 2 * (1 - eta) / eta * (xs[t] - xs[t - 1]) ** 2
        torch.testing.assert_close(es[t], expected, atol=1e-12, rtol=0)


def test_official_variant_looks_ahead_with_the_eta_before():
    cubic = Cubic(quadratic=C, replicas=1)
    asked = []

    class Spy(CubicOracle):
        def gradient(self, parameters):
            asked.append(parameters[0].clone())
            return super().gradient(parameters)

    point = cubic.start(0)
    optimizer = NPGIGT(point.parameters(), Spy(cubic), lr=0.1, variant="official", replicas=True)
    xs, _ = errors(optimizer, cubic, point, 6)
    for t in range(1, 6):
        eta = optimizer.eta(t - 1)
        torch.testing.assert_close(asked[t], xs[t] + (1 - eta) / eta * (xs[t] - xs[t - 1]))
    with pytest.raises(ConfigError, match=r"optimizer\.variant"):
        NPGIGT(point.parameters(), Spy(cubic), variant="other")


def test_harpg_error_recursion_on_the_cubic():
    cubic = Cubic(quadratic=C, replicas=3)
    point = cubic.start(0)
    optimizer = HARPG(point.parameters(), CubicOracle(cubic), lr=0.1, replicas=True, seed=4)
    xs, es = errors(optimizer, cubic, point, 200)
    for t in range(1, 200):
        q = optimizer._uniform(t, xs[0])[:, None]
        expected = (1 - optimizer.eta(t)) * (es[t - 1] - C * (q - 0.5) * (xs[t] - xs[t - 1]) ** 2)
        torch.testing.assert_close(es[t], expected, atol=1e-12, rtol=0)


def lqr_path(make, reward_scale=1.0, steps=30):
    lqr = LinearQuadratic()
    lqr.q, lqr.r = lqr.q * reward_scale, lqr.r * reward_scale
    policy = lqr.policy(replicas=2)
    optimizer = make(policy.parameters(), PolicyOracle(lqr, policy, seed=3), lr=0.1, replicas=True)
    path = [policy.weight.detach().clone()]
    for _ in range(steps):
        optimizer.step()
        path.append(policy.weight.detach().clone())
    return torch.stack(path), optimizer


@pytest.mark.parametrize("make", [NPGIGT, HARPG, SHARP, MomentumPG, NormalizedPG])
def test_normalised_methods_do_not_see_the_scale_of_rewards_and_step_exactly_gamma(make):
    path, optimizer = lqr_path(make)
    scaled, _ = lqr_path(make, reward_scale=64.0)
    torch.testing.assert_close(path, scaled, atol=1e-10, rtol=0)
    lengths = (path[1:] - path[:-1]).flatten(2).norm(dim=-1)
    gammas = torch.tensor([optimizer.gamma(t) for t in range(30)], dtype=torch.float64)
    torch.testing.assert_close(lengths, gammas[:, None].expand(-1, 2), atol=1e-12, rtol=0)
    if make in (NPGIGT, HARPG, MomentumPG):
        assert float(lengths.sum(0).max()) <= 2 * 0.1 * math.log(31)


def test_vanilla_sees_the_scale_of_rewards():
    path, _ = lqr_path(VanillaPG, steps=3)
    scaled, _ = lqr_path(VanillaPG, reward_scale=4.0, steps=3)
    assert float((path - scaled).abs().max()) > 1e-2


def test_storm_on_a_quadratic_is_exact():
    problem, x = Quadratic(), nn.Parameter(torch.ones(5, dtype=torch.float64))
    optimizer = StormPG([x], problem, lr=0.01)
    for _ in range(20):
        (exact,) = problem.gradient([x.detach().clone()])
        optimizer.step()
        torch.testing.assert_close(optimizer.direction[0], exact, atol=1e-11, rtol=0)


def test_zero_direction_takes_no_step():
    x = nn.Parameter(torch.zeros(2, 1, dtype=torch.float64))
    optimizer = NormalizedPG([x], CubicOracle(Cubic()), replicas=True)
    optimizer.step()
    assert x.tolist() == [[0.0], [0.0]] and optimizer.iteration == 1


@pytest.mark.parametrize("make", [VanillaPG, NormalizedPG, MomentumPG, NPGIGT, HARPG, SHARP, StormPG])
def test_state_dict_resumes_bit_for_bit(make):
    def fresh():
        lqr = LinearQuadratic()
        policy = lqr.policy(replicas=2)
        oracle = PolicyOracle(lqr, policy, seed=1)
        return policy, oracle, make(policy.parameters(), oracle, lr=0.02, replicas=True, seed=2)

    policy, _, optimizer = fresh()
    for _ in range(10):
        optimizer.step()
    other, oracle, resumed = fresh()
    _, first_oracle, first = (straight := fresh())
    for _ in range(4):
        first.step()
    other.load_state_dict(straight[0].state_dict())
    oracle.load_state_dict(first_oracle.state_dict())
    resumed.load_state_dict(first.state_dict())
    for _ in range(6):
        resumed.step()
    assert torch.equal(policy.weight, other.weight)


@pytest.mark.parametrize(
    ("make", "arguments", "key"),
    [
        (VanillaPG, {"lr": 0.0}, "lr"),
        (NPGIGT, {"eta_power": -1.0}, "eta_power"),
        (StormPG, {"momentum": 0.0}, "momentum"),
    ],
)
def test_bad_arguments(make, arguments, key):
    with pytest.raises(ConfigError, match=rf"optimizer\.{key}"):
        make([nn.Parameter(torch.zeros(1))], CubicOracle(Cubic()), **arguments)

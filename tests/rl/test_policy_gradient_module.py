"""The module, its environments and what its runs report, through the engine where that is what runs."""

import json
import math

import pytest
import torch
from torch.overrides import TorchFunctionMode

from curvature.benchmark import peak_bytes
from curvature.errors import ConfigError
from curvature.optim.policy_gradient import HARPG, NPGIGT, StormPG
from curvature.rl import PolicyOracle, SoftmaxMLP
from curvature.rl.gym import GymEnvironment
from curvature.rl.instruments import LargestTensor
from curvature.rl.lqr import LinearQuadratic
from curvature.rl.tabular import random_mdp


@pytest.fixture(scope="module")
def cartpole():
    return GymEnvironment("CartPole-v1", horizon=60)


def make_policy(environment, seed=0, hidden=(8,)):
    return environment.policy(hidden, torch.Generator().manual_seed(seed))


def test_rollouts_are_a_function_of_the_seed(cartpole):
    policy = make_policy(cartpole)
    first, second, other = (cartpole.rollout(policy, None, 5, seed) for seed in (1, 1, 2))
    assert torch.equal(first.states, second.states) and torch.equal(first.actions, second.actions)
    assert first.states.shape != other.states.shape or not torch.equal(first.states, other.states)


def test_steps_after_an_end_are_masked_and_states_follow_one_episode(cartpole):
    import gymnasium

    sample = cartpole.rollout(make_policy(cartpole), None, 20, seed=3)
    lengths = sample.mask.sum(0)
    assert bool((sample.mask[:-1] | ~sample.mask[1:]).all())
    assert int(lengths.max()) == len(sample.mask) and len(lengths.unique()) > 3
    assert torch.equal(sample.returns(), lengths.float())
    assert sample.steps == int(lengths.sum())
    env = gymnasium.make("CartPole-v1").unwrapped
    for slot in range(3):
        env.reset(seed=0)
        env.state = sample.states[0, slot].double().numpy()
        for step in range(int(lengths[slot])):
            torch.testing.assert_close(
                sample.states[step, slot].double(), torch.as_tensor(env.state).double(), atol=1e-4, rtol=1e-4
            )
            _, _, ended, _, _ = env.step(int(sample.actions[step, slot]))
            assert ended == (step == int(lengths[slot]) - 1 and int(lengths[slot]) < 60)


def test_environments_without_a_batched_implementation_and_box_actions():
    reacher = GymEnvironment("Reacher-v5")
    assert not reacher.batched and reacher.horizon == 50 and reacher.actions == 2
    sample = reacher.rollout(make_policy(reacher), None, 3, seed=0)
    assert sample.rewards.shape == (50, 3) and sample.steps == 150
    assert float(sample.rewards.sum()) < 0
    acrobot = GymEnvironment("Acrobot-v1", horizon=20)
    assert acrobot.rollout(make_policy(acrobot), None, 2, seed=0).steps == 40


@pytest.mark.parametrize(
    ("task", "observations", "actions"),
    [("HalfCheetah", 17, 6), ("Hopper", 11, 3), ("Walker2d", 17, 6), ("Swimmer", 8, 2), ("Humanoid", 348, 17)],
)
def test_mujoco_tasks_of_the_paper_give_gradients_and_products(task, observations, actions):
    environment = GymEnvironment(f"{task}-v5", horizon=4)
    assert (environment.observations, environment.actions) == (observations, actions)
    policy = make_policy(environment)
    oracle = PolicyOracle(environment, policy, count=2, leave_one_out=True)
    optimizer = HARPG(policy.parameters(), oracle, lr=0.1)
    for _ in range(2):
        optimizer.step()
    assert oracle.counts["steps"] == 3 * 2 * 4 and oracle.counts["products"] == 1
    assert all(bool(part.isfinite().all()) for part in optimizer.direction)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"env_id": "CartPool-v1"}, "env_id"),
        ({"env_id": "CartPole-v1", "horizon": 0}, "horizon"),
        ({"env_id": "CartPole-v1", "discount": 1.5}, "discount"),
        ({"env_id": "FrozenLake-v1"}, "env_id"),
    ],
)
def test_environments_that_cannot_work(arguments, key):
    with pytest.raises(ConfigError, match=rf"data\.environment\.{key}"):
        GymEnvironment(**arguments)


class Operations(TorchFunctionMode):
    """Names of the torch functions called, and whether second derivatives were prepared."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.add(getattr(func, "__name__", str(func)))
        if (kwargs or {}).get("create_graph"):
            self.names.add("create_graph")
        return func(*args, **(kwargs or {}))


def test_igt_draws_one_trajectory_an_iteration_without_second_order_information_or_ratios():
    lqr = LinearQuadratic()
    policy = lqr.policy()
    oracle = PolicyOracle(lqr, policy)
    optimizer = NPGIGT(policy.parameters(), oracle)
    with Operations() as operations:
        for _ in range(25):
            optimizer.step()
    assert oracle.counts["trajectories"] == oracle.counts["gradients"] == 25
    assert oracle.counts["products"] == oracle.counts["ratios"] == 0
    forbidden = {"create_graph", "make_dual", "_make_dual", "exp"}
    assert not forbidden & operations.names
    for make in (HARPG, StormPG):
        policy = lqr.policy()
        other = make(policy.parameters(), PolicyOracle(lqr, policy), lr=0.01)
        with Operations() as operations:
            for _ in range(2):
                other.step()
        assert forbidden & operations.names, "what is looked for would be seen"


def test_harpg_draws_two_trajectories_an_iteration_and_storm_one_with_a_ratio():
    lqr = LinearQuadratic()
    for make, trajectories, products, ratios in ((HARPG, 49, 24, 0), (StormPG, 25, 0, 24)):
        policy = lqr.policy()
        oracle = PolicyOracle(lqr, policy)
        optimizer = make(policy.parameters(), oracle, lr=0.01)
        for _ in range(25):
            optimizer.step()
        assert oracle.counts["trajectories"] == trajectories
        assert (oracle.counts["products"], oracle.counts["ratios"]) == (products, ratios)


def test_look_ahead_trajectory_is_sampled_away_from_the_parameters_which_stay():
    lqr = LinearQuadratic()
    policy = lqr.policy()
    sampled = []

    class Spy(PolicyOracle):
        def _sample(self, parameters, count):
            sampled.append((parameters[0].clone(), policy.weight.detach().clone()))
            return super()._sample(parameters, count)

    optimizer = NPGIGT(policy.parameters(), Spy(lqr, policy), lr=0.1)
    weights = []
    for _ in range(5):
        weights.append(policy.weight.detach().clone())
        optimizer.step()
    for t in range(1, 5):
        at, stands = sampled[t]
        assert torch.equal(stands, weights[t])
        eta = optimizer.eta(t)
        torch.testing.assert_close(at, weights[t] + (1 - eta) / eta * (weights[t] - weights[t - 1]))


def test_memory_is_linear_in_the_number_of_parameters(cartpole):
    sizes, states = [], []
    for hidden in ((8, 8), (32, 32), (96, 96)):
        policy = make_policy(cartpole, hidden=hidden)
        oracle = PolicyOracle(cartpole, policy, count=2)
        optimizer = HARPG(policy.parameters(), oracle, lr=0.01)
        optimizer.step()
        with LargestTensor() as instrument:
            optimizer.step()
        size = sum(p.numel() for p in policy.parameters())
        held = sum(t.numel() for state in optimizer.state.values() for t in state.values())
        sizes.append(size)
        states.append(size + held)
        activations = cartpole.horizon * 2 * max(hidden)
        assert instrument.elements <= max(activations, max(p.numel() for p in policy.parameters()))
    assert [state / size for state, size in zip(states, sizes)] == [3.0, 3.0, 3.0]


@pytest.mark.parametrize("make", [NPGIGT, HARPG])
def test_peak_memory_of_an_iteration_is_linear_in_the_number_of_parameters(make):
    """Activations of 2 x 5 steps grow with the width only; what grows with the parameters is a few copies of them."""
    short = GymEnvironment("CartPole-v1", horizon=5)
    sizes, peaks = [], []
    for width in (128, 256, 512):
        policy = make_policy(short, hidden=(width, width))
        optimizer = make(policy.parameters(), PolicyOracle(short, policy, count=2), lr=0.01)
        optimizer.step()
        sizes.append(4 * sum(p.numel() for p in policy.parameters()))
        peaks.append(peak_bytes(optimizer.step))
    assert all(peak < 7 * size for size, peak in zip(sizes, peaks))
    growth = [math.log(b / a) for a, b in (peaks[:2], peaks[1:])]
    assert growth == pytest.approx([math.log(b / a) for a, b in (sizes[:2], sizes[1:])], rel=0.1)


def test_products_may_take_fewer_trajectories_than_gradients(cartpole):
    policy = make_policy(cartpole)
    oracle = PolicyOracle(cartpole, policy, count=10, leave_one_out=True, product_count=1)
    optimizer = HARPG(policy.parameters(), oracle, lr=0.01)
    for _ in range(4):
        optimizer.step()
    assert oracle.counts["trajectories"] == 10 + 3 * 11
    assert all(bool(part.isfinite().all()) for part in optimizer.direction)


def test_estimators_of_a_random_mdp_are_exact_by_enumeration():
    mdp = random_mdp(7)
    from curvature.rl import TabularSoftmax

    measured = mdp.evaluate(TabularSoftmax(2, 2), [torch.randn(2, 2, dtype=torch.float64)], None, 1, 0)
    assert float(measured["gradient_error"]) < 1e-13 and float(measured["product_error"]) < 1e-13


def test_softmax_policy_probabilities_sum_to_one_and_sampling_follows_them():
    policy = SoftmaxMLP(3, 4, [5], torch.Generator().manual_seed(0))
    outputs = policy(torch.randn(1, 3, generator=torch.Generator().manual_seed(1)))
    actions = torch.arange(4)[:, None]
    probabilities = policy.log_prob(outputs.expand(4, 1, 4), actions).exp().flatten()
    assert float(probabilities.detach().sum()) == pytest.approx(1, abs=1e-6)
    draws = policy.sample(outputs.expand(20000, 4), torch.Generator().manual_seed(2))
    torch.testing.assert_close(draws.bincount(minlength=4) / 20000, probabilities.detach(), atol=0.015, rtol=0)


def results(tmp_path):
    (run,) = (tmp_path / "outputs" / "runs" / "policy_gradient").glob("*/run.json")
    return json.loads(run.read_text())["metrics"]


def test_run_on_lqr_reports_slopes_and_counts(command, tmp_path):
    done = command(
        "run.py", "experiment=policy_gradient", "data=lqr", "data.replicas=8", "max_steps=6", "data.chunk=50", "lr=0.1",
        "module.records=40", "tracking=offline", "trainer.enable_progress_bar=false",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics = results(tmp_path)
    assert metrics["count/trajectories"] == metrics["count/gradients"] == 300
    assert metrics["memory/state"] == 3
    assert -1 < metrics["error/slope"] < 0 and metrics["gap/final"] < 0.47


def test_a_run_that_diverges_ends_with_what_its_policy_is_worth(command, tmp_path):
    done = command(
        "run.py", "experiment=policy_gradient", "data=mujoco", "optimizer=harpg", "lr=0.1", "seed=100", "max_steps=20",
        "module.records=2", "tracking=offline", "trainer.enable_progress_bar=false",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics = results(tmp_path)
    assert metrics["unstable"] == 1 and math.isfinite(metrics["return/final"])
    assert metrics["return/final"] < metrics["return/largest"]


def test_bad_score_term_is_refused_before_anything_is_spent(command):
    done = command("run.py", "experiment=policy_gradient", "module.score_term=other", "tracking=offline")
    assert done.returncode != 0 and "module.score_term" in done.stderr + done.stdout

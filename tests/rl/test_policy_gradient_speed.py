"""Cost of the methods in units of what they cannot do without; ratios of processor time, medians over turns."""

import statistics
import time

import torch

from curvature.optim.policy_gradient import HARPG, NPGIGT, VanillaPG
from curvature.rl import PolicyOracle, SoftmaxMLP, Trajectories, gpomdp_gradient, hessian_vector_product
from curvature.rl.gym import GymEnvironment
from curvature.rl.lqr import LinearQuadratic


def median_ratio(base, other, turns):
    def cost(call):
        start = time.process_time()
        call()
        return time.process_time() - start

    base(), other()
    return statistics.median(cost(other) / cost(base) for _ in range(turns))


def test_hessian_vector_product_costs_less_than_three_gradients():
    generator = torch.Generator().manual_seed(0)
    policy = SoftmaxMLP(4, 2, [32, 32], generator)
    actions = torch.randint(0, 2, (200, 16), generator=generator)
    sample = Trajectories(torch.randn(200, 16, 4, generator=generator), actions, torch.ones(200, 16))
    direction = [torch.randn(p.shape, generator=generator) for p in policy.parameters()]
    ratio = median_ratio(
        lambda: gpomdp_gradient(sample, policy, 0.99),
        lambda: hessian_vector_product(sample, policy, direction, 0.99),
        turns=60,
    )
    assert ratio < 3


def test_harpg_iteration_costs_at_most_two_rollouts_and_four_gradients():
    environment = GymEnvironment("CartPole-v1", horizon=200)
    policy = environment.policy([32, 32], torch.Generator().manual_seed(0))
    parameters = [p.detach() for p in policy.parameters()]
    oracle = PolicyOracle(environment, policy, count=16, leave_one_out=True)
    optimizer = HARPG([p.clone().requires_grad_() for p in parameters], oracle, lr=1e-6)

    def floor():
        for seed in range(2):
            sample = environment.rollout(policy, parameters, 16, seed)
            for _ in range(2):
                gpomdp_gradient(sample, policy, 0.99, parameters, leave_one_out=True)

    assert min(median_ratio(floor, optimizer.step, turns=20) for _ in range(3)) < 1


def test_igt_iteration_costs_at_most_a_tenth_more_than_a_vanilla_one():
    def iterations(make):
        lqr = LinearQuadratic()
        policy = lqr.policy(64)
        optimizer = make(policy.parameters(), PolicyOracle(lqr, policy), lr=0.001, replicas=True)

        def run():
            for _ in range(20):
                optimizer.step()

        return run

    assert median_ratio(iterations(VanillaPG), iterations(NPGIGT), turns=60) < 1.1

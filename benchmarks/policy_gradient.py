"""Policy-gradient costs: LQR against a gymnasium loop, products and look-aheads in gradients, sampling against SB3.

    python benchmarks/policy_gradient.py [--repetitions N] [--json FILE]

LQR: environment steps a second of whole vanilla iterations (sample, estimate, step) of 64 replicas, against sampling
alone of the same problem and policy as a gymnasium environment that is stepped in a loop.
Products: a Hessian-vector product over a gradient, on the same 16 CartPole trajectories of 200 steps, MLP 32-32.
IGT: an N-PG-IGT iteration over a vanilla one on LQR. HARPG: the same ratio; it draws twice and adds a product. On
CartPole it is measured over two rollouts and four gradients, below which it cannot get by much.
Sampling: environment steps a second of CartPole by 16 slots with an MLP 32-32, against the rollout collector of
stable-baselines3's A2C with as many environments and the same network. Both count steps of live episodes only.
One CPU thread; all sides take turns, medians are reported.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env

from curvature.benchmark import Row, interleaved, main, median_ratio
from curvature.optim.policy_gradient import HARPG, NPGIGT, VanillaPG
from curvature.rl import PolicyOracle, SoftmaxMLP, Trajectories, gpomdp_gradient, hessian_vector_product
from curvature.rl.gym import GymEnvironment
from curvature.rl.lqr import LinearQuadratic

REPLICAS, ITERATIONS, SLOTS, HORIZON = 64, 50, 16, 200


class GymLQR(gymnasium.Env):  # type: ignore[type-arg]
    """The same problem, one step at a time."""

    def __init__(self, lqr: LinearQuadratic) -> None:
        self.a, self.b, self.q, self.r = (m.numpy() for m in (lqr.a, lqr.b, lqr.q, lqr.r))
        self.deviation, self.horizon = np.sqrt(lqr.noise), lqr.horizon
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (lqr.observations,), np.float64)
        self.action_space = gymnasium.spaces.Box(-np.inf, np.inf, (lqr.actions,), np.float64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state, self.step_count = self.np_random.standard_normal(2), 0
        return self.state, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = -(self.state @ self.q @ self.state + action @ self.r @ action)
        shock = self.deviation * self.np_random.standard_normal(2)
        self.state = self.a @ self.state + self.b @ action + shock
        self.step_count += 1
        return self.state, float(reward), False, self.step_count == self.horizon, {}


def iterations(make: Any) -> Callable[[], None]:
    lqr = LinearQuadratic()
    policy = lqr.policy(REPLICAS)
    optimizer = make(policy.parameters(), PolicyOracle(lqr, policy), lr=0.002, replicas=True)

    def run() -> None:
        for _ in range(ITERATIONS):
            optimizer.step()

    return run


def measure_lqr(repetitions: int) -> dict[str, float]:
    """Steps a second of both sides, and iteration ratios."""
    lqr, rng = LinearQuadratic(), np.random.default_rng(0)
    env, episodes = GymLQR(lqr), 20

    def loop() -> None:
        weight = np.zeros((1, 2))
        for episode in range(episodes):
            state, _ = env.reset(seed=episode)
            for _ in range(lqr.horizon):
                state, *_ = env.step(weight @ state + lqr.sigma * rng.standard_normal(1))

    makers = {"vanilla": VanillaPG, "igt": NPGIGT, "harpg": HARPG}
    times = interleaved({name: iterations(make) for name, make in makers.items()} | {"loop": loop}, repetitions)
    batched = [REPLICAS * lqr.horizon * ITERATIONS / seconds for seconds in times["vanilla"]]
    looped = [episodes * lqr.horizon / seconds for seconds in times["loop"]]
    return {
        "batched_steps_per_s": statistics.median(batched),
        "gymnasium_loop_steps_per_s": statistics.median(looped),
        "speedup": median_ratio(batched, looped),
        "igt_over_vanilla": median_ratio(times["igt"], times["vanilla"]),
        "n_harpg_over_vanilla": median_ratio(times["harpg"], times["vanilla"]),
    }


def measure_product(repetitions: int) -> dict[str, float]:
    """Milliseconds of gradient and product, and their ratio."""
    generator = torch.Generator().manual_seed(0)
    policy = SoftmaxMLP(4, 2, [32, 32], generator)
    states = torch.randn(HORIZON, SLOTS, 4, generator=generator)
    actions = torch.randint(0, 2, (HORIZON, SLOTS), generator=generator)
    full = torch.ones(HORIZON, SLOTS)
    sample = Trajectories(states, actions, full, full.bool())
    direction = [torch.randn(p.shape, generator=generator) for p in policy.parameters()]
    sides: dict[str, Callable[[], Any]] = {
        "gradient": lambda: gpomdp_gradient(sample, policy, 0.99, leave_one_out=True),
        "product": lambda: hessian_vector_product(sample, policy, direction, 0.99, leave_one_out=True),
    }
    times = interleaved(sides, 10 * repetitions, warmup=5)
    return {
        "gradient_ms": 1000 * statistics.median(times["gradient"]),
        "product_ms": 1000 * statistics.median(times["product"]),
        "ratio": median_ratio(times["product"], times["gradient"]),
    }


def measure_sampling(repetitions: int) -> dict[str, float]:
    """Steps a second of our rollouts and of SB3's collector."""
    environment = GymEnvironment("CartPole-v1", HORIZON)
    policy = environment.policy([32, 32], torch.Generator().manual_seed(0))
    vector = make_vec_env("CartPole-v1", SLOTS, seed=0)
    model = A2C("MlpPolicy", vector, n_steps=64, device="cpu", seed=0, policy_kwargs={"net_arch": [32, 32]})
    _, callback = model._setup_learn(10**9, None)

    def collect() -> int:
        model.collect_rollouts(vector, callback, model.rollout_buffer, 64)
        return 64 * SLOTS

    def rate(sample: Callable[[], int]) -> float:
        start = time.perf_counter()
        steps = sample()
        return steps / (time.perf_counter() - start)

    seed = iter(range(10**6))
    sides = [lambda: sum(environment.rollout(policy, None, SLOTS, next(seed)).steps for _ in range(8)), collect]
    rounds = [[rate(side) for side in sides] for _ in range(repetitions + 1)][1:]
    return {
        "steps_per_s": statistics.median(a for a, _ in rounds),
        "sb3_steps_per_s": statistics.median(b for _, b in rounds),
        "ratio": statistics.median(a / b for a, b in rounds),
    }


def measure_harpg(repetitions: int) -> dict[str, float]:
    """An N-HARPG iteration over two rollouts and four gradients, on CartPole."""
    environment = GymEnvironment("CartPole-v1", HORIZON)
    policy = environment.policy([32, 32], torch.Generator().manual_seed(0))
    parameters = [p.detach() for p in policy.parameters()]
    oracle = PolicyOracle(environment, policy, count=SLOTS, leave_one_out=True)
    optimizer = HARPG([p.clone().requires_grad_() for p in parameters], oracle, lr=1e-6)

    def floor() -> None:
        for seed in range(2):
            sample = environment.rollout(policy, parameters, SLOTS, seed)
            for _ in range(2):
                gpomdp_gradient(sample, policy, 0.99, parameters, leave_one_out=True)

    times = interleaved({"harpg": optimizer.step, "floor": floor}, 5 * repetitions, warmup=2)
    milliseconds = 1000 * statistics.median(times["harpg"])
    return {"iteration_ms": milliseconds, "ratio": median_ratio(times["harpg"], times["floor"])}


def measure(repetitions: int = 7) -> dict[str, Any]:
    """All comparisons, on one thread."""
    torch.set_num_threads(1)
    return {
        "lqr": measure_lqr(repetitions),
        "product": measure_product(repetitions),
        "harpg": measure_harpg(repetitions),
        "sampling": measure_sampling(repetitions),
    }


def rows(result: dict[str, Any]) -> list[Row]:
    """LQR against a loop and against a million steps a second; products, look-aheads and sampling."""
    lqr, product, sampling = result["lqr"], result["product"], result["sampling"]
    rate = f"{lqr['batched_steps_per_s'] / 1e6:.2f} M steps/s, the loop {lqr['gymnasium_loop_steps_per_s'] / 1e6:.3f} M"
    collected = f"{sampling['steps_per_s']:.0f} steps/s, {sampling['sb3_steps_per_s']:.0f} steps/s"
    return [
        Row("LQR environment step", "a gymnasium loop", 1 / lqr["speedup"], None, rate),
        Row("LQR environment step", "a million a second", 1e6 / lqr["batched_steps_per_s"], 1.0, rate),
        Row("Hessian-vector product", "gradient", product["ratio"], 3.0, f"{product['product_ms']:.2f} ms"),
        Row("N-PG-IGT iteration", "vanilla policy gradient", lqr["igt_over_vanilla"], 1.1, "LQR, 64 replicas"),
        Row(
            "N-HARPG iteration",
            "vanilla policy gradient",
            lqr["n_harpg_over_vanilla"],
            None,
            "draws twice, one product",
        ),
        Row("N-HARPG iteration", "2 rollouts, 4 gradients", result["harpg"]["ratio"], 1.0, "CartPole, 16 episodes"),
        Row("CartPole environment step", "stable-baselines3", 1 / sampling["ratio"], 1.0, collected),
    ]


if __name__ == "__main__":
    main(__doc__, measure, rows)

"""Policy-gradient costs: LQR against a gymnasium loop, products and look-aheads in gradients, sampling against SB3.

    python benchmarks/policy_gradient.py [--repetitions N] [--json FILE]

LQR: environment steps a second of whole vanilla iterations (sample, estimate, step) of 64 replicas, against sampling
alone of the same problem and policy as a gymnasium environment that is stepped in a loop.
Products: a Hessian-vector product over a gradient, on the same 16 CartPole trajectories of 200 steps, MLP 32-32.
IGT: an N-PG-IGT iteration over a vanilla one on LQR. HARPG: the same ratio; it draws twice and adds a product. On
CartPole it is measured over two rollouts and four gradients, below which it cannot get by much.
Estimator: the gradient of those trajectories, returns and baseline included, against the backward pass of
stable-baselines3's A2C on as many states with its advantages given: its policy's loss, and its whole loss with the
critic's, which is another network of the same size.
Sampling: environment steps a second of CartPole by 16 slots with an MLP 32-32, against the rollout collector of
stable-baselines3's A2C with as many environments and the same network, and against a loop over single gymnasium
environments with our policy, one state at a time. All count steps of live episodes only.
One CPU thread; all sides take turns, medians are reported.
"""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from curvature.benchmark import Row, interleaved, main, median_ratio, peak_bytes
from curvature.optim.policy_gradient import HARPG, NPGIGT, VanillaPG
from curvature.rl import Policy, PolicyOracle, SoftmaxMLP, Trajectories, gpomdp_gradient, hessian_vector_product
from curvature.rl.gym import GymEnvironment
from curvature.rl.lqr import LinearQuadratic

REPLICAS, ITERATIONS, SLOTS, HORIZON = 64, 50, 16, 200
WIDTHS = [32, 32]
SB3, LOOP = "stable-baselines3", "a loop over single gymnasium environments"
ACTOR, WHOLE = "stable-baselines3's A2C, policy loss", "stable-baselines3's A2C, whole loss"


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


def measure_product(repetitions: int) -> dict[str, Any]:
    """Milliseconds of gradient and product and their ratio, and of stable-baselines3's gradients, or why not."""
    generator = torch.Generator().manual_seed(0)
    policy = SoftmaxMLP(4, 2, WIDTHS, generator)
    states = torch.randn(HORIZON, SLOTS, 4, generator=generator)
    actions = torch.randint(0, 2, (HORIZON, SLOTS), generator=generator)
    full = torch.ones(HORIZON, SLOTS)
    sample = Trajectories(states, actions, full, full.bool())
    direction = [torch.randn(p.shape, generator=generator) for p in policy.parameters()]
    sides: dict[str, Callable[[], Any]] = {
        "gradient": lambda: gpomdp_gradient(sample, policy, 0.99, leave_one_out=True),
        "product": lambda: hessian_vector_product(sample, policy, direction, 0.99, leave_one_out=True),
    }
    unavailable = ""
    try:
        sides |= a2c_gradients(states, actions)
    except Exception as error:  # a peer that cannot run is shown as such
        unavailable = f"{type(error).__name__}: {error}"
    times = interleaved(sides, 10 * repetitions, warmup=5)
    peak = peak_bytes(sides["gradient"])
    return {
        "gradient_ms": 1000 * statistics.median(times["gradient"]),
        "product_ms": 1000 * statistics.median(times["product"]),
        "ratio": median_ratio(times["product"], times["gradient"]),
        "unavailable": unavailable,
        "peers": {
            name: {
                "ms": 1000 * statistics.median(times[name]),
                "ratio": median_ratio(times["gradient"], times[name]),
                "memory": peak / peak_bytes(sides[name]),
            }
            for name in (ACTOR, WHOLE)
            if name in times
        },
    }


def a2c() -> Any:
    """stable-baselines3's A2C on 16 CartPoles, with the network of our policy and another of its size as the critic."""
    from stable_baselines3 import A2C
    from stable_baselines3.common.env_util import make_vec_env

    vector = make_vec_env("CartPole-v1", SLOTS, seed=0)
    return A2C("MlpPolicy", vector, n_steps=64, device="cpu", seed=0, policy_kwargs={"net_arch": WIDTHS})


def a2c_gradients(states: Tensor, actions: Tensor) -> dict[str, Callable[[], Any]]:
    """Backward passes of A2C's losses as its ``train`` computes them, without clipping and step."""
    model = a2c()
    flat, taken, ones = states.flatten(0, 1), actions.flatten(), torch.ones(actions.numel())

    def gradient(whole: bool) -> None:
        values, log_probabilities, entropy = model.policy.evaluate_actions(flat, taken)
        loss = -(ones * log_probabilities).mean()
        if whole:
            critic = nn.functional.mse_loss(ones, values.flatten())
            loss = loss - model.ent_coef * entropy.mean() + model.vf_coef * critic
        model.policy.optimizer.zero_grad()
        loss.backward()

    sides = {ACTOR: partial(gradient, False), WHOLE: partial(gradient, True)}
    for side in sides.values():
        side()
    return sides


def measure_sampling(repetitions: int) -> dict[str, Any]:
    """Steps a second of our rollouts, of a loop over single environments and of SB3's collector, or why not."""
    environment = GymEnvironment("CartPole-v1", HORIZON)
    policy = environment.policy(WIDTHS, torch.Generator().manual_seed(0))
    seed = iter(range(10**6))
    sides: dict[str, Callable[[], int]] = {
        "ours": lambda: sum(environment.rollout(policy, None, SLOTS, next(seed)).steps for _ in range(8)),
        LOOP: single_episodes(policy),
    }
    unavailable = ""
    try:
        sides[SB3] = a2c_collector()
    except Exception as error:  # a peer that cannot run is shown as such
        unavailable = f"{type(error).__name__}: {error}"
    steps: dict[str, list[int]] = {name: [] for name in sides}

    def sample(name: str) -> None:
        steps[name].append(sides[name]())

    times = interleaved({name: partial(sample, name) for name in sides}, repetitions)
    rates = {name: [n / s for n, s in zip(steps[name][1:], times[name], strict=True)] for name in sides}
    return {
        "steps_per_s": {name: statistics.median(found) for name, found in rates.items()},
        "ratios": {name: median_ratio(rates[name], rates["ours"]) for name in rates if name != "ours"},
        "unavailable": unavailable,
    }


def single_episodes(policy: Policy, episodes: int = 8) -> Callable[[], int]:
    """A loop over episodes and steps of one environment, with one evaluation of ``policy`` a step."""
    env, seeds, generator = gymnasium.make("CartPole-v1"), iter(range(10**6)), torch.Generator().manual_seed(0)

    def sample() -> int:
        steps = 0
        with torch.no_grad():
            for _ in range(episodes):
                state, _ = env.reset(seed=next(seeds))
                for _ in range(HORIZON):
                    action = policy.sample(policy(torch.from_numpy(state)[None]), generator)
                    state, _, ended, cut, _ = env.step(int(action))
                    steps += 1
                    if ended or cut:
                        break
        return steps

    return sample


def a2c_collector() -> Callable[[], int]:
    """64 steps of each environment by A2C's rollout collector."""
    model = a2c()
    _, callback = model._setup_learn(10**9, None)

    def collect() -> int:
        model.collect_rollouts(model.env, callback, model.rollout_buffer, 64)
        return 64 * SLOTS

    return collect


def measure_harpg(repetitions: int) -> dict[str, float]:
    """An N-HARPG iteration over two rollouts and four gradients, on CartPole."""
    environment = GymEnvironment("CartPole-v1", HORIZON)
    policy = environment.policy(WIDTHS, torch.Generator().manual_seed(0))
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
    """LQR against a loop and against a million steps a second; products, look-aheads, estimators and sampling."""
    lqr, product, sampling = result["lqr"], result["product"], result["sampling"]
    rate = f"{lqr['batched_steps_per_s'] / 1e6:.2f} M steps/s, the loop {lqr['gymnasium_loop_steps_per_s'] / 1e6:.3f} M"
    found = [
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
    ]
    estimator, step = "gradient of 16 CartPole episodes", "CartPole environment step"
    for name, peer in product["peers"].items():
        note = f"{product['gradient_ms']:.2f} ms with returns and baseline, {peer['ms']:.2f} ms with advantages given"
        found.append(Row(estimator, name, peer["ratio"], None, note, peer["memory"]))
    if product["unavailable"]:
        found.append(Row(estimator, SB3, None, None, product["unavailable"]))
    limits = {SB3: 1.0}
    for name, ratio in sampling["ratios"].items():
        collected = f"{sampling['steps_per_s']['ours']:.0f} and {sampling['steps_per_s'][name]:.0f} steps/s"
        found.append(Row(step, name, ratio, limits.get(name), collected))
    if sampling["unavailable"]:
        found.append(Row(step, SB3, None, limits[SB3], sampling["unavailable"]))
    return found


if __name__ == "__main__":
    main(__doc__, measure, rows)

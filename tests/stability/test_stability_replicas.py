"""Replicas against one net at a time under torch.optim.SGD; independence, rest, divergence, resume."""

import copy

import pytest
import torch
from torch import nn

from curvature.errors import ConfigError
from curvature.models.stability_nets import DiagonalLinearNet, TwoLayerReLUNet
from curvature.stability import Recipe, Replicas, batch_order, spread
from curvature.stability.autograd import AutogradFamily
from curvature.stability.problems import Problem, relu_teacher, sparse_regression

RATES = (0.003, 0.01, 0.02)


class Mlp(nn.Sequential):
    def __init__(self, generator: torch.Generator) -> None:
        super().__init__(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 1), nn.Flatten(0))
        self.double()
        for parameter in self.parameters():
            parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)

    @property
    def family(self) -> AutogradFamily:
        return AutogradFamily(self)


def make(kind: str, seed: int) -> tuple[nn.Module, Problem]:
    generator = torch.Generator().manual_seed(seed)
    if kind == "diagonal":
        return DiagonalLinearNet(8, generator=generator), sparse_regression(seed, dim=8, samples=12)
    problem = relu_teacher(seed, dim=8, samples=12, units=3)
    if kind == "relu":
        return TwoLayerReLUNet(8, 6, generator), problem
    return Mlp(generator), problem


KINDS = ("diagonal", "relu", "mlp")


def start(kind: str, seeds: tuple[int, ...] = (0,), **recipe) -> tuple[Replicas, list[nn.Module], list[Problem]]:
    nets, problems = zip(*(make(kind, seed) for seed in seeds))
    names = [name for name, _ in nets[0].named_parameters()]
    initial = {name: torch.stack([dict(net.named_parameters())[name].detach() for net in nets]) for name in names}
    chosen = Recipe(**({"rates": RATES, "total_steps": 10_000} | recipe))
    replicas = Replicas(
        nets[0].family,
        spread(initial, len(chosen.rates)),
        torch.stack([p.inputs for p in problems]),
        torch.stack([p.targets for p in problems]),
        seeds,
        chosen,
    )
    return replicas, list(nets), list(problems)


def descend_alone(net, problem, seed, rate, steps, batch_size, clip) -> tuple[nn.Module, int]:
    net = copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=rate)
    order = None if batch_size is None else batch_order(seed, 0, steps, len(problem.inputs), batch_size)
    last_clipped = -1
    for step in range(steps):
        chosen = slice(None) if order is None else order[step]
        optimizer.zero_grad()
        ((net(problem.inputs[chosen]) - problem.targets[chosen]).square().mean() / 2).backward()
        norm = nn.utils.get_total_norm([p.grad for p in net.parameters()])
        if clip is not None and norm > clip:
            last_clipped = step
            for parameter in net.parameters():
                parameter.grad *= clip / norm
        optimizer.step()
    return net, last_clipped


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 3, None])
@pytest.mark.parametrize("clip", [None, 2.0])
def test_replicas_equal_single_nets_under_torch_sgd(kind, batch_size, clip):
    replicas, nets, problems = start(kind, (0, 5), batch_size=batch_size, clip=clip)
    replicas.advance(17)
    replicas.advance(23)
    for s, seed in enumerate((0, 5)):
        for lane, rate in enumerate(RATES):
            alone, last = descend_alone(nets[s], problems[s], seed, rate, 40, batch_size, clip)
            for name, parameter in alone.named_parameters():
                torch.testing.assert_close(
                    replicas.state()[name][s, lane], parameter.detach(), rtol=1e-9, atol=1e-11, msg=f"{name} {rate}"
                )
            loss = (alone(problems[s].inputs) - problems[s].targets).square().mean().detach() / 2
            torch.testing.assert_close(replicas.loss[s, lane], loss, rtol=1e-8, atol=1e-14)
            assert int(replicas.last_clipped[s, lane]) == last
    assert replicas.steps.eq(40).all()


@pytest.mark.parametrize("kind", ["diagonal", "relu"])
@pytest.mark.parametrize("batch_size", [1, None])
def test_closed_forms_equal_the_autograd_fallback(kind, batch_size):
    replicas, nets, _ = start(kind, (1, 2), batch_size=batch_size, clip=5.0)
    fallback, _, _ = start(kind, (1, 2), batch_size=batch_size, clip=5.0)
    fallback.family = AutogradFamily(nets[0])
    for one in (replicas, fallback):
        one.advance(30)
    inputs = replicas.inputs
    for name, values in replicas.state().items():
        torch.testing.assert_close(values, fallback.state()[name], rtol=1e-9, atol=1e-11)
    state = replicas.state()
    torch.testing.assert_close(replicas.family.predict(state, inputs), fallback.family.predict(state, inputs))
    torch.testing.assert_close(replicas.family.gram(state, inputs), fallback.family.gram(state, inputs))
    torch.testing.assert_close(replicas.family.trace(state, inputs), fallback.family.trace(state, inputs))
    weights = (family.norms(state)["weights"] for family in (replicas.family, fallback.family))
    torch.testing.assert_close(*weights)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_norm_is_that_of_the_whole_training_set(kind):
    replicas, nets, problems = start(kind, (0, 5))
    for s, (net, problem) in enumerate(zip(nets, problems)):
        ((net(problem.inputs) - problem.targets).square().mean() / 2).backward()
        expected = nn.utils.get_total_norm([p.grad for p in net.parameters()])
        torch.testing.assert_close(replicas.gradient_norm()[s], expected.expand(len(RATES)), rtol=1e-10, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, None])
def test_resumed_descent_is_bit_identical(kind, batch_size):
    whole, _, _ = start(kind, batch_size=batch_size, clip=3.0, stop_loss=1e-3)
    for _ in range(8):
        whole.advance(130)
    half, _, _ = start(kind, batch_size=batch_size, clip=3.0, stop_loss=1e-3)
    for _ in range(3):
        half.advance(130)
    saved = copy.deepcopy(half.state_dict())
    other, _, _ = start(kind, batch_size=batch_size, clip=3.0, stop_loss=1e-3)
    other.load_state_dict(saved)
    for _ in range(5):
        other.advance(130)
    for name, values in whole.state_dict().items():
        assert torch.equal(values, other.state_dict()[name]), name


def test_a_diverging_replica_rests_where_it_was_and_disturbs_no_other():
    rates = (0.003, 50.0, 0.02)
    together, nets, problems = start("diagonal", rates=rates)
    together.advance(10)
    before = together.state()["a"].clone()
    for _ in range(4):
        together.advance(40)
    assert together.diverged_at.tolist() == [[-1, 50, -1]] or together.diverged_at.tolist() == [[-1, 10, -1]]
    assert together.resting.tolist() == [[False, True, False]]
    assert together.steps[0, 0] == together.steps[0, 2] == 170 and together.steps[0, 1] < 50
    assert all(torch.isfinite(values).all() for values in together.state_dict().values())
    torch.testing.assert_close(together.state()["a"][:, 1], before[:, 1], rtol=0, atol=0)
    for lane in (0, 2):
        alone, _ = descend_alone(nets[0], problems[0], 0, rates[lane], 170, 1, None)
        torch.testing.assert_close(together.state()["a"][0, lane], alone.a.detach(), rtol=1e-7, atol=1e-9)


def test_converged_replicas_rest_and_all_at_rest_is_the_end():
    replicas, _, _ = start("diagonal", batch_size=None, rates=(0.05, 0.1, 0.4), stop_loss=1e-6, total_steps=100_000)
    while not replicas.finished:
        replicas.advance(50)
    assert replicas.resting.all() and (replicas.diverged_at == -1).all()
    assert (replicas.loss < 1e-6).all()
    steps = replicas.steps[0].tolist()
    assert steps[0] > steps[1] > steps[2]
    done, state = int(replicas.done), {k: v.clone() for k, v in replicas.state().items()}
    replicas.advance(50)
    assert int(replicas.done) == done + 50 and replicas.steps[0].tolist() == steps
    assert all(torch.equal(values, state[name]) for name, values in replicas.state().items())


def test_resting_in_one_seed_only_leaves_the_other_seed_going():
    replicas, nets, problems = start("diagonal", (0, 5), rates=(0.05,), clip=1.0)
    replicas.resting[0, 0] = True
    replicas.advance(30)
    assert replicas.steps.tolist() == [[0], [30]]
    torch.testing.assert_close(replicas.state()["a"][0, 0], nets[0].a.detach(), rtol=0, atol=0)
    alone, last = descend_alone(nets[1], problems[1], 5, 0.05, 30, 1, 1.0)
    torch.testing.assert_close(replicas.state()["a"][1, 0], alone.a.detach(), rtol=1e-9, atol=1e-11)
    assert replicas.last_clipped.tolist() == [[-1], [last]]


def test_descent_never_passes_its_end():
    replicas, _, _ = start("diagonal", total_steps=25)
    replicas.advance(20)
    replicas.advance(20)
    assert replicas.finished and replicas.steps.eq(25).all()
    before = replicas.state()["a"].clone()
    replicas.advance(20)
    assert torch.equal(before, replicas.state()["a"])


def test_cosine_schedule_ends_at_zero_and_differs_from_constant():
    recipe = Recipe((0.1,), 100, schedule="cosine")
    assert recipe.multiplier(0) == 1
    assert recipe.multiplier(50) == pytest.approx(0.5)
    assert recipe.multiplier(100) == pytest.approx(0, abs=1e-15)
    decayed, nets, problems = start("relu", batch_size=None, rates=(0.02,), schedule="cosine", total_steps=10)
    decayed.advance(4)
    decayed.advance(6)
    net = copy.deepcopy(nets[0])
    for step in range(10):
        net.zero_grad()
        ((net(problems[0].inputs) - problems[0].targets).square().mean() / 2).backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= 0.02 * decayed.recipe.multiplier(step) * parameter.grad
    torch.testing.assert_close(decayed.state()["w"][0, 0], net.w.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rates": ()}, "rates"),
        ({"rates": (0.1, -1.0)}, "rates"),
        ({"rates": (float("inf"),)}, "rates"),
        ({"total_steps": 0}, "total_steps=0"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"schedule": "linear"}, "schedule='linear'"),
        ({"stop_loss": -1.0}, "stop_loss"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 13, "replacement": False}, "batch_size=13"),
    ],
)
def test_unusable_recipes_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        start("diagonal", **change)


def test_shapes_that_do_not_fit_are_named():
    net, problem = make("diagonal", 0)
    initial = spread({k: p.detach()[None] for k, p in net.named_parameters()}, 2)
    recipe = Recipe((0.1, 0.2), 10)
    with pytest.raises(ConfigError, match=r"initial\.a"):
        Replicas(net.family, initial, problem.inputs[None], problem.targets[None], (0, 1), recipe)
    with pytest.raises(ConfigError, match="inputs"):
        Replicas(net.family, initial, problem.inputs[None], problem.targets[None, :-1], (0,), recipe)

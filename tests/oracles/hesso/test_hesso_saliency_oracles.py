"""What Taylor saliencies can and cannot know (float64); CRIC and DHSPG."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from curvature.errors import ConfigError
from curvature.optim.hesso import DHSPG, HESSO, HESSOCRIC
from curvature.optim.hesso.base import OTOAdam
from curvature.optim.hesso.dhspg import leaves_half_space, penalties
from curvature.optim.hesso.layout import GroupLayout
from curvature.optim.hesso.saliency import CRITERIA, GroupStatistics
from curvature.pruning import build_search_space, rows_as_groups


def network(bias=True, widths=(6, 8, 7, 3)):
    torch.manual_seed(0)
    layers = []
    for index, (a, b) in enumerate(pairwise(widths)):
        layers += [nn.Linear(a, b, bias=bias), *([nn.ReLU()] if index < len(widths) - 2 else [])]
    return nn.Sequential(*layers).double()


def statistics(model):
    """Group statistics with raw gradients of a loss at fixed data."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, 6, dtype=torch.float64, generator=generator)
    y = torch.randint(0, 3, (20,), generator=generator)
    model.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    space = rows_as_groups(model, {name: p for name, p in model.named_parameters() if "weight" in name})
    layout = GroupLayout(space)
    gradients = [p.grad for p, _, _ in layout.members]
    values = layout.values()
    norm, direction = layout.inner(values, values).sqrt(), layout.inner(gradients, gradients).sqrt()
    return space, GroupStatistics(norm, direction, layout.inner(values, gradients), layout.lengths())


def prunable_statistics(model):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, 6, dtype=torch.float64, generator=generator)
    y = torch.randint(0, 3, (20,), generator=generator)
    optimizer = HESSO(build_search_space(model, x), "sgd", target_group_sparsity=0.0, direction="raw")
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    return optimizer.pruner.statistics(optimizer.directions())


def test_o8_taylor_is_invariant_to_a_function_preserving_rescale_and_magnitude_is_not():
    before, model, s = prunable_statistics(network()), network(), 0.01
    with torch.no_grad():
        model[0].weight.mul_(s), model[0].bias.mul_(s), model[2].weight.div_(s)
    after = prunable_statistics(model)
    torch.testing.assert_close(after.product, before.product, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(after.norm[:8], s * before.norm[:8], atol=1e-14, rtol=0)
    cosine = CRITERIA["cosine_similarity"]
    torch.testing.assert_close(cosine(after)[:8], cosine(before)[:8], atol=1e-5, rtol=0)
    assert (cosine(after)[8:] - cosine(before)[8:]).abs().max() > 1e-3


def test_o9_bias_free_layers_share_one_sum_of_products():
    space, found = statistics(network(bias=False))
    sums = torch.zeros(len(space.nodes), dtype=torch.float64).index_add_(0, space.layer, found.product)
    torch.testing.assert_close(sums, sums[0].expand(len(sums)), atol=1e-12, rtol=0)
    assert sums[0].abs() > 1e-3


class Quadratic(nn.Module):
    """f(x) = 1/2 (x - x*)^T A (x - x*), rows of x are groups."""

    def __init__(self, groups=6, size=3, seed=0, start=None):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        factor = torch.randn(groups * size, groups * size, dtype=torch.float64, generator=generator)
        self.A = factor @ factor.T / groups
        self.minimum = torch.randn(groups, size, dtype=torch.float64, generator=generator)
        offset = torch.randn(groups, size, dtype=torch.float64, generator=generator)
        self.x = nn.Parameter(self.minimum + offset if start is None else start(self.minimum))

    def value(self, x):
        z = (x - self.minimum).flatten()
        return 0.5 * z @ self.A @ z

    def forward(self):
        return self.value(self.x)

    def without(self, group, c=1.0):
        x = self.x.detach().clone()
        x[group] *= 1 - c
        return x

    def gradient(self, x):
        return (self.A @ (x - self.minimum).flatten()).view_as(x)


def test_o10_remainder_of_the_one_point_expansion():
    f = Quadratic()
    for group in range(6):
        change = f.value(f.without(group)) - f()
        product = (f.gradient(f.x.detach())[group] * f.x[group]).sum()
        block = f.A[3 * group : 3 * group + 3, 3 * group : 3 * group + 3]
        bound = torch.linalg.eigvalsh(block).max() / 2 * f.x[group].square().sum()
        assert (change + product).abs() <= bound * (1 + 1e-12)
        exact = 0.5 * f.x[group] @ block @ f.x[group]
        assert (change + product - exact).abs() < 1e-12


@pytest.mark.parametrize("points", [1, 5, 20])
def test_o11_path_integral_is_exact_by_the_midpoint_rule(points):
    f = Quadratic()
    for group in range(6):
        change = f.value(f.without(group)) - f()
        along = [(f.gradient(f.without(group, (i + 0.5) / points))[group] * f.x[group]).sum() for i in range(points)]
        assert (change + sum(along) / points).abs() < 1e-13 * max(1.0, f().item())


def test_o12_at_a_minimum_one_point_knows_nothing():
    f = Quadratic(start=lambda minimum: minimum.clone())
    optimizer = HESSO(rows_as_groups(f), target_group_sparsity=0.0)
    f().backward()
    found = optimizer.pruner.statistics(optimizer.directions())
    assert CRITERIA["taylor_first_order"](found).abs().max() == 0
    for group in range(6):
        block = f.A[3 * group : 3 * group + 3, 3 * group : 3 * group + 3]
        cost = 0.5 * f.x[group] @ block @ f.x[group]
        assert cost > 0 and (f.value(f.without(group)) - cost).abs() < 1e-12


def test_o13_penalties_shrink_and_descend():
    generator = torch.Generator().manual_seed(0)
    x, d = torch.randn(2, 500, 4, dtype=torch.float64, generator=generator)
    norm, length, product = x.norm(dim=1), d.norm(dim=1), (x * d).sum(1)
    found = penalties(GroupStatistics(norm, length, product, torch.full((500,), 4.0)), 1e-3, 2.0, 1e6)
    low, high = -product / norm, -length.square() * norm / product
    inside = (product < 0) & (found > low) & (found < high)
    assert inside.sum() > 5
    v = d + (found / norm)[:, None] * x
    assert ((x * v).sum(1)[inside] > 0).all() and ((d * v).sum(1)[inside] > 0).all()
    assert (found[product >= 0] == 1e-3).all()
    middle = penalties(GroupStatistics(norm, length, product, norm), 1e3, 2.0, 10.0)
    opposed = product < 0
    torch.testing.assert_close(middle[opposed], ((low + high) / 2)[opposed])


def test_o14_half_space():
    x = torch.tensor([[1.0, 0.0]] * 4).double()
    moved = torch.tensor([[-0.1, 5.0], [0.0, 5.0], [0.1, 0.0], [0.99, 0.0]]).double()
    product, norm = (x * moved).sum(1), x.norm(dim=1)
    assert leaves_half_space(product, norm, 0.0).tolist() == [True, False, False, False]
    assert leaves_half_space(product, norm, 1 - 1e-12).tolist() == [True] * 4


def test_dhspg_zeroes_only_what_it_chose_and_never_more_than_it_may():
    model = network()
    space = build_search_space(model, torch.randn(2, 6, dtype=torch.float64))
    optimizer = DHSPG(space, lr=0.05, target_group_sparsity=0.5, start_step=5, epsilon=0.9, penalty=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        optimizer.zero_grad()
        x = torch.randn(20, 6, dtype=torch.float64, generator=generator)
        model(x).square().mean().backward()
        optimizer.step()
    state = optimizer.pruner.state
    assert 0 < state["pruned"].sum() <= state["penalised"].sum() == int(0.55 * 15)
    assert not (state["pruned"] & ~state["penalised"]).any()


def separable(seed, groups=8, size=5):
    """f = 1/2 sum a_g ||x_g - x*_g||^2 at its minimum: per-group costs of removal are 1/2 a_g ||x*_g||^2."""
    generator = torch.Generator().manual_seed(seed)
    a = 10 ** (4 * torch.rand(groups, 1, dtype=torch.float64, generator=generator) - 2)
    minimum = torch.randn(groups, size, dtype=torch.float64, generator=generator)
    model = nn.Module()
    model.x = nn.Parameter(minimum.clone())
    return model, (lambda: (0.5 * a * (model.x - minimum).square()).sum()), (0.5 * a[:, 0] * minimum.square().sum(1))


def follow(seed, steps=400, **options):
    model, loss, costs = separable(seed)
    optimizer = HESSOCRIC(rows_as_groups(model), lr=0.0, criteria={"taylor_first_order": 1.0}, loss_term="none",
                          sampling_steps=20, hybrid_training_steps=5, **options)  # fmt: skip
    start = model.x.detach().clone()
    sets, decided = [], None
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        before = optimizer.phase
        optimizer.step(loss=value)
        violating = optimizer._sampling.get("violating")
        if violating is not None and (not sets or not torch.equal(sets[-1], violating)):
            sets.append(violating)
        if before == "cycle" and optimizer.phase == "hybrid":
            decided = model.x.detach().clone()
        if optimizer.phase == "frozen":
            break
    return optimizer, sets, start, decided, costs


@pytest.mark.parametrize("target", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("termination", ["visited", "oto"])
def test_o16_cycles_are_disjoint_and_end_where_they_began(target, termination):
    optimizer, sets, start, decided, _ = follow(0, target_group_sparsity=target, termination=termination)
    total = torch.stack(sets).long().sum(0)
    assert total.max() == 1
    kept = 8 - optimizer.pruner.target
    assert len(sets) <= kept + 1
    assert torch.equal(decided, start)
    assert optimizer.pruned.sum() == optimizer.pruner.target == 8 * target
    zero = optimizer.pruner.layout.values()[0].abs().sum(1) == 0
    assert torch.equal(zero, optimizer.pruned)


def test_cric_finds_what_one_point_cannot_see():
    """Groups of one cycle are ranked by their true costs along the path, whatever the saliency at the start says."""
    for seed in range(10):
        optimizer, sets, _, _, costs = follow(seed, target_group_sparsity=0.5, termination="visited")
        assert len(sets) == 2
        scores = optimizer.pruner.scores
        for visited in sets:
            assert torch.equal(torch.argsort(scores[visited]), torch.argsort(costs[visited]))


def test_released_counter_samples_no_path():
    model, loss, _ = separable(0)
    optimizer = HESSOCRIC(rows_as_groups(model), lr=0.0, target_group_sparsity=0.5, sampling_steps=5, official=True)
    adam = HESSOCRIC(rows_as_groups(model), "adam", lr=0.0, direction="raw", adam="torch", official=True)
    assert isinstance(adam.base, OTOAdam) and not adam.raw and not optimizer.raw
    for _ in range(7):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step(loss=value)
    assert optimizer.phase == "cycle"
    zeros = (model.x.detach().abs().sum(1) == 0).sum()
    assert zeros == 4


def test_cric_needs_the_loss_and_checks_its_arguments():
    model, loss, _ = separable(0)
    loss().backward()
    with pytest.raises(ConfigError, match="loss"):
        HESSOCRIC(rows_as_groups(model)).step()
    for wrong in ({"counter": "x"}, {"termination": "x"}, {"loss_term": "x"}, {"sampling_steps": 0},
                  {"max_cycle_period": 1}, {"start_step": 10, "max_steps": 100}):  # fmt: skip
        with pytest.raises(ConfigError):
            HESSOCRIC(rows_as_groups(model), **wrong)


def test_cric_resumes_bit_for_bit_from_any_phase(tmp_path):
    def setup():
        model = network()
        space = build_search_space(model, torch.randn(2, 6, dtype=torch.float64))
        return model, HESSOCRIC(space, "adam", lr=0.01, start_step=2, sampling_steps=4, hybrid_training_steps=6)

    def train(model, optimizer, steps):
        for step in steps:

            def closure(step=step):
                optimizer.zero_grad()
                x = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
                loss = model(x).square().mean()
                loss.backward()
                return loss

            optimizer.step(closure)

    whole, optimizer = setup()
    train(whole, optimizer, range(60))
    assert optimizer.phase == "frozen"
    phases = set()
    for stop in (1, 5, 8, 14, 17, 24, 30, 40):
        first, optimizer = setup()
        train(first, optimizer, range(stop))
        phases.add(optimizer.phase)
        torch.save([first.state_dict(), optimizer.state_dict()], tmp_path / "state.pt")
        second, resumed = setup()
        weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
        second.load_state_dict(weights)
        resumed.load_state_dict(state)
        train(second, resumed, range(stop, 60))
        for p, q in zip(whole.parameters(), second.parameters()):
            assert torch.equal(p, q)
    assert phases >= {"warmup", "projection", "cycle"}


@pytest.mark.parametrize("normalisation, always_best", [("pointwise", False), ("pooled", True)])
def test_w3_excess_of_cric_over_fifty_quadratics(normalisation, always_best):
    """Normalised after averaging, the mean saliency along the path is proportional to the true cost."""
    excess = []
    for seed in range(50):
        optimizer, _, _, _, costs = follow(seed, target_group_sparsity=0.5, normalisation=normalisation)
        excess.append(float(costs[optimizer.pruned].sum() / costs.sort().values[:4].sum()))
    assert sorted(excess)[25] <= 1.1
    assert (max(excess) <= 1 + 1e-9) == always_best

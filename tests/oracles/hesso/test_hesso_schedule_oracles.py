"""Closed forms of HESSO's trajectories, its selection, its base optimisers and its saliencies (float64)."""

import math

import pytest
import torch
from torch import nn

from curvature.errors import ConfigError
from curvature.optim.hesso import HESSO
from curvature.optim.hesso.saliency import CRITERIA, GroupStatistics, combined, values_of
from curvature.optim.hesso.schedule import PruningSchedule, group_target
from curvature.optim.hesso.selection import lowest, lowest_as_released
from curvature.pruning.space import NodeGroup, SearchSpace, rows_as_groups

MAGNITUDE = {"magnitude": 1.0}


class Vector(nn.Module):
    def __init__(self, values):
        super().__init__()
        self.x = nn.Parameter(torch.tensor(values, dtype=torch.float64))


def run(values, steps, gradient, **options):
    """Rows of x after every step at a constant gradient."""
    model = Vector(values)
    optimizer = HESSO(rows_as_groups(model), criteria=MAGNITUDE, **options)
    rows = []
    for _ in range(steps):
        model.x.grad = torch.full_like(model.x, gradient)
        optimizer.step()
        rows.append(model.x.detach().clone())
    return torch.stack(rows)


def test_o1_trajectory_at_zero_gradient():
    start = torch.arange(1.0, 9.0, dtype=torch.float64)
    rows = run(start.tolist(), 14, 0.0, lr=0.1, target_group_sparsity=0.5, start_step=3, pruning_steps=10,
               pruning_periods=2)  # fmt: skip
    for period, pair in enumerate((slice(0, 2), slice(2, 4))):
        first = 5 * period
        assert torch.equal(rows[first + 2, pair], start[pair])
        for k, factor in enumerate((0.75, 0.5, 0.25, 0.0)):
            torch.testing.assert_close(rows[first + 3 + k, pair], factor * start[pair], atol=1e-15, rtol=0)
    assert torch.equal(rows[:, 4:], start[4:].expand(14, 4))
    assert (rows[11:, :4] == 0).all()


def test_o2_update_comes_before_the_shrink():
    rows = run([1.0, 2.0, 3.0, 4.0], 3, -1.0, lr=0.1, target_group_sparsity=0.25, pruning_steps=4)
    assert rows[:, 0].tolist() == pytest.approx([1.1 * 2 / 3, (1.1 * 2 / 3 + 0.1) / 2, 0.0], abs=1e-15)
    assert rows[-1, 1:].tolist() == pytest.approx([2.3, 3.3, 4.3])


@pytest.mark.parametrize("periods", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("total", [0, 1, 4, 13])
def test_o3_periods_remove_k_in_all(total, periods):
    schedule = PruningSchedule(total, 3, 21, periods)
    removed = [schedule.removed_by(period) for period in range(periods)]
    assert removed[-1] == total
    assert all(later - earlier == total // periods for earlier, later in zip([0, *removed], removed[:-1]))
    opened = [step for step in range(1, 40) if schedule.at(step).opens]
    closed = [step for step in range(1, 40) if schedule.at(step).closes]
    assert len(opened) == len(closed) == (periods if total else 0)
    assert not total or closed[-1] == schedule.last_step


def test_o3_more_periods_than_groups_gives_zeros_then_all():
    rows = run([1.0, 2.0, 3.0, 4.0], 12, 0.0, target_group_sparsity=0.5, pruning_steps=12, pruning_periods=4)
    assert [(row == 0).sum().item() for row in rows] == [0] * 10 + [2] * 2


def test_period_of_one_step_removes_at_once():
    rows = run([1.0, 2.0, 3.0, 4.0], 3, 0.0, target_group_sparsity=0.5, pruning_steps=2, pruning_periods=2)
    assert [(row == 0).sum().item() for row in rows] == [1, 2, 2]


def test_schedule_is_checked_at_construction():
    space = rows_as_groups(Vector([1.0, 2.0, 3.0]))
    for wrong in ({"pruning_periods": 2}, {"start_step": -1}, {"pruning_steps": 9, "max_steps": 7}, {"lr": -1.0},
                  {"target_group_sparsity": 1.0}, {"criteria": {"size": 1.0}},
                  {"selection": "best"}, {"direction": "up"}, {"adam": "x"}, {"variant": "lion"},
                  {"lr_factors": {"y": 1.0}}, {"group_divisible": 0}):  # fmt: skip
        with pytest.raises(ConfigError):
            HESSO(space, **wrong)


def test_a_target_that_survivors_forbid_is_refused():
    torch.manual_seed(0)
    space = rows_as_groups(nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 3, bias=False)))
    with pytest.raises(ConfigError, match="4 of 6"):
        HESSO(space, target_group_sparsity=0.9)


def test_half_of_the_training_prunes_by_default():
    space = rows_as_groups(Vector([1.0, 2.0, 3.0]))
    schedule = HESSO(space, pruning_steps=None, pruning_periods=5, max_steps=4).pruner.schedule
    assert (schedule.steps, schedule.periods) == (2, 2)
    with pytest.raises(ConfigError):
        HESSO(space, pruning_steps=None)


def test_targets_are_not_lost_to_rounding():
    assert group_target(2880, 0.7) == 2016
    assert group_target(8, 0.999) == 7


def test_lowest_takes_the_lowest_that_are_left():
    scores = torch.tensor([3.0, 1.0, 2.0, 9.0, 0.5, 0.1], dtype=torch.float64)
    layer = torch.tensor([0, 0, 0, 1, 1, 1])
    taken = torch.tensor([False, True, False, False, False, False])
    assert lowest(scores, layer, taken, 3, 2).nonzero()[:, 0].tolist() == [4, 5]
    everything = lowest(scores, layer, taken, 6, 2)
    assert (everything | taken).sum() == 4
    assert not everything[0] and not everything[3]


@pytest.mark.parametrize("divisible", [1, 2, 4, 8])
def test_survivors_are_a_multiple_and_the_target_is_met_as_far_as_possible(divisible):
    generator = torch.Generator().manual_seed(divisible)
    sizes = torch.tensor([8, 16, 7, 32])
    layer = torch.repeat_interleave(torch.arange(4), sizes)
    taken = torch.zeros(63, dtype=torch.bool)
    for target in (10, 25, 47):
        taken = taken | lowest(torch.rand(63, generator=generator), layer, taken, target, 4, divisible)
        left = sizes - torch.zeros_like(sizes).index_add_(0, layer, taken.long())
        changed = left < sizes
        assert (left[changed] % divisible == 0).all() and (left >= torch.minimum(sizes, torch.tensor(divisible))).all()
        assert target - divisible < taken.sum() <= target or divisible == 8
    if divisible == 1:
        assert taken.sum() == 47


def test_released_selection_prefers_low_indices_and_falls_short():
    scores = torch.tensor([0.9, 0.8, 1.0, 0.1, 0.2, 5.0])
    layer = torch.tensor([0, 0, 1, 1, 1, 2])
    taken = torch.tensor([False, False, True, False, False, False])
    assert lowest(scores, layer, taken, 2, 3).nonzero()[:, 0].tolist() == [3]
    zeros_are_not_lowest = torch.tensor([0.9, 0.8, 1.0, 0.85, 0.2, 5.0])
    assert lowest_as_released(zeros_are_not_lowest, layer, taken, 1, 3).nonzero()[:, 0].tolist() == [1]
    nothing = torch.zeros(6, dtype=torch.bool)
    whole_layer = torch.tensor([0.1, 0.2, 1.0, 2.0, 3.0, 4.0])
    assert lowest_as_released(whole_layer, layer, nothing, 2, 3).sum() == 1
    assert lowest(whole_layer, layer, nothing, 2, 3).sum() == 2


CASES = [
    ("sgd", torch.optim.SGD, {}),
    ("sgd", torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01}),
    ("adam", torch.optim.Adam, {"weight_decay": 0.01}),
    ("adamw", torch.optim.AdamW, {"weight_decay": 0.1, "betas": (0.8, 0.95)}),
    ("adamw", torch.optim.AdamW, {"foreach": True}),
]


@pytest.mark.parametrize("variant, peer, options", CASES)
def test_o15_without_pruning_it_is_the_base_optimiser(variant, peer, options):
    torch.manual_seed(0)
    ours, theirs = (nn.Linear(5, 4).double() for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    left = HESSO(rows_as_groups(ours), variant, lr=0.01, target_group_sparsity=0.0, **options)
    right = peer(theirs.parameters(), lr=0.01, **options)
    for step in range(50):
        x = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        for model, optimizer in ((ours, left), (theirs, right)):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    for p, q in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(p, q, atol=1e-12, rtol=0)


@pytest.mark.parametrize("variant, peer, options", [*CASES, ("adam", None, {"adam": "oto"})])
def test_the_direction_of_the_saliency_is_that_of_the_update(variant, peer, options):
    torch.manual_seed(0)
    model = nn.Linear(5, 4).double()
    optimizer = HESSO(rows_as_groups(model), variant, lr=0.01, target_group_sparsity=0.0, **options)
    decay = options.get("weight_decay", 0.01) if variant == "adamw" else 0.0
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randn(7, 5, dtype=torch.float64)).square().mean().backward()
        expected, before = optimizer.directions(), [p.detach().clone() for p, _, _ in optimizer.pruner.layout.members]
        optimizer.step()
        for (p, _, _), old, d in zip(optimizer.pruner.layout.members, before, expected):
            torch.testing.assert_close(p.detach(), old * (1 - 0.01 * decay) - 0.01 * d, atol=1e-14, rtol=0)


def test_released_adam_warms_up_by_itself():
    model = Vector([1.0, 2.0])
    optimizer = HESSO(rows_as_groups(model), "adam", lr=0.1, target_group_sparsity=0.0, adam="oto")
    for t in range(1, 6):
        before = model.x.detach().clone()
        model.x.grad = torch.full_like(model.x, 3.0)
        optimizer.step()
        moved = (before - model.x.detach())[0].item() / 0.1
        assert moved == pytest.approx(math.sqrt(1 - 0.999**t) / (1 - 0.9**t), rel=1e-6)


def overall(found, criteria):
    return combined(values_of(found, criteria), criteria)


def statistics(seed=0, groups=12):
    generator = torch.Generator().manual_seed(seed)
    x, d = torch.randn(2, groups, 5, dtype=torch.float64, generator=generator)
    return GroupStatistics(x.norm(dim=1), d.norm(dim=1), (x * d).sum(1), torch.full((groups,), 5.0).double())


@pytest.mark.parametrize("name", CRITERIA)
def test_o7_scores_follow_a_permutation_and_ignore_the_scale_of_a_criterion(name):
    found = statistics()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    permuted = GroupStatistics(*(value[order] for value in vars(found).values()))
    default = dict.fromkeys(CRITERIA, 0.2)
    torch.testing.assert_close(overall(permuted, default), overall(found, default)[order], atol=1e-15, rtol=0)
    scaled = {**CRITERIA, name: lambda s, f=CRITERIA[name]: 1e3 * f(s)}
    reference = overall(found, default)
    original = CRITERIA.copy()
    try:
        CRITERIA.update(scaled)
        torch.testing.assert_close(overall(found, default), reference, atol=1e-7, rtol=0)
    finally:
        CRITERIA.update(original)


def test_criteria_are_those_of_the_definition():
    x, d = torch.tensor([3.0, 4.0]).double(), torch.tensor([1.0, -2.0]).double()
    found = GroupStatistics(*(torch.stack([v]) for v in (x.norm(), d.norm(), x @ d, torch.tensor(2.0).double())))
    expected = {"magnitude": 5.0, "avg_magnitude": 5 / (2 + 1e-6), "taylor_first_order": 5.0,
                "taylor_second_order": 12.5, "cosine_similarity": -5 / (5 + 1e-8) / (5**0.5 + 1e-8) + 1}  # fmt: skip
    for name, value in expected.items():
        assert CRITERIA[name](found).item() == pytest.approx(value, abs=1e-12)
    zero = GroupStatistics(*(torch.zeros(1).double() for _ in range(3)), torch.ones(1).double())
    assert CRITERIA["cosine_similarity"](zero).item() == 1.0


@pytest.mark.parametrize("variant, options", [("sgd", {"momentum": 0.9}), ("adam", {}), ("adam", {"adam": "oto"})])
def test_o17_resumes_in_the_middle_of_a_period_bit_for_bit(variant, options, tmp_path):
    def setup():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
        settings = {"target_group_sparsity": 0.5, "start_step": 2, "pruning_steps": 10, "pruning_periods": 2}
        return model, HESSO(rows_as_groups(model), variant, lr=0.05, **settings, **options)

    def train(model, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            x = torch.randn(9, 6, generator=torch.Generator().manual_seed(step))
            model(x).square().mean().backward()
            optimizer.step()

    whole, optimizer = setup()
    train(whole, optimizer, range(16))
    for stop in (1, 4, 7, 10):
        first, optimizer = setup()
        train(first, optimizer, range(stop))
        torch.save([first.state_dict(), optimizer.state_dict()], tmp_path / "state.pt")
        second, resumed = setup()
        weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
        second.load_state_dict(weights)
        resumed.load_state_dict(state)
        train(second, resumed, range(stop, 16))
        assert resumed.pruned.sum() == 12
        for p, q in zip(whole.parameters(), second.parameters()):
            assert torch.equal(p, q)


def test_zeros_stay_zero_under_momentum_and_decay():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    optimizer = HESSO(rows_as_groups(model), "adamw", lr=0.05, target_group_sparsity=0.4, weight_decay=0.5,
                      pruning_steps=4, pruning_periods=2)  # fmt: skip
    for step in range(12):
        optimizer.zero_grad()
        model(torch.randn(9, 6)).square().mean().backward()
        optimizer.step()
        if step >= 3:
            rows = torch.cat([p.detach().reshape(len(p), -1).abs().sum(1) for p in model.parameters()])
            assert (rows == 0).sum() >= optimizer.pruner.target == 9


def test_scoring_never_leaves_the_device():
    """On the meta device a value that were read by the host would raise."""
    scores = torch.zeros(6, device="meta")
    layer = torch.zeros(6, dtype=torch.int64, device="meta")
    assert lowest(scores, layer, torch.zeros(6, dtype=torch.bool, device="meta"), 3, 2).shape == (6,)
    assert SearchSpace(nn.Module(), [NodeGroup("a", 0, 2, ()), NodeGroup("b", 2, 1, ())]).layer.tolist() == [0, 0, 1]


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.05}])
def test_masked_gradients_move_what_is_left_as_sgd_does(options):
    """Removed rows do not interact with the others in a bias-free linear map, so these move as under plain SGD."""
    torch.manual_seed(0)
    ours, theirs = (nn.Linear(5, 6, bias=False).double() for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    left = HESSO(
        rows_as_groups(ours), lr=0.05, target_group_sparsity=0.5, pruning_steps=6, pruning_periods=3, **options
    )
    right = torch.optim.SGD(theirs.parameters(), lr=0.05, **options)
    for step in range(30):
        x = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        for model, optimizer in ((ours, left), (theirs, right)):
            optimizer.zero_grad()
            (model(x) - 1.0).square().sum(1).mean().backward()
            optimizer.step()
    assert left.pruned.sum() == 3
    torch.testing.assert_close(ours.weight[~left.pruned], theirs.weight[~left.pruned], atol=1e-13, rtol=0)
    assert (ours.weight[left.pruned] == 0).all()


def test_a_state_that_was_moved_by_somebody_else_is_the_one_that_counts():
    """As Lightning does on resume: every entry of ``optimizer.state`` is replaced by a moved copy."""
    torch.manual_seed(0)
    model = nn.Linear(3, 6, bias=False)
    optimizer = HESSO(rows_as_groups(model), target_group_sparsity=0.5, pruning_steps=8, pruning_periods=2)
    model.weight.grad = torch.zeros_like(model.weight)
    for step in range(8):
        if step == 3:
            optimizer.state["pruning"] = dict(optimizer.state["pruning"])
        optimizer.step()
    assert optimizer.state_dict()["state"]["pruning"]["num_steps"] == 8
    assert optimizer.pruned.sum() == 3

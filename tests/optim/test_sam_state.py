"""SAM and its base optimiser are one to schedules and checkpoints."""

import copy
import io
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR

from curvature.optim import GSAM, SAM

ADAMW = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.05)


def problem(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    inputs, labels = torch.randn(16, 5), torch.randint(3, (16,))

    def closure():
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        return loss

    return model, closure


def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize("make", [partial(SAM, rho=0.1), partial(GSAM, rho_max=0.1, rho_min=0.01)])
def test_training_goes_on_bit_for_bit_from_a_checkpoint(make):
    model, closure = problem()
    optimizer = make(model.parameters(), ADAMW)
    for _ in range(3):
        optimizer.step(closure)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    for _ in range(3):
        optimizer.step(closure)

    file.seek(0)
    checkpoint = torch.load(file, weights_only=True)
    resumed, resumed_closure = problem()
    resumed.load_state_dict(checkpoint["model"])
    second = make(resumed.parameters(), ADAMW)
    second.load_state_dict(checkpoint["optimizer"])
    for _ in range(3):
        second.step(resumed_closure)
    assert torch.equal(flat(resumed), flat(model))


def test_state_dict_is_that_of_the_base_optimizer():
    model, closure = problem()
    optimizer = SAM(model.parameters(), ADAMW, rho=0.1)
    for _ in range(2):
        optimizer.step(closure)
    base = ADAMW(problem()[0].parameters())
    base.zero_grad()
    state = optimizer.state_dict()
    assert set(state) == {"state", "param_groups"}
    assert state["param_groups"] == base.state_dict()["param_groups"]
    assert all(set(entry) == {"step", "exp_avg", "exp_avg_sq"} for entry in state["state"].values())
    base.load_state_dict(state)
    fresh = SAM(problem()[0].parameters(), ADAMW)
    fresh.load_state_dict(base.state_dict())
    torch.testing.assert_close(fresh.state_dict(), state, atol=0, rtol=0)


def shared(optimizer):
    base = optimizer.base_optimizer
    return (
        optimizer.param_groups is base.param_groups
        and all(ours is theirs for ours, theirs in zip(optimizer.param_groups, base.param_groups))
        and optimizer.state is base.state
        and optimizer.defaults is base.defaults
    )


def test_groups_stay_shared_through_loading_adding_and_copying():
    model, closure = problem()
    optimizer = SAM(model[0].parameters(), ADAMW)
    assert shared(optimizer)
    optimizer.step(closure)
    optimizer.load_state_dict(optimizer.state_dict())
    assert shared(optimizer)
    optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.5})
    assert shared(optimizer)
    assert [group["lr"] for group in optimizer.base_optimizer.param_groups] == [1e-2, 0.5]
    LambdaLR(optimizer, lambda step: 1.0)
    model_copy, twin = copy.deepcopy((model, optimizer))
    assert shared(twin)
    assert twin.param_groups is not optimizer.param_groups
    assert twin.param_groups[0]["params"][0] is model_copy[0].weight
    before = flat(model)
    twin.step(lambda: model_copy(torch.ones(1, 5)).sum().backward())
    assert torch.equal(flat(model), before)
    assert not torch.equal(flat(model_copy), before)


@pytest.mark.parametrize(
    "schedule",
    [
        partial(CosineAnnealingLR, T_max=5),
        partial(LambdaLR, lr_lambda=lambda step: 0.5**step),
        partial(OneCycleLR, max_lr=0.02, total_steps=10),
    ],
)
@pytest.mark.parametrize("on_base", [False, True])
@pytest.mark.filterwarnings("error")
def test_schedules_act_on_both(schedule, on_base):
    model, closure = problem()
    optimizer = SAM(model.parameters(), ADAMW, rho=0.0)
    scheduler = schedule(optimizer.base_optimizer if on_base else optimizer)
    plain_model, plain_closure = problem()
    plain = ADAMW(plain_model.parameters())
    plain_scheduler = schedule(plain)
    for _ in range(5):
        optimizer.step(closure)
        scheduler.step()
        plain.zero_grad()
        plain.step(plain_closure)
        plain_scheduler.step()
        assert optimizer.param_groups[0]["lr"] == optimizer.base_optimizer.param_groups[0]["lr"]
        assert optimizer.param_groups[0]["lr"] == plain.param_groups[0]["lr"]
    assert torch.equal(flat(model), flat(plain_model))


def test_gsam_radius_is_driven_by_a_schedule():
    model, closure = problem()
    optimizer = GSAM(model.parameters(), ADAMW, rho_max=0.5, rho_min=0.1)
    scheduler = CosineAnnealingLR(optimizer, T_max=4)
    radii = []
    for _ in range(5):
        radii.append(optimizer.radius())
        optimizer.step(closure)
        scheduler.step()
    assert radii == pytest.approx([0.5, 0.1 + 0.2 * (1 + 2**-0.5), 0.3, 0.1 + 0.2 * (1 - 2**-0.5), 0.1])


def test_step_hooks_run_once_a_step():
    model, closure = problem()
    optimizer, calls = SAM(model.parameters(), ADAMW), []
    optimizer.register_step_post_hook(lambda *_: calls.append("sam"))
    optimizer.base_optimizer.register_step_post_hook(lambda *_: calls.append("base"))
    optimizer.step(closure)
    assert calls == ["base", "sam"]

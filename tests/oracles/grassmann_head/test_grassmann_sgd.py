"""Closed-form facts of Riemannian SGD on class subspaces (float64)."""

import copy

import pytest
import torch
from grassmann_cases import batch, make
from torch.nn import functional as F

from curvature.errors import ConfigError
from curvature.geometry import grassmann
from curvature.models.heads import GrassmannHead
from curvature.optim.riemannian_sgd import RiemannianSGD


@pytest.fixture
def head():
    torch.manual_seed(0)
    return make(10, 6, 3)


def train(head, transport, steps=3, **options):
    optimizer = RiemannianSGD(head.parameters(), lr=0.05, transport=transport, **options)
    features, labels = batch()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(head(features), labels).backward()
        optimizer.step()
    return optimizer


def dense_reference(start, transport, steps=3, lr=0.05, mu=0.9):
    """The step rule with n x n matrix exponentials."""
    features, labels = batch()
    head = make(10, 6, 3)
    point, buffer = start.clone(), torch.zeros_like(start)
    for _ in range(steps):
        head.subspaces.data = point
        head.zero_grad()
        F.cross_entropy(head(features), labels).backward()
        gradient = head.subspaces.grad
        if transport == "raw":
            buffer = mu * buffer + gradient
            direction = grassmann.project(point, buffer)
        else:
            previous = grassmann.project(point, buffer) if transport == "projection" else buffer
            buffer = mu * previous + grassmann.project(point, gradient)
            direction = buffer
        rotation = torch.linalg.matrix_exp(-lr * (direction @ point.mT - point @ direction.mT))
        point = rotation @ point
        if transport == "exact":
            buffer = rotation @ buffer
    return point


@pytest.mark.parametrize("transport", ["projection", "raw", "exact"])
def test_steps_equal_the_dense_rule(head, transport):
    start = head.subspaces.detach().clone()
    train(head, transport, reorth_every=0)
    expected = dense_reference(start, transport)
    torch.testing.assert_close(head.subspaces.detach(), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("transport", ["projection", "raw", "exact"])
def test_subspaces_and_momentum_do_not_depend_on_the_basis(transport):
    rotation, _ = torch.linalg.qr(torch.randn(6, 3, 3, dtype=torch.float64))
    reached = []
    for turn in (torch.eye(3, dtype=torch.float64), rotation):
        torch.manual_seed(0)
        head = make(10, 6, 3)
        head.subspaces.data = head.subspaces.data @ turn
        train(head, transport, steps=7)
        reached.append(head.subspaces.detach() @ head.subspaces.detach().mT)
    torch.testing.assert_close(reached[0], reached[1], atol=1e-10, rtol=0)


def test_transports_differ_after_a_few_steps():
    results = []
    for transport in ("projection", "raw", "exact"):
        torch.manual_seed(0)
        head = make(10, 6, 3)
        train(head, transport)
        results.append(head.subspaces @ head.subspaces.mT)
    assert all((a - b).abs().max() > 1e-6 for a, b in [(results[0], results[1]), (results[0], results[2])])


def test_stays_orthonormal_over_many_steps(head):
    train(head, "projection", steps=200)
    eye = torch.eye(3, dtype=torch.float64)
    assert (head.subspaces.mT @ head.subspaces - eye).abs().max() < 1e-12


def test_descent_to_first_order(head):
    features, labels = batch()
    loss = F.cross_entropy(head(features), labels)
    loss.backward()
    squared = grassmann.project(head.subspaces, head.subspaces.grad).square().sum()
    for lr in (1e-4, 1e-5):
        moved = make(10, 6, 3)
        moved.load_state_dict(head.state_dict())
        moved.subspaces.grad = head.subspaces.grad.clone()
        RiemannianSGD(moved.parameters(), lr=lr, momentum=0.0).step()
        change = F.cross_entropy(moved(features), labels) - loss
        assert change.item() == pytest.approx(-lr * squared.item(), rel=20 * lr * squared.item() + 1e-3)


def test_converges_to_the_top_principal_subspace():
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(200, 8, dtype=torch.float64, generator=generator) * torch.arange(8, 0, -1)
    point = torch.nn.Parameter(grassmann.random_point(1, 8, 3, dtype=torch.float64, generator=generator))
    optimizer = RiemannianSGD([point], lr=2e-3, momentum=0.9)
    for _ in range(2000):
        optimizer.zero_grad()
        (-0.5 * (data @ point).square().sum(-1).mean()).backward()
        optimizer.step()
    top = torch.linalg.svd(data, full_matrices=False).Vh[:3].mT
    torch.testing.assert_close(point[0] @ point[0].mT, top @ top.mT, atol=1e-8, rtol=0)


def test_zero_and_missing_gradients_leave_the_point(head):
    before = head.subspaces.detach().clone()
    optimizer = RiemannianSGD(head.parameters(), lr=0.1, reorth_every=0)
    optimizer.step()
    head.subspaces.grad = torch.zeros_like(head.subspaces)
    optimizer.step()
    torch.testing.assert_close(head.subspaces.detach(), before, atol=1e-14, rtol=0)


def test_state_round_trip_is_bitwise(head):
    torch.manual_seed(0)
    twin = make(10, 6, 3)
    train(head, "projection", steps=8)
    optimizer = train(twin, "projection", steps=3)
    resumed = make(10, 6, 3)
    resumed.load_state_dict(twin.state_dict())
    again = RiemannianSGD(resumed.parameters(), lr=9.9)
    again.load_state_dict(optimizer.state_dict())
    features, labels = batch()
    for _ in range(5):
        again.zero_grad()
        F.cross_entropy(resumed(features), labels).backward()
        again.step()
    assert torch.equal(resumed.subspaces, head.subspaces)


@pytest.mark.parametrize("options", [{"lr": 0.0}, {"lr": 0.1, "momentum": 1.0}, {"lr": 0.1, "transport": "svd"}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError):
        RiemannianSGD([torch.nn.Parameter(torch.zeros(2, 4, 2))], **options)
    with pytest.raises(ConfigError, match="\\(C, n, k\\)"):
        RiemannianSGD([torch.nn.Parameter(torch.zeros(4, 2))], lr=0.1)


def test_memory_layout_survives_copies_and_the_optimiser(head):
    head = copy.deepcopy(GrassmannHead(10, 6, subspace_dim=3)).double()
    head.load_state_dict(make(10, 6, 3).state_dict())
    train(head, "projection")
    assert head.subspaces.mT.is_contiguous()


@pytest.mark.parametrize("retraction", ["qr", "polar"])
def test_retractions_reach_nearly_the_same_subspaces(head, retraction):
    twin = make(10, 6, 3)
    twin.load_state_dict(head.state_dict())
    start = head.subspaces.detach().clone()
    train(head, "projection", steps=1)
    train(twin, "projection", steps=1, retraction=retraction)
    moved = (head.subspaces @ head.subspaces.mT - start @ start.mT).norm()
    apart = (head.subspaces @ head.subspaces.mT - twin.subspaces @ twin.subspaces.mT).norm()
    assert 0 < apart < 0.2 * moved
    with pytest.raises(ConfigError, match="retraction"):
        RiemannianSGD(head.parameters(), lr=0.1, transport="exact", retraction=retraction)


def test_maximising_is_minimising_the_negative(head):
    twin = make(10, 6, 3)
    twin.load_state_dict(head.state_dict())
    features, labels = batch()
    for model, sign, options in ((head, 1.0, {}), (twin, -1.0, {"maximize": True})):
        optimizer = RiemannianSGD(model.parameters(), lr=0.05, **options)
        (sign * F.cross_entropy(model(features), labels)).backward()
        optimizer.step()
    torch.testing.assert_close(head.subspaces, twin.subspaces, atol=1e-12, rtol=0)


def test_classes_with_zero_or_rank_deficient_gradients_stay_finite_in_float32():
    torch.manual_seed(0)
    head = GrassmannHead(64, 5, subspace_dim=8)
    start = head.subspaces.detach().clone()
    optimizer = RiemannianSGD(head.parameters(), lr=0.02)
    head.subspaces.grad = torch.randn_like(head.subspaces)
    head.subspaces.grad[0] = 0.0
    head.subspaces.grad[1] = torch.outer(torch.randn(64), torch.randn(8))
    for _ in range(7):
        optimizer.step()
    assert head.subspaces.isfinite().all()
    torch.testing.assert_close(head.subspaces[0].detach(), start[0], atol=1e-5, rtol=0)
    assert (head.subspaces.mT @ head.subspaces - torch.eye(8)).abs().max() < 1e-5


def test_groups_and_heads_in_one_optimiser_move_as_they_do_apart_and_the_closure_is_evaluated_once():
    options = [
        {"lr": 0.05, "transport": "exact", "reorth_every": 2},
        {"lr": 0.2, "momentum": 0.5, "retraction": "polar"},
        {"lr": 0.1, "transport": "raw"},
    ]

    def fresh():
        torch.manual_seed(0)
        return [make(10, 6, k) for k in (3, 2, 1)]

    features, labels = batch()
    joined, apart = fresh(), fresh()
    groups = [{"params": head.parameters(), **own} for head, own in zip(joined, options, strict=True)]
    optimizer = RiemannianSGD(groups, lr=9.0)
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = sum(F.cross_entropy(head(features), labels) for head in joined)
        loss.backward()
        calls.append(loss.item())
        return loss

    losses = [optimizer.step(closure).item() for _ in range(7)]
    for head, own in zip(apart, options, strict=True):
        single = RiemannianSGD(head.parameters(), **own)
        for _ in range(7):
            single.zero_grad()
            F.cross_entropy(head(features), labels).backward()
            single.step()
    assert losses == calls and losses[-1] < losses[0]
    assert [state["step"] for state in optimizer.state.values()] == [7, 7, 7]
    for head, twin in zip(joined, apart, strict=True):
        torch.testing.assert_close(head.subspaces, twin.subspaces, atol=1e-12, rtol=0)


@pytest.mark.parametrize("transport", ["projection", "raw", "exact"])
def test_restoring_orthonormality_disturbs_neither_the_path_nor_the_momentum(transport):
    found = []
    for every in (0, 1):
        torch.manual_seed(0)
        head = make(10, 6, 3)
        optimizer = train(head, transport, steps=30, reorth_every=every)
        found.append((head.subspaces.detach(), optimizer.state[head.subspaces]["momentum_buffer"]))
    (point, buffer), (restored, repaired) = found
    torch.testing.assert_close(restored, point, atol=1e-9, rtol=0)
    torch.testing.assert_close(repaired, buffer, atol=1e-9, rtol=0)


def test_float32_does_not_drift():
    torch.manual_seed(0)
    head = GrassmannHead(10, 6, subspace_dim=3)
    optimizer = RiemannianSGD(head.parameters(), lr=0.05)
    features, labels = batch()
    for _ in range(1000):
        optimizer.zero_grad()
        F.cross_entropy(head(features.float()), labels).backward()
        optimizer.step()
    assert (head.subspaces.mT @ head.subspaces - torch.eye(3)).abs().max() < 1e-5


def test_long_geodesics_stay_orthonormal_and_reach_the_optimum():
    """At this rate a basis that is never restored leaves the manifold (sheet of the paper, pitfalls)."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(200, 8, dtype=torch.float64, generator=generator) * torch.linspace(0.9, 0.1, 8)
    point = torch.nn.Parameter(grassmann.random_point(1, 8, 3, dtype=torch.float64, generator=generator))
    optimizer = RiemannianSGD([point], lr=2.0, momentum=0.0, reorth_every=5)
    for _ in range(500):
        optimizer.zero_grad()
        (-0.5 * (data @ point).square().sum(-1).mean()).backward()
        optimizer.step()
    top = torch.linalg.svd(data, full_matrices=False).Vh[:3].mT
    assert (point[0].mT @ point[0] - torch.eye(3)).abs().max() < 1e-10
    torch.testing.assert_close(point[0] @ point[0].mT, top @ top.mT, atol=1e-8, rtol=0)


@pytest.mark.parametrize(
    ("transport", "retraction"),
    [("projection", "exp"), ("raw", "exp"), ("exact", "exp"), ("projection", "qr"), ("projection", "polar")],
)
def test_a_step_under_autocast_is_the_step_without(transport, retraction):
    reached = []
    for enabled in (False, True):
        torch.manual_seed(0)
        head = GrassmannHead(10, 6, subspace_dim=3)
        optimizer = RiemannianSGD(head.parameters(), lr=0.1, transport=transport, retraction=retraction, reorth_every=2)
        head.subspaces.grad = torch.randn_like(head.subspaces)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            for _ in range(5):
                optimizer.step()
        reached.append(head.subspaces.detach())
    assert torch.equal(*reached)

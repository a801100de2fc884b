"""Closed-form facts of the Grassmann class head and of Riemannian SGD (float64)."""

import math

import pytest
import torch
from pytorch_metric_learning import losses
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from curvature.errors import ConfigError
from curvature.geometry import grassmann
from curvature.models.heads import CosineHead, GrassmannHead, MetricHead, MultiLinearHead
from curvature.optim.riemannian_sgd import RiemannianSGD


def make(n, classes, k):
    """A float64 head whose bases are orthonormal to float64 accuracy."""
    head = GrassmannHead(n, classes, subspace_dim=k).double()
    head.subspaces.data, _ = grassmann.reorthonormalise(head.subspaces.data)
    return head


@pytest.fixture
def head():
    torch.manual_seed(0)
    return make(10, 6, 3)


def batch(n=10, size=16):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(size, n, dtype=torch.float64, generator=generator)
    return features, torch.randint(0, 6, (size,), generator=generator)


def test_logits_are_bounded_and_depend_on_the_span_alone(head):
    features, _ = batch()
    logits = head(features)
    assert (logits >= 0).all() and (logits <= head.scale).all()
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    head.subspaces.data = head.subspaces.data @ rotation
    torch.testing.assert_close(head(features), logits, atol=1e-10, rtol=0)
    torch.testing.assert_close(head(-3.0 * features), logits, atol=1e-10, rtol=0)


def test_full_dimension_gives_log_c():
    head = make(4, 5, 4)
    logits = head(torch.randn(7, 4, dtype=torch.float64))
    torch.testing.assert_close(logits, torch.full_like(logits, 25.0))
    loss = F.cross_entropy(logits, torch.zeros(7, dtype=torch.long))
    assert loss.item() == pytest.approx(math.log(5), abs=1e-10)


def test_orthogonal_subspaces_that_fill_the_space():
    head = make(6, 3, 2)
    head.subspaces.data = torch.eye(6, dtype=torch.float64).reshape(6, 3, 2).permute(1, 0, 2)
    squares = head(torch.randn(5, 6, dtype=torch.float64)).square().sum(-1)
    torch.testing.assert_close(squares, torch.full_like(squares, 625.0))


def test_cross_entropy_floor():
    logits = torch.zeros(1, 1000, dtype=torch.float64)
    logits[0, 0] = 25.0
    loss = F.cross_entropy(logits, torch.tensor([0]))
    assert loss.item() == pytest.approx(1.387406e-8, rel=1e-6)


@pytest.mark.parametrize(("n", "k", "mean"), [(2048, 8, 1.514733), (64, 8, 8.601108)])
def test_expected_logit_at_random_initialisation(n, k, mean):
    torch.manual_seed(0)
    logits = make(n, 300, k)(torch.randn(200, n, dtype=torch.float64))
    squares = logits.square()
    assert squares.mean().item() == pytest.approx(625.0 * k / n, rel=0.02)
    assert logits.mean().item() == pytest.approx(mean, rel=0.01)


def test_gradients_equal_the_formulas(head):
    features, labels = batch()
    features.requires_grad_(True)
    F.cross_entropy(head(features), labels).backward()
    with torch.no_grad():
        norms = features.norm(dim=-1, keepdim=True)
        unit = features / norms
        coordinates = torch.einsum("bn,cnk->bck", unit, head.subspaces)
        radii = coordinates.norm(dim=-1)
        error = (torch.softmax(head.scale * radii, -1) - F.one_hot(labels, 6)) / len(labels)
        weight = head.scale * error / radii
        on_subspaces = torch.einsum("bc,bn,bck->cnk", weight, unit, coordinates)
        on_unit = torch.einsum("bc,cnk,bck->bn", weight, head.subspaces, coordinates)
        on_features = (on_unit - unit * (unit * on_unit).sum(-1, keepdim=True)) / norms
    torch.testing.assert_close(head.subspaces.grad, on_subspaces, atol=1e-10, rtol=0)
    torch.testing.assert_close(features.grad, on_features, atol=1e-10, rtol=0)
    assert (features * features.grad).sum(-1).abs().max() < 1e-10


def test_dead_features_give_no_nan(head):
    features = torch.zeros(2, 10, dtype=torch.float64, requires_grad=True)
    F.cross_entropy(head(features), torch.tensor([0, 1])).backward()
    assert head.subspaces.grad.isfinite().all() and features.grad.isfinite().all()


def test_one_dimension_is_the_absolute_cosine():
    grassmann_head, cosine = make(8, 5, 1), CosineHead(8, 5).double()
    cosine.weight.data = grassmann_head.subspaces.data.squeeze(-1)
    features = torch.randn(9, 8, dtype=torch.float64)
    torch.testing.assert_close(grassmann_head(features), cosine(features).abs(), atol=1e-10, rtol=0)


def test_parameter_counts_of_the_paper_scale_head():
    with torch.device("meta"):
        assert sum(p.numel() for p in GrassmannHead(2048, 1000, subspace_dim=8).parameters()) == 16_384_000


@pytest.mark.parametrize("subspace_dim", [0, 11])
def test_impossible_dimension_is_refused(subspace_dim):
    with pytest.raises(ConfigError, match="subspace_dim"):
        GrassmannHead(10, 3, subspace_dim=subspace_dim)


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


class Products(TorchDispatchMode):
    """Counts matrix products and the largest copy that passes by."""

    def __init__(self):
        super().__init__()
        self.shapes = []
        self.copied = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm):
            self.shapes.append(tuple(result.shape))
        if function.overloadpacket in (torch.ops.aten.clone, torch.ops.aten.copy_, torch.ops.aten._to_copy):
            self.copied = max(self.copied, result.numel())
        return result


def test_all_classes_share_one_product_and_the_parameter_is_not_copied():
    head = GrassmannHead(32, 100, subspace_dim=4)
    features = torch.randn(5, 32, requires_grad=True)
    with Products() as forward:
        logits = head(features)
    with Products() as backward:
        logits.sum().backward()
    assert forward.shapes == [(5, 400)]
    assert sorted(backward.shapes) == [(5, 32), (400, 32)]
    assert max(forward.copied, backward.copied) < head.subspaces.numel()


def test_stays_in_float32_under_autocast():
    head = GrassmannHead(16, 4, subspace_dim=3)
    features = torch.randn(6, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(features.bfloat16())
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, head(features.bfloat16().float()), atol=0, rtol=0)
    logits.sum().backward()
    assert head.subspaces.grad.dtype == torch.float32


def test_memory_layout_survives_copies_and_the_optimiser(head):
    import copy

    head = copy.deepcopy(GrassmannHead(10, 6, subspace_dim=3)).double()
    head.load_state_dict(make(10, 6, 3).state_dict())
    train(head, "projection")
    assert head.subspaces.mT.is_contiguous()


def test_without_normalisation_logits_are_projected_lengths():
    head = GrassmannHead(8, 3, subspace_dim=8, normalise=False).double()
    head.subspaces.data, _ = grassmann.reorthonormalise(head.subspaces.data)
    features = torch.randn(5, 8, dtype=torch.float64)
    expected = (25.0 * features.norm(dim=-1, keepdim=True)).expand(5, 3)
    torch.testing.assert_close(head(features), expected, atol=1e-10, rtol=0)


def test_principal_subspaces_capture_the_energy_of_their_class():
    head = make(6, 2, 2)
    bases = torch.eye(6, dtype=torch.float64).reshape(6, 3, 2).permute(1, 0, 2)[:2]
    labels = torch.tensor([0, 1]).repeat(20)
    features = (bases[labels] @ torch.randn(40, 2, 1, dtype=torch.float64)).squeeze(-1)
    head.set_to_principal(features, labels)
    torch.testing.assert_close(head.subspaces @ head.subspaces.mT, bases @ bases.mT, atol=1e-10, rtol=0)
    with pytest.raises(ConfigError, match="class 1"):
        head.set_to_principal(features[::2], labels[::2])


def test_averaged_classifiers_give_mean_probabilities():
    head = MultiLinearHead(7, 4, branches=3).double()
    features = torch.randn(5, 7, dtype=torch.float64)
    branches = head.linear(features).reshape(5, 3, 4).softmax(-1).mean(1)
    torch.testing.assert_close(head(features).exp(), branches, atol=1e-10, rtol=0)


def test_margin_head_is_arcface():
    head = MetricHead(7, 4, lambda **sizes: losses.ArcFaceLoss(margin=28.6, scale=25.0, **sizes)).double()
    features, labels = torch.randn(9, 7, dtype=torch.float64), torch.arange(9) % 4
    logits = head(features)
    cosines = F.normalize(features, dim=-1) @ F.normalize(head.metric.W, dim=0)
    torch.testing.assert_close(logits, 25.0 * cosines, atol=1e-10, rtol=0)
    own = cosines.gather(1, labels[:, None])
    margin = math.radians(28.6)
    shifted = torch.where(own.acos() <= math.pi - margin, (own.acos() + margin).cos(), own - margin * math.sin(margin))
    expected = F.cross_entropy(25.0 * cosines.scatter(1, labels[:, None], shifted), labels)
    torch.testing.assert_close(head.loss(features, labels), expected, atol=1e-9, rtol=0)


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

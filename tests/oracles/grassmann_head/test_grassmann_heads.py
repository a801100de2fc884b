"""Closed-form facts of the class heads (float64)."""

import math

import pytest
import torch
from grassmann_cases import batch, make
from pytorch_metric_learning import losses
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from curvature.errors import ConfigError
from curvature.geometry import grassmann
from curvature.models.backbones import timm_backbone
from curvature.models.heads import CosineHead, GrassmannHead, MetricHead, MultiLinearHead


@pytest.fixture
def head():
    torch.manual_seed(0)
    return make(10, 6, 3)


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
    features = torch.randn(5, 6, dtype=torch.float64)
    squares = head(features).square()
    torch.testing.assert_close(squares.sum(-1), torch.full((5,), 625.0, dtype=torch.float64))
    assert (squares[:, :2].sum(-1) < 625.0).all()


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


def test_one_dimension_is_cosine_softmax_exactly_where_no_cosine_is_negative():
    head, cosine = make(8, 5, 1), CosineHead(8, 5).double()
    cosine.weight.data = head.subspaces.data.squeeze(-1)
    unit = F.normalize(cosine.weight.data, dim=-1)
    features = torch.linalg.lstsq(unit, torch.rand(5, 9, dtype=torch.float64)).solution.mT
    torch.testing.assert_close(head(features), cosine(features), atol=1e-9, rtol=0)
    mixed = torch.tensor([[-0.5], [1], [1], [1], [1]], dtype=torch.float64)
    features = torch.cat([features, torch.linalg.lstsq(unit, mixed).solution.mT])
    labels = torch.zeros(10, dtype=torch.long)
    differs = F.cross_entropy(head(features), labels, reduction="none") - F.cross_entropy(
        cosine(features), labels, reduction="none"
    )
    assert differs[:9].abs().max() < 1e-9 and differs[9] < -1.0


def test_parameters_and_multiplications_of_the_paper_scale_head():
    multiplications = {}
    with torch.device("meta"):
        heads = {"subspaces": GrassmannHead(2048, 1000, subspace_dim=8), "softmax": torch.nn.Linear(2048, 1000)}
        for name, head in heads.items():
            with FlopCounterMode(display=False) as counter:
                head(torch.zeros(1, 2048))
            multiplications[name] = counter.get_total_flops() / 2
    counts = {name: sum(p.numel() for p in head.parameters()) for name, head in heads.items()}
    assert counts == {"subspaces": 16_384_000, "softmax": 2_049_000}
    assert multiplications["subspaces"] - multiplications["softmax"] == pytest.approx(14.3e6, rel=0.01)


def test_multiplications_of_the_head_are_little_of_its_backbones():
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        timm_backbone("resnet50d")(torch.zeros(1, 3, 224, 224))
    assert counter.get_total_flops() / 2 == pytest.approx(4.35e9, rel=0.02)
    assert 14.3e6 / (counter.get_total_flops() / 2) == pytest.approx(0.003, abs=0.0005)


@pytest.mark.parametrize("subspace_dim", [0, 11])
def test_impossible_dimension_is_refused(subspace_dim):
    with pytest.raises(ConfigError, match="subspace_dim"):
        GrassmannHead(10, 3, subspace_dim=subspace_dim)


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

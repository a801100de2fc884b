"""Oracles 1-4 and 8: closed forms of the head's gradient and Hessian."""

import math
from itertools import permutations

import pytest
import torch
from alignment_cases import close, dense_gradient, dense_hessian, domains
from torch.nn import functional as F

from curvature.alignment import distance
from curvature.alignment.coral import covariance
from curvature.alignment.domain import Domain
from curvature.alignment.head import (
    augmented,
    head_gradient,
    head_hessian,
    head_hessian_diag,
    head_hessian_trace,
    head_hvp,
)
from curvature.alignment.irm import scale_derivative

CLASSES = [1, 2, 3, 5]


def test_worked_example():
    z = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    theta = torch.tensor([[math.log(2), 0.0], [0.0, 0.0]], dtype=torch.float64)
    logits, labels = augmented(z) @ theta.mT, torch.tensor([0, 1])
    close(logits.softmax(1)[:, 0], torch.tensor([2 / 3, 4 / 5], dtype=torch.float64))
    expected = torch.tensor([19 / 30, 7 / 30], dtype=torch.float64)
    close(head_gradient(z, logits, labels), torch.stack([expected, -expected]))
    block = torch.tensor([[97.0, 61.0], [61.0, 43.0]], dtype=torch.float64) / 225
    hessian = head_hessian(z, logits)
    close(hessian[:2, :2], block)
    close(hessian[:2, 2:], -block)
    close(scale_derivative(logits, labels), math.log(2) * 19 / 30)


@pytest.mark.parametrize("classes", CLASSES)
def test_gradient_hessian_diagonal_and_trace_are_autograds(classes):
    net, found = domains(classes)
    for domain in found:
        hessian = dense_hessian(net, domain)
        close(domain.gradient, dense_gradient(net, domain))
        close(head_hessian(domain.features, domain.logits), hessian)
        close(domain.diagonal.flatten(), hessian.diagonal())
        close(head_hessian_trace(domain.features, domain.logits), hessian.trace())
        vectors = torch.randn(4, *domain.gradient.shape, dtype=torch.float64)
        close(domain.hvp(vectors).flatten(1), vectors.flatten(1) @ hessian)


@pytest.mark.parametrize("classes", CLASSES[1:])
def test_trace_is_one_minus_squared_probabilities_times_feature_norm(classes):
    _, (domain, *_) = domains(classes)
    p = domain.logits.softmax(1)
    expected = ((1 - p.square().sum(1)) * augmented(domain.features).square().sum(1)).mean()
    close(head_hessian_trace(domain.features, domain.logits), expected)


@pytest.mark.parametrize("classes", CLASSES)
def test_hessian_is_semidefinite_bounded_and_singular_along_common_shifts(classes):
    for size in (2, 9):
        _, (domain,) = domains(classes, sizes=(size,))
        extended = augmented(domain.features).detach()
        hessian = head_hessian(domain.features, domain.logits).detach()
        moment = extended.mT @ extended / size
        close(hessian, hessian.mT)
        assert torch.linalg.eigvalsh(hessian)[0] > -1e-12
        cap = 0.25 * moment if classes == 1 else 0.5 * torch.kron(torch.eye(classes, dtype=moment.dtype), moment)
        assert torch.linalg.eigvalsh(cap - hessian)[0] > -1e-12
        if classes > 1:
            shift = torch.randn(extended.shape[1], dtype=moment.dtype).expand(classes, -1)
            close(domain.hvp(shift), torch.zeros_like(shift))
            close(domain.gradient.sum(0), torch.zeros_like(shift[0]))
            rank = int((torch.linalg.eigvalsh(hessian) > 1e-12).sum())
            assert rank <= (classes - 1) * min(size, extended.shape[1])


def test_hessian_ignores_labels_shifts_of_the_logits_and_order():
    _, (domain,) = domains(3, sizes=(8,))
    z, o = domain.features.detach(), domain.logits.detach()
    hessian = head_hessian(z, o)
    close(head_hessian(z, o + torch.randn(8, 1, dtype=o.dtype)), hessian)
    order = torch.randperm(8)
    close(head_hessian(z[order], o[order]), hessian)
    close(head_gradient(z[order], o[order], domain.labels[order]), head_gradient(z, o, domain.labels))


def test_permuting_classes_permutes_blocks():
    _, (domain,) = domains(3, sizes=(8,))
    z, o = domain.features.detach(), domain.logits.detach()
    blocks = head_hessian(z, o).reshape(3, 4, 3, 4)
    for order in permutations(range(3)):
        index = list(order)
        close(head_hessian(z, o[:, index]).reshape(3, 4, 3, 4), blocks[index][:, :, index])


def test_scaling_features_scales_the_weight_block_quadratically():
    z = torch.randn(6, 3, dtype=torch.float64)
    o = torch.zeros(6, 4, dtype=torch.float64)
    plain, scaled = (head_hessian(c * z, o).reshape(4, 4, 4, 4) for c in (1.0, 3.0))
    close(scaled[:, :3, :, :3], 9 * plain[:, :3, :, :3])
    close(scaled[:, :3, :, 3], 3 * plain[:, :3, :, 3])
    close(scaled[:, 3, :, 3], plain[:, 3, :, 3])


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_head_of_zeros_reduces_hessian_distance_to_second_moments(classes):
    found = []
    for seed, size in enumerate((6, 9)):
        z = torch.randn(size, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        found.append(Domain(z, torch.zeros(size, classes, dtype=z.dtype), torch.zeros(size, dtype=torch.long)))
    moments = [augmented(d.features).mT @ augmented(d.features) / len(d.features) for d in found]
    gap = moments[0] - moments[1]
    close(distance.pair_distance(*found), math.sqrt(classes - 1) / classes * gap.norm())
    close(distance.spectral_distance(*found), torch.linalg.matrix_norm(gap, 2) / classes)


def test_softmax_of_two_is_the_logistic_head_doubled():
    _, found = domains(2, sizes=(8, 8))
    logistic = [Domain(d.features, (d.logits[:, 1] - d.logits[:, 0])[:, None], d.labels) for d in found]
    for two, one in zip(found, logistic):
        close(two.loss, one.loss)
        close(two.gradient.square().sum(), 2 * one.gradient.square().sum())
    close(distance.pair_distance(*found), 2 * distance.pair_distance(*logistic))
    close(distance.spectral_distance(*found), 2 * distance.spectral_distance(*logistic))


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("block", [3, 4096])
def test_gram_distances_equal_dense_ones(classes, block, monkeypatch):
    monkeypatch.setattr(distance, "BLOCK", block)
    net, found = domains(classes)
    hessians = torch.stack([dense_hessian(net, d) for d in found])
    expected = (hessians - hessians.mean(0)).flatten(1).square().sum(1)
    close(distance.head_hessian_gram_distance(found), expected)
    inner = torch.stack([torch.stack([distance.hessian_inner_product(a, b) for a in found]) for b in found])
    close(inner, hessians.flatten(1) @ hessians.flatten(1).mT)
    for a, b in ((0, 1), (1, 2)):
        close(distance.pair_distance(found[a], found[b]), (hessians[a] - hessians[b]).norm())
        spectrum = torch.linalg.matrix_norm(hessians[a] - hessians[b], 2)
        close(distance.spectral_distance(found[a], found[b]), spectrum)


def test_spectral_distance_of_large_heads_is_dense_too():
    _, found = domains(4, sizes=(30, 40), width=90)
    assert found[0].gradient.numel() > distance.SMALL
    dense = head_hessian(found[0].features, found[0].logits) - head_hessian(found[1].features, found[1].logits)
    close(distance.spectral_distance(*found), torch.linalg.matrix_norm(dense, 2), 1e-8)


@pytest.mark.parametrize("classes", [1, 3])
def test_closed_forms_are_differentiable_in_the_features(classes):
    _, (first, second) = domains(classes, sizes=(5, 6))
    fixed = Domain(second.features.detach(), second.logits.detach(), second.labels)
    weights = torch.randn(classes, 4, dtype=torch.float64)
    z = first.features.detach().requires_grad_()
    o = first.logits.detach().requires_grad_()
    for function in (
        lambda z, o: head_gradient(z, o, first.labels),
        lambda z, o: head_hvp(z, o, weights),
        head_hessian_diag,
        lambda z, o: distance.head_hessian_gram_distance([Domain(z, o, first.labels), fixed]),
        lambda z, o: distance.spectral_distance(Domain(z, o, first.labels), fixed),
    ):
        assert torch.autograd.gradcheck(function, (z, o))


def test_covariance_divides_by_one_less():
    _, (domain,) = domains(2, sizes=(9,))
    close(covariance(domain), torch.cov(domain.features.mT))


def test_loss_is_torchs():
    _, (domain,) = domains(3, sizes=(9,))
    close(domain.loss, F.cross_entropy(domain.logits, domain.labels))

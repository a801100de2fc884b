"""Closed forms of GSAM (sheet sam_vit, oracle 8)."""

from functools import partial

import pytest
import torch
from torch import nn

from curvature.optim import GSAM, SAM


def prescribed(w, clean, perturbed):
    """A closure whose gradient is ``clean`` at the first call and ``perturbed`` at the second."""
    gradients = iter((clean, perturbed))

    def closure():
        loss = (w * torch.tensor(next(gradients), dtype=w.dtype)).sum()
        loss.backward()
        return loss

    return closure


def direction(clean, perturbed, alpha):
    w = nn.Parameter(torch.zeros(len(clean), dtype=torch.float64))
    optimizer = GSAM([w], partial(torch.optim.SGD, lr=1.0), rho_max=0.1, rho_min=0.1, alpha=alpha)
    optimizer.step(prescribed(w, clean, perturbed))
    return -w.detach()


def test_direction_by_hand():
    expected = torch.tensor([2.0, -1.6], dtype=torch.float64)
    torch.testing.assert_close(direction((3.0, 4.0), (2.0, 0.0), 0.4), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_gap_component_is_orthogonal_to_the_perturbed_gradient(seed):
    generator = torch.Generator().manual_seed(seed)
    clean, perturbed = torch.randn(2, 9, generator=generator, dtype=torch.float64)
    gap = (perturbed - direction(clean.tolist(), perturbed.tolist(), 0.7)) / 0.7
    assert abs((gap @ perturbed).item()) < 1e-10
    residual = clean - gap
    torch.testing.assert_close(residual * (perturbed @ perturbed), (clean @ perturbed) * perturbed, atol=1e-10, rtol=0)


def test_vanishing_gradients_stay_finite():
    assert torch.equal(direction((0.0, 0.0), (0.0, 0.0), 0.5), torch.zeros(2, dtype=torch.float64))
    found = direction((1.0, 2.0), (0.0, 0.0), 0.5)
    torch.testing.assert_close(found, torch.tensor([-0.5, -1.0], dtype=torch.float64), atol=1e-10, rtol=0)


def trained(make):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    inputs, labels = torch.randn(16, 5, dtype=torch.float64), torch.randint(3, (16,))
    optimizer = make(model.parameters())

    def closure():
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        return loss

    for _ in range(4):
        optimizer.step(closure)
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def test_without_gap_term_it_is_sam_bit_for_bit():
    base = partial(torch.optim.AdamW, lr=1e-2)
    gsam = trained(lambda params: GSAM(params, base, rho_max=0.3, rho_min=0.3, alpha=0.0))
    assert torch.equal(gsam, trained(lambda params: SAM(params, base, rho=0.3)))
    assert not torch.equal(gsam, trained(lambda params: GSAM(params, base, rho_max=0.3, rho_min=0.3, alpha=0.1)))


def test_radius_follows_the_learning_rate():
    w = nn.Parameter(torch.ones(1))
    optimizer = GSAM([w], partial(torch.optim.SGD, lr=3e-3), rho_max=0.6, rho_min=0.1, lr_max=3e-3, lr_min=1e-3)
    for lr, rho in [(3e-3, 0.6), (1e-3, 0.1), (2e-3, 0.35), (0.0, 0.1), (5e-4, 0.1)]:
        optimizer.param_groups[0]["lr"] = lr
        assert optimizer.radius() == pytest.approx(rho, abs=1e-10)
    optimizer.param_groups[0]["lr"] = torch.tensor(2e-3, dtype=torch.float64)
    assert optimizer.radius().item() == pytest.approx(0.35, abs=1e-10)
    constant = GSAM([w], partial(torch.optim.SGD, lr=3e-3), rho_max=0.6, rho_min=0.1, lr_min=3e-3)
    assert constant.radius() == 0.6

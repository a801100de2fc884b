"""Low precision: the perturbation is formed in float32, and autocast sees the perturbed weights."""

from functools import partial

import pytest
import torch
from torch import nn

from curvature.optim import SAM

SGD = partial(torch.optim.SGD, lr=0.0)


def recorded(optimizer, params, loss):
    """Weights and gradients in both passes of one step."""
    seen = []

    def closure():
        value = loss()
        value.backward()
        seen.append(([p.detach().clone() for p in params], [p.grad.clone() for p in params]))
        return value

    optimizer.step(closure)
    return seen


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_weights_get_the_rounded_float32_perturbation(dtype, adaptive):
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(200, 30).to(dtype)), nn.Parameter(torch.randn(30).to(dtype))]
    slopes = [torch.randn_like(p) for p in params]
    optimizer = SAM(params, SGD, rho=40.0, adaptive=adaptive, adaptive_scope="all", eta=0.01)
    (start, gradients), (there, _) = recorded(
        optimizer, params, lambda: sum((p * s).sum() for p, s in zip(params, slopes))
    )
    tilts = [w.float().abs() + 0.01 if adaptive else torch.ones(()) for w in start]
    norm = torch.sqrt(sum((t * g.float()).square().sum() for t, g in zip(tilts, gradients)))
    for w, g, t, moved in zip(start, gradients, tilts, there):
        exact = w.float() + 40.0 * t**2 * g.float() / norm
        spacing = torch.finfo(dtype).eps * exact.abs() + torch.finfo(dtype).tiny
        assert ((moved.float() - exact).abs() <= 0.5001 * spacing + 1e-6).all()
    assert optimizer.last_grad_norm.dtype == torch.float32
    torch.testing.assert_close(optimizer.last_grad_norm, norm)


def test_mixed_dtypes_share_one_norm():
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(40).to(dtype)) for dtype in (torch.float64, torch.float32, torch.bfloat16)]
    optimizer = SAM(params, SGD, rho=3.0)
    (start, _), (there, _) = recorded(optimizer, params, lambda: sum(p.double().square().sum() for p in params))
    e = torch.cat([(b.double() - a.double()) for a, b in zip(start, there)])
    assert e.norm().item() == pytest.approx(3.0, rel=1e-2)


def test_autocast_around_the_whole_step_does_not_reuse_unperturbed_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 4))
    inputs, labels = torch.randn(64, 6), torch.randint(4, (64,))
    params, losses = list(model.parameters()), []

    def loss():
        losses.append(nn.functional.cross_entropy(model(inputs), labels))
        return losses[-1]

    optimizer = SAM(params, SGD, rho=2.0)
    with torch.autocast("cpu", torch.bfloat16):
        (start, _), (there, gradients) = recorded(optimizer, params, loss)
        again = loss()
    assert all(p.dtype == torch.float32 for p in there)
    e = torch.cat([(b - a).reshape(-1) for a, b in zip(start, there)])
    assert e.norm().item() == pytest.approx(2.0, rel=1e-5)
    assert losses[1].item() > losses[0].item() + 0.5
    assert again.item() == losses[0].item()

    with torch.no_grad():
        for p, w in zip(params, there):
            p.copy_(w)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss().backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(params, gradients))


def test_tiny_coordinates_survive_in_float32_masters():
    """A step of 2e-5 vanishes in bfloat16 weights near 0.02 but not in float32 ones."""
    for dtype, moves in [(torch.float32, True), (torch.bfloat16, False)]:
        w = nn.Parameter(torch.full((100, 100), 0.02, dtype=dtype))
        (start, _), (there, _) = recorded(SAM([w], SGD, rho=2e-3), [w], lambda w=w: w.sum())
        assert (not torch.equal(start[0], there[0])) == moves

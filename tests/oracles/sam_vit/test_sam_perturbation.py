"""Closed forms of SAM's and ASAM's perturbation e and of the gradient at w + e (sheet sam_vit, oracles 1-6)."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from curvature.optim import SAM

CURVATURES = torch.tensor([1.0, 10.0], dtype=torch.float64)


def sgd(lr=0.01, **kwargs):
    return partial(torch.optim.SGD, lr=lr, **kwargs)


def perturbation_and_gradients(loss, params, named=False, **kwargs):
    """e, the gradient at w and the gradient at w + e, flattened, from one step with learning rate 0."""
    named_params = [(f"layer{i}.weight", p) for i, p in enumerate(params)]
    optimizer = SAM(named_params if named else params, sgd(lr=0.0), **kwargs)
    start = [p.detach().clone() for p in params]
    seen = []

    def closure():
        value = loss()
        value.backward()
        e = torch.cat([(p.detach() - w).reshape(-1) for p, w in zip(params, start)])
        seen.append((e, torch.cat([p.grad.clone().reshape(-1) for p in params])))
        return value

    optimizer.step(closure)
    assert all(torch.equal(p, w) for p, w in zip(params, start))
    (nothing, gradient), (e, gradient_there) = seen
    assert not nothing.any()
    return e, gradient, gradient_there


def quadratic(w, hessian=None):
    hessian = torch.diag(CURVATURES) if hessian is None else hessian
    return lambda: 0.5 * w @ hessian @ w


def test_quadratic_step():
    w = nn.Parameter(torch.ones(2, dtype=torch.float64))
    e, _, gradient = perturbation_and_gradients(quadratic(w), [w], rho=0.1)
    np.testing.assert_allclose(e, [0.0099503719021, 0.099503719020999], atol=1e-10)
    np.testing.assert_allclose(gradient, [1.0099503719021, 10.995037190209988], atol=1e-10)

    optimizer = SAM([w], sgd(), rho=0.1)

    def closure():
        loss = quadratic(w)()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(5.5, abs=1e-10)
    np.testing.assert_allclose(w.detach(), [0.989900496280979, 0.8900496280979], atol=1e-10)
    np.testing.assert_allclose(optimizer.last_grad_norm, np.sqrt(101), atol=1e-10)


def test_gradient_on_any_quadratic_is_hessian_at_the_ascended_point():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(7, 7, generator=generator, dtype=torch.float64)
    hessian = root @ root.T
    w = nn.Parameter(torch.randn(7, generator=generator, dtype=torch.float64))
    _, gradient, there = perturbation_and_gradients(quadratic(w, hessian), [w], rho=0.3)
    torch.testing.assert_close(there, gradient + 0.3 * hessian @ gradient / gradient.norm(), atol=1e-10, rtol=0)


def network(seed=0, widths=(5, 8, 3), bias=True):
    torch.manual_seed(seed)
    layers = [nn.Linear(a, b, bias=bias) for a, b in pairwise(widths)]
    model = nn.Sequential(*[m for layer in layers for m in (layer, nn.Tanh())][:-1]).double()
    inputs, labels = torch.randn(16, widths[0], dtype=torch.float64), torch.randint(widths[-1], (16,))
    return model, lambda: nn.functional.cross_entropy(model(inputs), labels)


@pytest.mark.parametrize("rho", [1e-3, 0.05, 2.0])
def test_perturbation_has_length_rho_over_all_tensors_jointly(rho):
    model, loss = network()
    e, gradient, _ = perturbation_and_gradients(loss, list(model.parameters()), rho=rho)
    assert e.norm().item() == pytest.approx(rho, rel=1e-10)
    torch.testing.assert_close(e, rho * gradient / gradient.norm(), atol=1e-10, rtol=0)


@pytest.mark.parametrize("factor", [1e-6, 3.0, 65536.0])
def test_scaling_the_loss_scales_the_direction_and_leaves_e(factor):
    model, loss = network()
    params = list(model.parameters())
    e, _, there = perturbation_and_gradients(loss, params, rho=0.1)
    scaled_e, _, scaled_there = perturbation_and_gradients(lambda: factor * loss(), params, rho=0.1)
    torch.testing.assert_close(scaled_e, e, atol=1e-10, rtol=0)
    torch.testing.assert_close(scaled_there / factor, there, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("eta", "expected"),
    [(0.0, [0.554700196225229, 0.416025147168922]), (0.01, [0.555558717353532, 0.420825311927183])],
)
def test_asam_perturbation(eta, expected):
    w = nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64))
    slope = torch.tensor([1.0, 3.0], dtype=torch.float64)
    e, _, _ = perturbation_and_gradients(lambda: slope @ w, [w], named=True, rho=0.5, adaptive=True, eta=eta)
    np.testing.assert_allclose(e, expected, atol=1e-10)
    assert (e / (w.detach().abs() + eta)).norm().item() == pytest.approx(0.5, abs=1e-10)


def relu_network(factors):
    """Bias-free two-layer ReLU net; hidden unit k's incoming weights are times, its outgoing ones over factors[k]."""
    torch.manual_seed(1)
    first, second = nn.Linear(4, 6, bias=False).double(), nn.Linear(6, 3, bias=False).double()
    inputs, labels = torch.randn(12, 4, dtype=torch.float64), torch.randint(3, (12,))
    with torch.no_grad():
        first.weight.mul_(factors[:, None])
        second.weight.div_(factors)
    params = [first.weight, second.weight]
    scaling = torch.cat([factors[:, None].expand(6, 4).reshape(-1), (1 / factors).expand(3, 6).reshape(-1)])
    return params, scaling, lambda: nn.functional.cross_entropy(second(first(inputs).relu()), labels)


@pytest.mark.parametrize("adaptive", [True, False])
def test_asam_is_equivariant_to_rescaling_of_relu_units_and_sam_is_not(adaptive):
    perturbations, losses = [], []
    for factors in (torch.ones(6), torch.tensor([0.1, 0.5, 1.0, 2.0, 5.0, 30.0])):
        params, scaling, loss = relu_network(factors.double())
        at_w = loss().item()
        kwargs = {"adaptive": adaptive, "eta": 0.0, "adaptive_scope": "all"}
        e, _, _ = perturbation_and_gradients(loss, params, rho=0.5, **kwargs)
        perturbations.append(e / scaling)
        with torch.no_grad():
            for p, part in zip(params, e.split([p.numel() for p in params])):
                p.add_(part.view_as(p))
        losses.append((at_w, loss().item()))
    assert losses[0][0] == pytest.approx(losses[1][0], abs=1e-10)
    same = (perturbations[0] - perturbations[1]).abs().max().item() < 1e-10
    assert same == adaptive
    assert (abs(losses[0][1] - losses[1][1]) < 1e-10) == adaptive


def slope(radii, errors):
    return np.polyfit(np.log(radii), np.log(errors), 1)[0]


def test_first_order_expansions_have_second_order_errors():
    model, loss = network(seed=3)
    params = list(model.parameters())
    gradient = torch.autograd.grad(loss(), params, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradient])
    norm = flat.norm().item()
    hessian_g = torch.cat([h.reshape(-1) for h in torch.autograd.grad(0.5 * flat @ flat, params)])
    at_w = loss().item()
    radii = np.array([0.01, 0.02, 0.04])
    loss_errors, gradient_errors = [], []
    for rho in radii:
        climbed = []

        def recorded(climbed=climbed):
            value = loss()
            climbed.append(value.item())
            return value

        _, g, there = perturbation_and_gradients(recorded, params, rho=float(rho))
        loss_errors.append(abs(climbed[1] - at_w - rho * norm))
        gradient_errors.append((there - g - rho * hessian_g / norm).norm().item())
    assert slope(radii, loss_errors) == pytest.approx(2.0, abs=0.05)
    assert slope(radii, gradient_errors) == pytest.approx(2.0, abs=0.05)


def step_once(make, seed=0):
    model, loss = network(seed)
    optimizer = make(model.named_parameters())
    for _ in range(5):

        def closure():
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        optimizer.step(closure)
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


BASES = [sgd(lr=0.1, momentum=0.9, weight_decay=0.01), partial(torch.optim.AdamW, lr=3e-3, weight_decay=0.05)]


@pytest.mark.parametrize("base", BASES)
def test_radius_zero_is_the_base_optimizer_bit_for_bit(base):
    assert torch.equal(step_once(lambda params: SAM(params, base, rho=0.0)), step_once(base))
    assert not torch.equal(step_once(lambda params: SAM(params, base, rho=1e-3)), step_once(base))


@pytest.mark.parametrize("base", BASES)
def test_small_radius_recovers_the_base_step(base):
    plain = step_once(base)
    distances = [(step_once(lambda params, rho=rho: SAM(params, base, rho=rho)) - plain).norm() for rho in (1e-5, 1e-6)]
    assert distances[0] < 1e-3
    assert distances[1] / distances[0] == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_zero_gradient_gives_zero_perturbation(dtype, adaptive):
    w = nn.Parameter(torch.tensor([2.0, -1.0], dtype=dtype))
    optimizer = SAM([w], sgd(lr=1.0, weight_decay=0.5), rho=0.5, adaptive=adaptive, adaptive_scope="all", eta=0.0)

    def closure():
        loss = (0.0 * w).sum()
        loss.backward()
        assert torch.equal(w.detach(), torch.tensor([2.0, -1.0], dtype=dtype))
        return loss

    optimizer.step(closure)
    assert torch.equal(w.detach(), torch.tensor([1.0, -0.5], dtype=dtype))
    assert optimizer.last_grad_norm == 0.0


def test_mask_of_dropout_is_the_same_in_both_passes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 2)).double()
    inputs, targets = torch.randn(20, 6, dtype=torch.float64), torch.randn(20, 2, dtype=torch.float64)
    _, first, second = perturbation_and_gradients(
        lambda: nn.functional.mse_loss(model(inputs), targets), list(model.parameters()), rho=1e-8
    )
    torch.testing.assert_close(second, first, atol=1e-6, rtol=0)
    _, first, second = perturbation_and_gradients(
        lambda: nn.functional.mse_loss(model(inputs), targets), list(model.parameters()), rho=1e-8, replay_rng=False
    )
    assert (second - first).norm() > 0.1 * first.norm()

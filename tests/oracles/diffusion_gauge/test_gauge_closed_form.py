"""Closed-form facts of gauge fields and their flows: conditions, Jacobians, determinants, the Gaussian case."""

import math

import pytest
import torch

from curvature.errors import ConfigError
from curvature.samplers.gauge import (
    GaugedScore,
    asymmetry,
    dimension_by_slope,
    dimension_by_threshold,
    gradient_part,
    reverse_flow,
)
from curvature.samplers.gauge_facts import dimension_facts, split_facts
from curvature.samplers.manifolds import antisymmetric, manifold
from curvature.samplers.targets import GaussianMixture, ring

F64 = torch.float64


def field(strength=2.0, deviation=0.3):
    return GaugedScore(ring(6, 1.0, deviation), antisymmetric(2), strength)


def points(t=0.3, count=40, seed=0):
    return ring(6, 1.0, 0.3).noised(1.0, t).sample(count, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("t", [0.05, 0.3, 2.0])
def test_gauge_condition_and_orthogonality(t):
    gauged, x = field(), points(t)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda y: gauged.remainder(y[None], t)[0]))(x)
    divergence = jacobian.diagonal(dim1=1, dim2=2).sum(1)
    score, remainder = gauged.score(x, t), gauged.remainder(x, t)
    residual = divergence + (remainder * score).sum(1)
    scale = remainder.norm(dim=1) * score.norm(dim=1) + jacobian.norm(dim=(1, 2))
    assert (residual.abs() <= 1e-12 * scale).all()
    torch.testing.assert_close(gauged.gauge_residual(x, t), residual, rtol=0, atol=1e-10)
    energy = gauged.field(x, t).square().sum(1)
    torch.testing.assert_close(energy, score.square().sum(1) + remainder.square().sum(1), rtol=1e-12, atol=0)


def test_a_symmetric_matrix_is_no_gauge():
    a = torch.tensor([[1.0, 0.5], [0.5, -0.2]], dtype=F64)
    gauged, x = GaugedScore(ring(6, 1.0, 0.3), a, 1.0), points()
    score = gauged.score(x, 0.3)
    expected = torch.einsum("ij,bji->b", a, gauged.target.hessian(x, 1.0, 0.3)) + torch.einsum(
        "bi,ij,bj->b", score, a, score
    )
    torch.testing.assert_close(gauged.gauge_residual(x, 0.3), expected)
    assert gauged.gauge_residual(x, 0.3).abs().median() > 0.5


def test_jacobian_against_autograd_and_its_asymmetry():
    gauged, x = field(), points()
    value, jacobian = gauged.field_and_jacobian(x, 0.3)
    expected = torch.func.vmap(torch.func.jacrev(lambda y: gauged.field(y[None], 0.3)[0]))(x)
    torch.testing.assert_close(value, gauged.field(x, 0.3), rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(jacobian, expected, rtol=1e-9, atol=1e-10)
    hessian = gauged.target.hessian(x, 1.0, 0.3)
    curl = 2.0 * (gauged.rotation @ hessian + hessian @ gauged.rotation)
    torch.testing.assert_close(jacobian - jacobian.mT, curl, rtol=1e-9, atol=1e-10)
    assert (asymmetry(field(0.0), x, 0.3) < 1e-12).all()
    assert asymmetry(gauged, x, 0.3).median() > 0.1


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_gaussian_flow_in_closed_form(strength):
    target = GaussianMixture(torch.zeros(1, 3, dtype=F64), torch.full((3,), 0.49, dtype=F64))
    noise = target.noised(1.0, 10.0).sample(5, torch.Generator().manual_seed(0))
    flow = reverse_flow(GaugedScore(target, antisymmetric(3), strength), noise, 10.0, 0.1, 400)
    ratio = (0.49 + 0.01) / (0.49 + 100.0)
    torch.testing.assert_close(
        flow.jacobian @ flow.jacobian.mT, ratio * torch.eye(3, dtype=F64).expand(5, 3, 3), rtol=1e-6, atol=1e-9
    )
    values = torch.linalg.svdvals(flow.jacobian)
    torch.testing.assert_close(values, torch.full((5, 3), math.sqrt(ratio), dtype=F64), rtol=1e-6, atol=0)
    torch.testing.assert_close(flow.log_density, target.noised(1.0, 0.1).log_prob(flow.samples), rtol=0, atol=1e-6)


@pytest.mark.parametrize("strength", [0.0, 3.0])
def test_flow_is_the_derivative_of_its_samples_and_conserves_probability(strength):
    gauged = field(strength)
    start = gauged.target.noised(1.0, 5.0)
    noise = start.sample(6, torch.Generator().manual_seed(0))
    flow = reverse_flow(gauged, noise, 5.0, 0.1, 300)
    shift = 1e-5
    for axis in range(2):
        step = shift * torch.eye(2, dtype=F64)[axis]
        ends = [reverse_flow(gauged, noise + sign * step, 5.0, 0.1, 300).samples for sign in (1, -1)]
        torch.testing.assert_close((ends[0] - ends[1]) / (2 * shift), flow.jacobian[:, :, axis], rtol=1e-4, atol=1e-6)
    change = start.log_prob(noise) - flow.log_density
    torch.testing.assert_close(torch.linalg.slogdet(flow.jacobian).logabsdet, change, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(
        flow.log_density, gauged.target.noised(1.0, 0.1).log_prob(flow.samples), rtol=0, atol=1e-3
    )


def test_projection_leaves_gradients_and_removes_gauge_parts():
    gauged, x = field(1.0), points(0.3, 3000)
    centres = 1.3 * torch.cartesian_prod(*[torch.linspace(-1, 1, 9, dtype=F64)] * 2)
    linear = gradient_part(gauged.target, 2.0 * x, x, centres, 0.35)
    torch.testing.assert_close(linear, 2.0 * x, rtol=0, atol=1e-8)
    remainder = gauged.remainder(x, 0.3)
    left = gradient_part(gauged.target, remainder, x, centres, 0.35)
    assert left.norm() < 0.25 * remainder.norm()


def test_dimension_on_circle_and_sphere():
    for name, end in (("circle", 0.12), ("sphere", 0.12)):
        chosen = manifold(name)
        noise = chosen.target.noised(1.0, 20.0).sample(20, torch.Generator().manual_seed(0))
        flow = reverse_flow(GaugedScore(chosen.target, chosen.rotation), noise, 20.0, end, 300)
        assert (dimension_by_slope(flow) == chosen.dim).all()
        assert dimension_by_threshold(flow).min() >= 1


def test_gauge_part_splits_the_singular_values_of_the_sphere():
    found = dimension_facts(0, "sphere", points=12, steps=250)
    assert found["spread/plain"] < 1.1
    assert found["spread/gauge"] > 3
    assert found["slope/gauge/1"] < 0 < found["slope/plain/1"] < 0.2


def test_split_facts():
    found = split_facts(0, 1500)
    assert found["gauge/residual"] < 1e-10
    assert found["split/idempotence"] < 1e-9
    assert found["split/dsm_excess_z"] < 5


def test_bad_arguments():
    with pytest.raises(ConfigError, match="rotation"):
        GaugedScore(ring(), torch.zeros(3, 3, dtype=F64))
    with pytest.raises(ConfigError, match="variances"):
        GaugedScore(
            GaussianMixture(torch.zeros(1, 2, dtype=F64), torch.tensor([1.0, 2.0], dtype=F64)), antisymmetric(2)
        )
    with pytest.raises(ConfigError, match="manifold"):
        manifold("torus")
    with pytest.raises(ConfigError, match="ambient"):
        manifold("sphere", 2)
    for options in ((1.0, 2.0, 100), (2.0, 1.0, 10)):
        with pytest.raises(ConfigError):
            reverse_flow(field(), points(), *options)

"""What the Bures-Wasserstein batch norm must satisfy: oracles O8 to O13."""

import math

import pytest
import torch
from spd_random import orthogonal, spd, symmetric
from torch.autograd import gradcheck

from curvature.errors import ConfigError
from curvature.geometry.spd import bures_wasserstein, matrix_power
from curvature.models.spdnet import GBWBatchNorm

EYE = torch.eye(4, dtype=torch.float64)


def layer(n=4, scale=1.0, metric=None, bias=None, **options):
    built = GBWBatchNorm(n, **options)
    with torch.no_grad():
        built.scale.fill_(scale)
        if metric is not None:
            built.metric.copy_(metric)
        if bias is not None:
            built.bias.copy_(bias)
    return built


def mean_and_variance(X, M, theta):
    powers = matrix_power(X, theta)
    mean = bures_wasserstein.barycentre(powers, M)
    return mean, bures_wasserstein.squared_distance(mean, powers, M).mean() / theta**2


@pytest.mark.parametrize("theta", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("tangent", ["literal", "direct"])
def test_o8_mean_and_variance_of_the_output(theta, tangent):
    X, M, G = spd(40, 4, low=0.5, high=1.5, seed=1), spd(4, seed=2), spd(4, seed=3)
    norm = layer(scale=0.3, metric=M, bias=G, theta=theta, karcher_steps=60, tangent=tangent)
    with torch.no_grad():
        out = norm(X)
    _, before = mean_and_variance(X, M, theta)
    mean, after = mean_and_variance(out, M, theta)
    assert float((mean - matrix_power(G, theta)).abs().max()) < 1e-13
    expected = 0.3**2 * before / (before + norm.eps)
    assert float(after) == pytest.approx(float(expected), abs=1e-12)
    assert float(norm.folded) == 0.0


@pytest.mark.parametrize(("theta", "error"), [(1.0, 8e-5), (0.5, 8e-6), (0.25, 8e-7)])
def test_o8_one_step_leaves_a_small_error_of_the_mean(theta, error):
    X = spd(30, 6, low=0.5, high=1.5, seed=4)
    with torch.no_grad():
        out = layer(6, scale=0.3, theta=theta)(X)
    mean, _ = mean_and_variance(out, None, theta)
    found = float(torch.linalg.matrix_norm(mean - torch.eye(6, dtype=torch.float64)))
    assert error / 8 < found < 8 * error


@pytest.mark.parametrize("theta", [1.0, 0.5, -0.5])
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_o9_diagonal_matrices_in_closed_form_with_folding(theta, spread):
    generator = torch.Generator().manual_seed(5)
    x, m, g = (
        torch.exp(spread * torch.randn(*s, 4, dtype=torch.float64, generator=generator)) for s in ((12,), (), ())
    )
    m, g, s = m ** (0.3 / spread), g ** (0.3 / spread), 1.4
    norm = layer(scale=s, metric=torch.diag(m), bias=torch.diag(g), theta=theta)
    with torch.no_grad():
        out = norm(torch.diag_embed(x))
    u, root_g = (x**theta / m).sqrt(), (g**theta / m).sqrt()
    root_b = u.mean(0)
    variance = (u - root_b).square().sum(-1).mean() / theta**2
    c = s / (variance + norm.eps).sqrt()
    r = 1 + u - root_b
    q = 1 + c * (r.abs() - 1)
    last = root_g + q.abs() - 1
    expected = (m * last**2) ** (1 / theta)
    torch.testing.assert_close(out, torch.diag_embed(expected), rtol=1e-9, atol=1e-9)
    folded = ((r < 0) | (q < 0) | (last < 0)).any(-1).double().mean()
    assert float(norm.folded) == float(folded)
    assert float(norm.running_var) == pytest.approx(0.9 + 0.1 * float(variance), rel=1e-12)
    running = (0.9 + 0.1 * root_b) ** 2
    torch.testing.assert_close(norm.running_mean, torch.diag(running), rtol=1e-12, atol=1e-12)


def test_folding_depends_on_the_scale_of_the_input_and_on_theta():
    X = spd(30, 10, low=0.5, high=1.5, seed=6)

    def folded(scale, theta):
        norm = layer(10, theta=theta)
        norm(scale * X)
        return float(norm.folded)

    assert folded(0.5, 1.0) == 0.0 and folded(100.0, 1.0) > 0.9
    assert folded(100.0, 0.25) < folded(100.0, 1.0)


@pytest.mark.parametrize("theta", [1.0, 0.5])
def test_o10_bias_and_scale_of_the_batch_make_the_layer_the_identity(theta):
    X, M = spd(20, 4, low=0.5, high=1.5, seed=7), spd(4, low=0.8, high=1.25, seed=8)
    mean, variance = mean_and_variance(X, M, theta)
    scale = math.sqrt(float(variance) + 1e-5)
    norm = layer(scale=scale, metric=M, bias=matrix_power(mean, 1 / theta), theta=theta, karcher_steps=None)
    with torch.no_grad():
        torch.testing.assert_close(norm(X), X, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
def test_o11_equivariance(training):
    X, M, G, Q = spd(10, 4, seed=1), spd(4, seed=2), spd(4, seed=3), orthogonal(4, 4)
    first = layer(scale=0.4, metric=M, bias=G, theta=0.5).train(training)
    second = layer(scale=0.4, metric=Q @ M @ Q.T, bias=Q @ G @ Q.T, theta=0.5).train(training)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        out = first(X)
        torch.testing.assert_close(second(Q @ X @ Q.T), Q @ out @ Q.T, rtol=1e-11, atol=1e-11)
        again = layer(scale=0.4, metric=M, bias=G, theta=0.5).train(training)
        torch.testing.assert_close(again(X[order]), out[order], rtol=1e-12, atol=1e-12)


def test_o11_invariance_to_scale():
    X = spd(10, 4, low=0.5, high=1.5, seed=1)
    options = {"theta": 1.0, "eps": 1e-30, "scale": 0.3}
    with torch.no_grad():
        torch.testing.assert_close(layer(**options)(0.2 * X), layer(**options)(X), rtol=1e-9, atol=1e-9)


def test_o12_gradients_of_metric_and_bias_are_opposite_at_the_identity():
    X = spd(8, 4, seed=1)
    norm = layer(scale=math.sqrt(1 + 1e-5)).eval()
    weights = symmetric(8, 4, seed=2)
    (norm(X) * weights).sum().backward()
    torch.testing.assert_close(norm.metric.grad, -norm.bias.grad, rtol=1e-12, atol=1e-12)
    off_diagonal = norm.metric.grad - torch.diag(norm.metric.grad.diagonal())
    assert float(off_diagonal.abs().max()) > 1e-2


POINTS = {"identity": (EYE, EYE), "generic": (spd(4, seed=2), spd(4, seed=3))}


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS.keys())
@pytest.mark.parametrize("theta", [1.0, 0.5, -0.7])
@pytest.mark.parametrize("stats_grad", [True, False], ids=["stats", "constants"])
@pytest.mark.parametrize("tangent", ["literal", "direct"])
def test_gradients_in_input_metric_bias_and_scale(point, theta, stats_grad, tangent):
    X = spd(3, 4, low=0.7, high=1.4, seed=1)

    def forward(x, M, G, s):
        options = {"theta": theta, "stats_grad": stats_grad, "tangent": tangent, "karcher_steps": 2}
        norm = GBWBatchNorm(4, **options).train(stats_grad)
        for name, value in (("metric", M), ("bias", G)):
            delattr(norm, name)
            setattr(norm, name, (value + value.T) / 2)
        del norm.scale
        norm.scale = s
        norm.running_mean.copy_(spd(4, low=0.9, high=1.1, seed=9))
        return norm((x + x.mT) / 2)

    inputs = [X, *point, torch.tensor(0.3, dtype=torch.float64)]
    assert gradcheck(forward, [value.clone().requires_grad_() for value in inputs], atol=1e-6, rtol=1e-5)


def test_gradients_of_folded_samples_are_those_of_the_absolute_value():
    X = spd(3, 3, low=0.1, high=50.0, seed=1)

    def forward(x):
        norm = GBWBatchNorm(3, stats_grad=True)
        out = norm((x + x.mT) / 2)
        assert float(norm.folded) > 0
        return out

    assert gradcheck(forward, X.requires_grad_(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("theta", [1.0, 0.5])
def test_o13_direct_equals_literal_inside_the_domain_only(theta):
    X, M, G = spd(20, 4, low=0.5, high=1.5, seed=1), spd(4, seed=2), spd(4, seed=3)
    pair = [layer(scale=0.3, metric=M, bias=G, theta=theta, tangent=tangent) for tangent in ("literal", "direct")]
    with torch.no_grad():
        inside = [norm(X) for norm in pair]
        torch.testing.assert_close(*inside, rtol=1e-12, atol=1e-12)
        outside = [norm(1e4 * X) for norm in pair]
    assert float(pair[0].folded) > 0
    assert float((outside[0] - outside[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("stats_grad", [True, False])
def test_o13_statistics_couple_the_samples_only_with_stats_grad(stats_grad):
    X = spd(5, 4, seed=1).requires_grad_()
    out = layer(theta=0.5, stats_grad=stats_grad)(X)
    (gradient,) = torch.autograd.grad((out[0] * symmetric(4, seed=2)).sum(), X)
    assert float(gradient[0].abs().max()) > 1e-3
    coupled = float(gradient[1:].abs().max())
    assert coupled > 1e-4 if stats_grad else coupled == 0.0


@pytest.mark.parametrize("theta", [1.0, 0.5, 0.3, -0.5])
@pytest.mark.parametrize("dispersion", [True, False])
def test_training_and_evaluation_on_diagonal_matrices_in_closed_form(theta, dispersion):
    generator = torch.Generator().manual_seed(1)
    x, other = torch.exp(0.3 * torch.randn(2, 12, 4, dtype=torch.float64, generator=generator))
    m, g = torch.exp(0.3 * torch.randn(2, 4, dtype=torch.float64, generator=generator))
    norm = GBWBatchNorm(4, theta, dispersion=dispersion)
    with torch.no_grad():
        norm.metric.copy_(torch.diag(m))
        norm.bias.copy_(torch.diag(g))
        if dispersion:
            norm.scale.fill_(0.6)
        trained = norm(torch.diag_embed(x))
        evaluated = norm.eval()(torch.diag_embed(other))

    def expected(x, root_mean, variance):
        factor = 0.6 / (variance + norm.eps).sqrt() if dispersion else 1.0
        moved = (g**theta / m).sqrt() + factor * ((x**theta / m).sqrt() - root_mean)
        return torch.diag_embed((m * moved.square()) ** (1 / theta))

    roots = (x**theta / m).sqrt()
    variance = (roots - roots.mean(0)).square().sum(-1).mean() / theta**2
    torch.testing.assert_close(trained, expected(x, roots.mean(0), variance), rtol=1e-10, atol=1e-12)
    running = 0.9 + 0.1 * roots.mean(0), 0.9 + 0.1 * variance
    torch.testing.assert_close(evaluated, expected(other, *running), rtol=1e-10, atol=1e-12)
    assert float(norm.folded) == 0.0


@pytest.mark.parametrize("theta", [1.0, 0.5, 0.3])
@pytest.mark.parametrize("training", [True, False])
def test_statistics_are_the_same_with_and_without_their_gradient(theta, training):
    """Both ways to centre, entry by entry where the mean is a constant; ill-conditioned points, M and G not I."""
    X, options = (
        spd(12, 4, low=1e-4, high=3.0, seed=1),
        {"scale": 0.7, "metric": spd(4, seed=2), "bias": spd(4, seed=3)},
    )
    found = []
    for stats_grad in (True, False):
        norm = layer(theta=theta, stats_grad=stats_grad, **options)
        norm(spd(9, 4, seed=4))
        out = norm.train(training)(X)
        found.append((out, norm.running_mean, norm.running_var, norm.folded))
    for with_gradient, constant in zip(*found, strict=True):
        torch.testing.assert_close(with_gradient, constant, rtol=1e-10, atol=1e-11)


def test_channels_share_statistics_with_the_batch():
    X = spd(6, 3, 4, seed=1)
    first, second = layer(theta=0.5), layer(theta=0.5)
    with torch.no_grad():
        torch.testing.assert_close(first(X), second(X.reshape(18, 4, 4)).reshape(6, 3, 4, 4), rtol=0, atol=0)
    assert torch.equal(first.running_mean, second.running_mean)


def test_a_batch_of_one_uses_running_statistics_and_leaves_them_alone():
    norm = layer(theta=0.5)
    norm(spd(10, 4, seed=1))
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    X = spd(1, 4, seed=2)
    with pytest.warns(RuntimeWarning, match="batch of one"):
        out = norm(X)
    torch.testing.assert_close(out, norm.eval()(X), rtol=0, atol=0)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_metric_that_is_not_learned_is_the_identity_and_no_parameter():
    fixed, learned = GBWBatchNorm(4, learnable_metric=False), GBWBatchNorm(4)
    assert {name for name, _ in fixed.named_parameters()} == {"bias", "scale"}
    assert {name for name, _ in learned.named_parameters()} == {"bias", "scale", "metric"}
    X = spd(5, 4, seed=1)
    torch.testing.assert_close(fixed(X), learned(X), rtol=0, atol=0)


def test_without_dispersion_nothing_is_scaled():
    X = spd(20, 4, low=0.8, high=1.2, seed=1)
    norm = GBWBatchNorm(4, dispersion=False, karcher_steps=None)
    with torch.no_grad():
        _, after = mean_and_variance(norm(X), None, 1.0)
    _, before = mean_and_variance(X, None, 1.0)
    assert float(after) == pytest.approx(float(before), rel=1e-10)


def test_float32_input_beyond_condition_1e5_is_warned_of():
    X = torch.diag_embed(torch.tensor([[1.0, 1e-7], [1.0, 1e-7]]))
    with pytest.warns(RuntimeWarning, match="float64"):
        GBWBatchNorm(2)(X)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"theta": 0.0}, "theta"),
        ({"karcher_steps": 0}, "karcher_steps"),
        ({"eps": 0.0}, "eps"),
        ({"momentum": 1.5}, "momentum"),
        ({"tangent": "both"}, "tangent"),
        ({"variance_about": "median"}, "variance_about"),
    ],
)
def test_bad_arguments(options, key):
    with pytest.raises(ConfigError, match=f"model.norm.{key}"):
        GBWBatchNorm(4, **options)
    with pytest.raises(ValueError, match="size 4"):
        GBWBatchNorm(4)(spd(2, 3))

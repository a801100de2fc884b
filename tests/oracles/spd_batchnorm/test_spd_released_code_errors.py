"""Mistakes known from released code of this and related papers, which must not occur here; oracles O14 and O15."""

import itertools
import math

import geoopt
import pytest
import torch
from spd_random import orthogonal, spd, symmetric

from curvature.geometry.spd import (
    affine_invariant,
    bures_wasserstein,
    log_cholesky,
    matrix_exp,
    matrix_log,
    matrix_power,
)
from curvature.models.spdnet import (
    SPDMBN,
    AIMBatchNorm,
    BiMap,
    GBWBatchNorm,
    LieBatchNorm,
    LogEig,
    ReEig,
    SPDNet,
    SPDResNet,
    Vech,
)
from curvature.optim.riemannian import riemannian_adam, riemannian_sgd

NORMS = {
    "gbw": lambda n: GBWBatchNorm(n, theta=0.5),
    "bw": lambda n: GBWBatchNorm(n, learnable_metric=False),
    "aim": AIMBatchNorm,
    "lie-aim": lambda n: LieBatchNorm(n, "aim", theta=0.8),
    "lie-lem": lambda n: LieBatchNorm(n, "lem"),
    "lie-lcm": lambda n: LieBatchNorm(n, "lcm", theta=0.5),
    "spdmbn": SPDMBN,
}


def small(factory):
    return SPDNet([6, 4], 3, factory)


@pytest.mark.parametrize("theta", [1.0, 0.5])
def test_variance_is_about_the_mean_and_only_on_request_about_the_identity(theta):
    X = 3 * spd(20, 4, low=0.2, high=3.0, seed=1)
    Y = matrix_power(X, theta)
    about_mean, about_identity = (
        bures_wasserstein.squared_distance(centre, Y).mean() / theta**2
        for centre in (bures_wasserstein.barycentre(Y, steps=1), torch.eye(4, dtype=torch.float64))
    )
    assert abs(float(about_mean - about_identity)) > 0.05
    for option, expected in (("mean", about_mean), ("identity", about_identity)):
        norm = GBWBatchNorm(4, theta=theta, momentum=1.0, variance_about=option)
        norm(X)
        assert float(norm.running_var) == pytest.approx(float(expected), rel=1e-10)


def test_two_layers_with_different_theta_do_not_disturb_each_others_gradients():
    X, g = spd(5, 4, seed=1), symmetric(5, 4, seed=2)

    def gradient(interfere):
        x = X.clone().requires_grad_()
        out = GBWBatchNorm(4, theta=0.5)(x)
        if interfere:
            GBWBatchNorm(4, theta=0.25)(X)
        return torch.autograd.grad((out * g).sum(), x)[0]

    assert torch.equal(gradient(False), gradient(True))


@pytest.mark.parametrize("theta", [1.0, 0.5])
def test_first_gradient_of_the_metric_has_off_diagonal_entries(theta):
    norm = GBWBatchNorm(4, theta=theta)
    (norm(spd(10, 4, seed=1)) * symmetric(10, 4, seed=2)).sum().backward()
    gradient = norm.metric.grad
    assert float((gradient - torch.diag(gradient.diagonal())).abs().max()) > 1e-3


@pytest.mark.parametrize("optimizer", [riemannian_adam, riemannian_sgd])
def test_o15_bimap_moves_and_stays_orthonormal_and_spd_parameters_stay_definite(optimizer):
    torch.manual_seed(0)
    net = small(NORMS["gbw"])
    first = net[0].weight.detach().clone()
    steps = optimizer(net.named_parameters(), lr=0.01)
    X, labels = spd(30, 6, seed=1), torch.arange(30) % 3
    for _ in range(100):
        steps.zero_grad()
        torch.nn.functional.cross_entropy(net(X), labels).backward()
        steps.step()
    W = net[0].weight.detach()[0, 0]
    assert float((W.T @ W - torch.eye(4, dtype=torch.float64)).abs().max()) < 1e-10
    assert float((net[0].weight.detach() - first).abs().max()) > 1e-2
    for parameter in (net[1].metric.detach(), net[1].bias.detach()):
        assert torch.linalg.eigvalsh(parameter)[0] > 0
        torch.testing.assert_close(parameter, parameter.mT, rtol=1e-12, atol=1e-12)
        assert float((parameter - torch.eye(4, dtype=torch.float64)).abs().max()) > 1e-3


def test_step_of_an_spd_parameter_pairs_the_affine_invariant_gradient_with_its_retraction():
    norm = GBWBatchNorm(4)
    P, g, lr = spd(4, seed=1), symmetric(4, seed=2), 0.05
    with torch.no_grad():
        norm.metric.copy_(P)
    norm.metric.grad = g.clone()
    riemannian_sgd([("metric", norm.metric)], lr=lr, momentum=0.0).step()
    exact = affine_invariant.exp(P, -lr * P @ g @ P)
    error = float((norm.metric.detach() - exact).abs().max())
    assert error < 20 * lr**3 and error < 0.02 * float((exact - P).abs().max())


def test_weight_decay_leaves_manifold_parameters_and_the_scale_alone():
    net = small(NORMS["gbw"])
    optimizer = riemannian_sgd(net.named_parameters(), lr=0.1, momentum=0.0, weight_decay=0.5)
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in net.named_parameters():
        exempt = isinstance(value, geoopt.ManifoldParameter) or name.endswith("scale")
        factor = 1.0 if exempt else 0.95
        torch.testing.assert_close(value.detach(), factor * before[name], rtol=1e-12, atol=1e-12)
    assert isinstance(net[1].metric, geoopt.ManifoldParameter) and net[1].scale.item() == 1.0


def test_transport_and_exponential_of_the_bias_use_the_same_point():
    M, G = spd(4, seed=2), spd(4, seed=3)
    norm = GBWBatchNorm(4, theta=0.5, karcher_steps=None)
    with torch.no_grad():
        norm.metric.copy_(M)
        norm.bias.copy_(G)
        norm.scale.fill_(0.2)
        out = matrix_power(norm(spd(30, 4, low=0.5, high=1.5, seed=1)), 0.5)
    torch.testing.assert_close(bures_wasserstein.barycentre(out, M), matrix_power(G, 0.5), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("factory", NORMS.values(), ids=NORMS.keys())
def test_o15_statistics_are_buffers_that_survive_state_dict_and_moves(factory):
    first, second = small(factory), small(factory)
    first(spd(12, 6, low=0.1, high=3.0, seed=1))
    assert not any("running" in name for name, _ in first.named_parameters())
    second.load_state_dict(first.state_dict())
    for name in ("running_mean", "running_var"):
        value = getattr(first[1], name)
        assert value.dtype == torch.float64 and torch.equal(value, getattr(second[1], name))
        assert float((value - getattr(small(factory)[1], name)).abs().max()) > 1e-6 or (
            name == "running_var" and isinstance(first[1], AIMBatchNorm)
        )
    assert first.to("cpu")[1].running_mean.dtype == torch.float64
    X = spd(7, 6, seed=3)
    with torch.no_grad():
        torch.testing.assert_close(first.eval()(X), second.eval()(X), rtol=0, atol=0)


@pytest.mark.parametrize("factory", NORMS.values(), ids=NORMS.keys())
def test_loss_falls_and_everything_stays_finite(factory):
    torch.manual_seed(0)
    net = small(factory)
    X = torch.cat([spd(15, 6, low=low, high=3.0, seed=seed) for seed, low in enumerate((0.01, 0.3, 2.0))])
    labels = torch.arange(3).repeat_interleave(15)
    optimizer = riemannian_adam(net.named_parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(X), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_nearly_singular_input_is_floored_and_negative_eigenvalues_are_not_hidden():
    X = torch.diag_embed(torch.tensor([[1.0, -1e-17], [1.0, 0.5], [2.0, 1e-3]]).double())
    x = X.requires_grad_()
    out = GBWBatchNorm(2, theta=0.5)(x)
    out.sum().backward()
    assert bool(torch.isfinite(out).all()) and bool(torch.isfinite(x.grad).all())
    floored = matrix_power(torch.diag(torch.tensor([1.0, -1e-3]).double()), 0.5)
    assert float(floored[1, 1]) == pytest.approx(1e-7, rel=1e-9)


def test_rectified_pairs_keep_their_mixed_derivative():
    x = torch.diag(torch.tensor([2.0, 1e-6, 1e-7]).double()).requires_grad_()
    ReEig(1e-4)(x).backward(torch.ones(3, 3, dtype=torch.float64))
    mixed = (2.0 - 1e-4) / (2.0 - 1e-6)
    assert float(x.grad[0, 1]) == pytest.approx(mixed, rel=1e-12) and float(x.grad[1, 2]) == 0.0


def test_o14_affine_invariant_norm_centres_at_the_bias_and_whitens():
    X, G = spd(15, 4, seed=1), spd(4, seed=2)
    A = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    norm, other = (AIMBatchNorm(4, karcher_steps=None) for _ in range(2))
    with torch.no_grad():
        plain, moved = norm(X), other(A @ X @ A.T)
        norm.bias.copy_(G)
        mean = affine_invariant.barycentre(norm(X))
    torch.testing.assert_close(mean, G, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(torch.linalg.eigvalsh(plain), torch.linalg.eigvalsh(moved), rtol=1e-9, atol=1e-9)
    assert float((plain - moved).abs().max()) > 1e-3


def test_o14_log_euclidean_lie_norm_is_euclidean_batch_norm_of_logarithms():
    X, G = spd(15, 4, seed=1), spd(4, seed=2)
    norm = LieBatchNorm(4, "lem")
    with torch.no_grad():
        norm.bias.copy_(G)
        norm.scale.fill_(0.7)
        logs = matrix_log(X)
        centred = logs - logs.mean(0)
        variance = centred.square().sum((1, 2)).mean()
        expected = matrix_exp(0.7 * centred / (variance + 1e-5).sqrt() + matrix_log(G))
        torch.testing.assert_close(norm(X), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("metric", "theta"), [("aim", 1.0), ("aim", 1.5), ("lcm", 0.5)])
def test_lie_norms_give_the_bias_as_mean(metric, theta):
    X, G = spd(15, 4, seed=1), spd(4, seed=2)
    norm = LieBatchNorm(4, metric, theta, karcher_steps=None)
    with torch.no_grad():
        norm.bias.copy_(G)
        out = matrix_power(norm(X), theta)
    mean = (affine_invariant if metric == "aim" else log_cholesky).barycentre(out)
    torch.testing.assert_close(mean, matrix_power(G, theta), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("metric", "theta"), [("aim", 1.0), ("aim", 1.5), ("lem", 1.0), ("lcm", 1.0), ("lcm", 0.5)])
def test_lie_norms_of_diagonal_matrices_in_closed_form(metric, theta):
    generator = torch.Generator().manual_seed(1)
    x, other = torch.exp(torch.randn(2, 12, 4, dtype=torch.float64, generator=generator))
    g = torch.exp(torch.randn(4, dtype=torch.float64, generator=generator))
    norm, scale = LieBatchNorm(4, metric, theta), 0.7
    with torch.no_grad():
        norm.bias.copy_(torch.diag(g))
        norm.scale.fill_(scale)
        trained = norm(torch.diag_embed(x))
        evaluated = norm.eval()(torch.diag_embed(other))
    power = {"aim": theta, "lem": 1.0, "lcm": theta / 2}[metric]
    logs, others = power * x.log(), power * other.log()
    mean, variance = logs.mean(0), (logs - logs.mean(0)).square().sum(-1).mean() / theta**2

    def expected(coordinates, mean, variance):
        factor = scale / (variance + norm.eps).sqrt()
        return torch.diag_embed(g * torch.exp(factor * (coordinates - mean) / power))

    torch.testing.assert_close(trained, expected(logs, mean, variance), rtol=1e-11, atol=1e-12)
    running = 0.1 * mean, 0.9 + 0.1 * variance
    assert float(norm.running_var) == pytest.approx(float(running[1]), rel=1e-12)
    torch.testing.assert_close(evaluated, expected(others, *running), rtol=1e-11, atol=1e-12)


def test_momentum_of_spdmbn_falls_from_one_to_its_end():
    norm = SPDMBN(4, final_momentum=0.25, schedule_steps=10)
    values = [norm.training_momentum(k) for k in range(1, 15)]
    assert values[0] == pytest.approx(1.0) and values[9:] == pytest.approx([0.25] * 5)
    assert all(later <= earlier for earlier, later in itertools.pairwise(values))
    X = spd(10, 4, seed=1)
    with torch.no_grad():
        norm(X)
    torch.testing.assert_close(norm.training_mean, affine_invariant.barycentre(X, steps=1), rtol=1e-10, atol=1e-10)


def test_layers_and_vectorisation():
    X, Q = spd(5, 2, 6, seed=1), orthogonal(6, 2)
    many = BiMap(6, 4, in_channels=2, out_channels=3)
    assert many(X).shape == (5, 3, 4, 4)
    expected = sum(many.weight[1, h].T @ X[:, h] @ many.weight[1, h] for h in range(2))
    torch.testing.assert_close(many(X)[:, 1], expected, rtol=1e-12, atol=1e-12)
    square = BiMap(6, 6)
    with torch.no_grad():
        square.weight[0, 0] = Q
    eigenvalues = torch.linalg.eigvalsh
    torch.testing.assert_close(eigenvalues(square(X[:, 0])), eigenvalues(X[:, 0]), rtol=1e-12, atol=1e-12)
    logs = LogEig()(X)
    torch.testing.assert_close(Vech()(logs).norm(dim=-1), torch.linalg.matrix_norm(logs), rtol=1e-12, atol=1e-12)


def test_spd_learn_computes_the_same_baselines():
    modules = pytest.importorskip("spd_learn.modules")
    X = spd(10, 4, seed=1)
    pairs = [
        (AIMBatchNorm(4), modules.SPDBatchNormMean(4, dtype=torch.float64)),
        (LieBatchNorm(4, "lem"), modules.SPDBatchNormLie(4, "LEM", dtype=torch.float64)),
        (LieBatchNorm(4, "lcm", 0.5), modules.SPDBatchNormLie(4, "LCM", theta=0.5, dtype=torch.float64)),
        (LieBatchNorm(4, "aim", 0.5), modules.SPDBatchNormLie(4, "AIM", theta=0.5, dtype=torch.float64)),
    ]
    for ours, theirs in pairs:
        with torch.no_grad():
            torch.testing.assert_close(ours(X), theirs(X[:, None])[:, 0], rtol=1e-10, atol=1e-10)


def test_spdmbn_is_spd_learns_layer_on_the_first_batch_and_in_evaluation():
    modules = pytest.importorskip("spd_learn.modules")
    X, other, G = spd(10, 4, seed=1), spd(7, 4, seed=2), spd(4, seed=3)
    ours, theirs = SPDMBN(4), modules.SPDBatchNormMeanVar(4, eps=1e-5, dtype=torch.float64)
    with torch.no_grad():
        ours.bias.copy_(G)
        ours.scale.fill_(0.7)
        theirs.bias, theirs.weight = G[None], torch.tensor(0.7, dtype=torch.float64)
        torch.testing.assert_close(ours(X), theirs(X[:, None])[:, 0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(ours.running_mean, theirs.running_mean.reshape(4, 4), rtol=1e-10, atol=1e-10)
        found, expected = ours.eval()(other), theirs.eval()(other[:, None])[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("scale", "bound"), [(1e12, 1e8), (1e-12, 1e-8)])
def test_residual_network_clamps_eigenvalues_from_both_sides(scale, bound):
    net = SPDResNet(6, 4, 16)
    net.linear = torch.nn.Identity()
    logs = net(scale * spd(3, 6, seed=1)).reshape(3, 4, 4)
    limit = math.log(bound) * torch.eye(4, dtype=torch.float64).expand(3, 4, 4)
    torch.testing.assert_close(logs, limit, rtol=1e-12, atol=1e-12)


def test_residual_network_is_differentiable_and_learns():
    torch.manual_seed(0)
    net = SPDResNet(6, 4, 3, NORMS["gbw"])
    X = torch.cat([spd(15, 6, low=low, high=3.0, seed=seed) for seed, low in enumerate((0.01, 0.3, 2.0))])
    labels = torch.arange(3).repeat_interleave(15)
    optimizer = riemannian_adam(net.named_parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(X), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    axes = net.axes.detach()
    torch.testing.assert_close(axes.T @ axes, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-10)
    x = X[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(net.eval(), x, atol=1e-6, rtol=1e-5)

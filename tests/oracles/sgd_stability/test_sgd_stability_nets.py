"""O10-O14, C4, C5: curvature of ReLU and diagonal linear nets in closed form, scale laws, conserved quantities."""

import math

import numpy as np
import pytest
import torch

from curvature.models.stability_nets import DiagonalLinearNet, TwoLayerReLUNet
from curvature.stability import diagonal, relu
from curvature.stability.problems import relu_teacher, sparse_regression
from curvature.stability.spectrum import sharpness


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_relu(dim, width, seed=0):
    net = TwoLayerReLUNet(dim, width, generator(seed))
    return net.a.detach(), net.w.detach()


def sphere(count, dim, seed=0):
    rows = torch.randn(count, dim, generator=generator(seed), dtype=torch.float64)
    return math.sqrt(dim) * rows / rows.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("dim", [16, 64, 256])
def test_o10_population_trace_of_relu_nets_by_monte_carlo(dim):
    a, w = random_relu(dim, 64)
    measured = relu.trace(a, w, sphere(3000, dim, 1))
    assert float(measured / relu.population_trace(a, w)) == pytest.approx(1, abs=0.02)


def test_o10_trace_is_least_for_balanced_units_and_path_norm_invariant():
    a, w = random_relu(30, 20)
    path = relu.path_norm(a, w)
    assert relu.population_trace(a, w) > math.sqrt(30) * path
    flat_a, flat_w = relu.balanced(a, w)
    torch.testing.assert_close(relu.population_trace(flat_a, flat_w), math.sqrt(30) * path, rtol=1e-12, atol=0)
    torch.testing.assert_close(relu.path_norm(flat_a, flat_w), path, rtol=1e-12, atol=0)
    torch.testing.assert_close(flat_w.norm(dim=1), math.sqrt(30) * flat_a.abs(), rtol=1e-12, atol=0)
    inputs = sphere(10, 30)
    family = TwoLayerReLUNet(30, 20).family
    outputs = [
        family.predict({"a": p[None, None], "w": q[None, None]}, inputs[None]) for p, q in ((a, w), (flat_a, flat_w))
    ]
    torch.testing.assert_close(*outputs, rtol=1e-11, atol=1e-11)
    scales = torch.tensor([0.5, 2.0], dtype=torch.float64)
    for scale in scales:
        other = relu.population_trace(flat_a / scale, flat_w * scale)
        assert other > 1.01 * math.sqrt(30) * path


def test_o11_scale_laws_of_random_relu_nets():
    for dim in (16, 64, 256):
        for seed in range(2):
            a, w = random_relu(dim, 64, seed)
            measured = sharpness(relu.gram(a, w, sphere(1500, dim, seed + 9)))
            first, second = w.square().sum(), a.square().sum()
            assert 0.16 <= measured.frobenius / (first + math.sqrt(dim) * second) <= 0.28
            assert 0.16 <= measured.lambda_max / (first + second) <= 0.46


def test_o12_population_sharpness_of_diagonal_nets_is_the_norms_of_beta():
    beta = torch.tensor([3.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    a, b = diagonal.balanced(beta)
    torch.testing.assert_close(a * b, beta)
    s2 = 1 / 3
    trace, frobenius, largest = diagonal.population_sharpness(a, b, s2)
    assert float(trace) == pytest.approx(2 * s2 * 4.5, rel=1e-10)
    assert float(frobenius) == pytest.approx(2 * s2 * math.sqrt(10.25), rel=1e-10)
    assert float(largest) == pytest.approx(2 * s2 * 3, rel=1e-10)
    tilted = diagonal.population_sharpness(2 * a, b / 2, s2)
    assert tilted.trace > trace and tilted.frobenius > frobenius and tilted.lambda_max > largest


def test_o12_population_sharpness_on_inputs_with_exactly_isotropic_moments():
    """Orthogonal columns make the sample second moment s2 I, so the Gram matrix must give the population values."""
    count, dim, s2 = 40, 12, 0.7
    columns = np.linalg.qr(np.random.default_rng(0).standard_normal((count, dim)))[0]
    inputs = torch.from_numpy(columns * math.sqrt(s2 * count))
    net = DiagonalLinearNet(dim, generator=generator(2))
    a, b = net.a.detach(), net.b.detach()
    ours = sharpness(diagonal.gram(a, b, inputs))
    for got, want in zip(ours, diagonal.population_sharpness(a, b, s2)):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=0)


def test_o12_finite_sample_trace_and_imbalance():
    problem = sparse_regression(0, dim=50, samples=20)
    net = DiagonalLinearNet(50, generator=generator(3))
    a, b = net.a.detach(), net.b.detach()
    by_hand = sum((a[j] ** 2 + b[j] ** 2) * (problem.inputs[:, j] ** 2).mean() for j in range(50))
    torch.testing.assert_close(diagonal.trace(a, b, problem.inputs), by_hand, rtol=1e-12, atol=0)
    torch.testing.assert_close(diagonal.gram(a, b, problem.inputs).trace(), by_hand, rtol=1e-12, atol=0)
    norms = diagonal.norms(a, b)
    population = diagonal.population_sharpness(a, b)
    torch.testing.assert_close(population.trace, 2 / 3 * norms["l1"] * norms["imbalance"], rtol=1e-12, atol=0)
    beta = (a * b).numpy()
    assert float(norms["l1"]) == pytest.approx(np.abs(beta).sum(), rel=1e-12)
    assert float(norms["l2"]) == pytest.approx(np.linalg.norm(beta), rel=1e-12)
    assert float(norms["linf"]) == pytest.approx(np.abs(beta).max(), rel=1e-12)


def test_o13_floors_of_the_targets():
    beta = sparse_regression(0, samples=1, test_samples=1).truth
    trace, frobenius, largest = diagonal.population_sharpness(*diagonal.balanced(beta))
    assert (float(trace), float(largest)) == pytest.approx((2, 2 / 3))
    assert float(frobenius) == pytest.approx(1.1547, abs=5e-5)
    directions = relu_teacher(0, samples=1, test_samples=1).truth
    flat = relu.population_trace(*relu.balanced(torch.ones(10, dtype=torch.float64), directions))
    assert float(flat) == pytest.approx(100, rel=1e-10)


def test_o13_sharpness_and_path_norm_at_initialisation():
    nets = [DiagonalLinearNet(1000, generator=generator(s)) for s in range(20)]
    traces = [float(diagonal.population_sharpness(n.a.detach(), n.b.detach()).trace) for n in nets]
    assert np.mean(traces) == pytest.approx(666.7, rel=0.03)
    pairs = [random_relu(100, 100, s) for s in range(40)]
    assert np.mean([float(relu.population_trace(*p)) for p in pairs]) == pytest.approx(5500, rel=0.03)
    path = [float(relu.path_norm(*p)) for p in pairs]
    assert np.mean(path) == pytest.approx(100 * math.sqrt(2 / math.pi) * 100**0.25, rel=0.03)


def test_o13_initial_imbalance_is_exact():
    for wanted in (1, 2, 4, 8, 16):
        net = DiagonalLinearNet(1000, imbalance=wanted, generator=generator(wanted))
        assert float(diagonal.imbalance(net.a.detach(), net.b.detach())) == pytest.approx(wanted, rel=1e-12)
        assert float(net.a.detach().var()) == pytest.approx(0.1, rel=0.15)


def test_o14_one_step_changes_the_balance_of_a_diagonal_net_by_a_known_factor():
    net = DiagonalLinearNet(30, generator=generator(1))
    a, b = net.a.detach(), net.b.detach()
    x = torch.randn(1, 1, 30, generator=generator(2), dtype=torch.float64)
    y, eta = torch.tensor([[0.7]], dtype=torch.float64), 0.05
    state = {"a": a.clone()[None, None], "b": b.clone()[None, None]}
    error = x[0, 0] @ (a * b) - y[0, 0]
    net.family.step(state, x, y, torch.full((1, 1), eta, dtype=torch.float64), None)
    expected = (a**2 - b**2) * (1 - eta**2 * error**2 * x[0, 0] ** 2)
    torch.testing.assert_close((state["a"] ** 2 - state["b"] ** 2)[0, 0], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["diagonal", "relu"])
def test_o14_gradient_flow_conserves_the_balance(kind):
    """Halving the step halves the drift of what the flow conserves, over the same time."""
    if kind == "diagonal":
        net, problem = DiagonalLinearNet(40, generator=generator(5)), sparse_regression(0, dim=40, samples=20)
    else:
        net, problem = TwoLayerReLUNet(10, 8, generator(5)), relu_teacher(0, dim=10, samples=20)

    def conserved(state):
        if kind == "diagonal":
            return state["a"] ** 2 - state["b"] ** 2
        return (state["w"] ** 2).sum(-1) - state["a"] ** 2

    drifts = []
    for steps in (400, 800):
        state = {k: p.detach().clone()[None, None] for k, p in net.named_parameters()}
        start = conserved(state)
        rate = torch.full((1, 1), 0.4 / steps, dtype=torch.float64)
        for _ in range(steps):
            net.family.step(state, problem.inputs[None], problem.targets[None], rate, None)
        drifts.append(float((conserved(state) - start).abs().max()))
    assert drifts[0] < 0.05
    assert drifts[0] / drifts[1] == pytest.approx(2, rel=0.1)


def test_population_losses_agree_with_large_samples():
    problem = relu_teacher(3, dim=12, samples=1, units=4, test_samples=200_000)
    a, w = random_relu(12, 6, 4)
    ones = torch.ones(4, dtype=torch.float64)
    exact = relu.population_loss(a, w, ones, problem.truth)
    outputs = (problem.test_inputs @ w.T).clamp_min(0) @ a
    measured = (outputs - problem.test_targets).square().mean() / 2
    assert float(exact) == pytest.approx(float(measured), rel=0.02)
    assert float(relu.population_loss(ones, problem.truth, ones, problem.truth)) == pytest.approx(0, abs=1e-12)
    sparse = sparse_regression(3, dim=12, samples=1, test_samples=200_000)
    beta = torch.randn(12, generator=generator(0), dtype=torch.float64)
    measured = (sparse.test_inputs @ beta - sparse.test_targets).square().mean() / 2
    assert float(diagonal.population_loss(beta, sparse.truth)) == pytest.approx(float(measured), rel=0.02)

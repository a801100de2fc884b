"""O1, O15 and curvlinops: sharpness from the Gram matrix, from the dense matrix, from autograd, and from probes."""

import math

import numpy as np
import pytest
import torch
from curvlinops import GGNLinearOperator
from dense_sgd import random_gradients
from torch import nn
from torch.func import functional_call, hessian

from curvature.errors import ConfigError
from curvature.models.stability_nets import DiagonalLinearNet, TwoLayerReLUNet
from curvature.stability.autograd import output_gradients
from curvature.stability.estimators import ggn_product, largest_eigenvalue, probe_sharpness
from curvature.stability.spectrum import gram, sharpness, unbiased_squared_frobenius

NETS = {
    "diagonal": (lambda: DiagonalLinearNet(7), 7),
    "relu": (lambda: TwoLayerReLUNet(5, 4), 5),
    "mlp": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double(), 3),
}


@pytest.fixture(params=NETS)
def net_and_inputs(request):
    torch.manual_seed(3)
    make, dim = NETS[request.param]
    return make(), torch.randn(9, dim, dtype=torch.float64)


def dense_ggn(module, inputs):
    rows = output_gradients(module, inputs)
    return rows.T @ rows / len(inputs)


def test_o1_gram_spectrum_is_the_nonzero_spectrum_of_the_gauss_newton_matrix(net_and_inputs):
    module, inputs = net_and_inputs
    small = torch.linalg.eigvalsh(gram(output_gradients(module, inputs)))
    large = torch.linalg.eigvalsh(dense_ggn(module, inputs))
    count = min(len(small), len(large))
    torch.testing.assert_close(small[-count:], large[-count:], rtol=1e-10, atol=1e-10 * float(large[-1]))


def test_o1_sharpness_equals_that_of_the_hessian_at_zero_residual(net_and_inputs):
    module, inputs = net_and_inputs
    targets = module(inputs).detach()
    names = [name for name, _ in module.named_parameters()]
    shapes = [p.shape for p in module.parameters()]
    flat = torch.cat([p.detach().reshape(-1) for p in module.parameters()])

    def half_mse(vector):
        parts = vector.split([s.numel() for s in shapes])
        values = {n: p.view(s) for n, p, s in zip(names, parts, shapes)}
        return (functional_call(module, values, (inputs,)) - targets).square().mean() / 2

    expected = sharpness(hessian(half_mse)(flat))
    ours = sharpness(gram(output_gradients(module, inputs)))
    for got, want in zip(ours, expected):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", ["diagonal", "relu"])
def test_o1_closed_form_gram_equals_the_one_of_autograd(name):
    torch.manual_seed(0)
    make, dim = NETS[name]
    module, inputs = make(), torch.randn(9, dim, dtype=torch.float64)
    state = {k: p.detach()[None, None] for k, p in module.named_parameters()}
    expected = gram(output_gradients(module, inputs))
    torch.testing.assert_close(module.family.gram(state, inputs[None])[0, 0], expected, rtol=1e-12, atol=1e-12)
    trace = module.family.trace(state, inputs[None])[0, 0]
    torch.testing.assert_close(trace, expected.trace(), rtol=1e-12, atol=0)


def test_strict_derivative_of_relu_at_zero_in_closed_form_and_autograd():
    module = TwoLayerReLUNet(2, 1)
    module.w.data = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    inputs = torch.ones(3, 2, dtype=torch.float64)
    state = {k: p.detach()[None, None] for k, p in module.named_parameters()}
    assert module.family.gram(state, inputs[None]).abs().max() == 0
    assert output_gradients(module, inputs).abs().max() == 0


def test_several_outputs_are_stacked_and_divided_by_samples():
    torch.manual_seed(1)
    module, inputs = nn.Linear(3, 2).double(), torch.randn(5, 3, dtype=torch.float64)
    rows = output_gradients(module, inputs)
    assert rows.shape == (10, 8)
    per_output = (inputs.square().sum(1) + 1).mean()
    torch.testing.assert_close(sharpness(gram(rows, samples=5)).trace, 2 * per_output)


def curvlinops_ggn(module, inputs):
    loss = nn.MSELoss(reduction="mean")
    wrapped = module if module(inputs).ndim == 2 else nn.Sequential(module, nn.Unflatten(0, (-1, 1)))
    targets = torch.zeros(len(inputs), 1, dtype=torch.float64)
    parameters = list(wrapped.parameters())
    return GGNLinearOperator(wrapped, loss, parameters, [(inputs, targets)], check_deterministic=False)


def test_curvlinops_ggn_of_mse_is_twice_ours(net_and_inputs):
    module, inputs = net_and_inputs
    size = sum(p.numel() for p in module.parameters())
    dense = curvlinops_ggn(module, inputs) @ torch.eye(size, dtype=torch.float64)
    torch.testing.assert_close(dense / 2, dense_ggn(module, inputs), rtol=1e-8, atol=1e-8)
    ours = sharpness(gram(output_gradients(module, inputs)))
    for got, want in zip(ours, sharpness(dense / 2)):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=0)


def test_curvlinops_ggn_product_agrees_on_the_net_of_the_paper():
    torch.manual_seed(0)
    module = TwoLayerReLUNet(100, 100)
    inputs = torch.randn(300, 100, dtype=torch.float64)
    vector = torch.randn(10_100, dtype=torch.float64)
    theirs = curvlinops_ggn(module, inputs) @ vector / 2
    product, size = ggn_product(module, inputs)
    assert size == 10_100
    torch.testing.assert_close(product(vector), theirs, rtol=1e-8, atol=1e-8 * float(theirs.abs().max()))
    state = {k: p.detach()[None, None] for k, p in module.named_parameters()}
    closed = sharpness(module.family.gram(state, inputs[None])[0, 0])
    assert largest_eigenvalue(product, size) == pytest.approx(float(closed.lambda_max), rel=1e-8)


def probe_matrix(dim=20):
    rows = torch.from_numpy(random_gradients(0, dim, dim))
    return rows.T @ rows / dim


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_o15_probes_are_unbiased_with_the_stated_variance(distribution):
    matrix, probes = probe_matrix(), 10_000
    generator = torch.Generator().manual_seed(0)
    trace, squared = probe_sharpness(lambda v: matrix @ v, len(matrix), probes, generator, distribution)
    frobenius = matrix.square().sum()
    diagonal = matrix.diagonal().square().sum() if distribution == "rademacher" else 0.0
    sigma = math.sqrt(2 * (frobenius - diagonal) / probes)
    assert abs(trace.value - matrix.trace()) < 4 * sigma
    assert trace.error == pytest.approx(sigma, rel=0.05)
    assert abs(squared.value - frobenius) < 4 * squared.error
    assert math.sqrt(squared.value) != pytest.approx(squared.value)


def test_o15_rademacher_probes_of_a_diagonal_matrix_have_no_variance():
    values = torch.arange(1.0, 21.0, dtype=torch.float64)
    trace, _ = probe_sharpness(lambda v: values * v, 20, 50, torch.Generator().manual_seed(0))
    assert trace.value == pytest.approx(210, rel=1e-14)
    assert trace.error < 1e-13


def test_probe_arguments_are_checked():
    generator = torch.Generator()
    with pytest.raises(ConfigError, match="probes=1"):
        probe_sharpness(lambda v: v, 3, 1, generator)
    with pytest.raises(ConfigError, match="distribution='uniform'"):
        probe_sharpness(lambda v: v, 3, 9, generator, "uniform")


def test_unbiased_frobenius_over_draws_from_a_finite_population():
    """Over all ordered pairs of a population the pair mean is the population value; the plug-in is too high."""
    generator = np.random.default_rng(5)
    root = np.diag([2.0, 1.0, 0.5])
    truth = float(np.square(root @ root).sum())
    pairs, plug_in = [], []
    for _ in range(4000):
        rows = torch.from_numpy(generator.standard_normal((6, 3)) @ root)
        pairs.append(float(unbiased_squared_frobenius(rows)))
        plug_in.append(float(gram(rows).square().sum()))
    error = np.std(pairs) / math.sqrt(len(pairs))
    assert abs(np.mean(pairs) - truth) < 4 * error
    quartic = np.trace(root @ root) ** 2 + 2 * truth
    assert np.mean(plug_in) == pytest.approx(truth * 5 / 6 + quartic / 6, rel=0.1)

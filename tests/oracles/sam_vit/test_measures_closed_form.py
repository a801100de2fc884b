"""Curvature, flatness and activity where they are known exactly (float64)."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from curvature.hessian.activity import activation_layers, active_fraction
from curvature.hessian.landscape import average_flatness, mean_loss, weight_norm
from curvature.hessian.operator import exact_arithmetic, hessian
from curvature.hessian.spectrum import lambda_max, trace

CROSS_ENTROPY = nn.CrossEntropyLoss()


def digits(count):
    source = load_digits()
    return torch.from_numpy(source.data[:count]) / 16.0, torch.from_numpy(source.target[:count])


def linear_softmax():
    model = nn.Linear(64, 10, bias=False).double()
    nn.init.zeros_(model.weight)
    return model


def test_linear_softmax_at_zero_on_the_first_hundred_digits():
    batches = [digits(100)]
    found = lambda_max(linear_softmax(), CROSS_ENTROPY, batches, tolerance=1e-9)
    assert found.value == pytest.approx(1.0602643877753, abs=1e-9) and found.converged
    inputs = batches[0][0].numpy()
    assert found.value == pytest.approx(np.linalg.eigvalsh(inputs.T @ inputs / 100)[-1] / 10, rel=1e-9)
    exact = 0.9 * (inputs**2).sum(1).mean()
    assert exact == pytest.approx(13.59397265625, rel=1e-12)
    estimates = [trace(linear_softmax(), CROSS_ENTROPY, batches, probes=50, seed=seed) for seed in range(8)]
    error = np.std(estimates, ddof=1) / np.sqrt(8)
    assert abs(np.mean(estimates) - exact) < 4 * error and error < 0.05 * exact


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 3)).double()


def small_data(parts=1):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(30, 8, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 3, (30,), generator=generator)
    return list(zip(inputs.split(30 // parts), labels.split(30 // parts), strict=True))


def dense_hessian(model, batches, parameters=None):
    operator = hessian(model, CROSS_ENTROPY, batches, parameters)
    return operator @ torch.eye(operator.shape[0], dtype=torch.float64)


@pytest.mark.parametrize("parts", [1, 3])
def test_lanczos_equals_dense_eigenvalues(parts):
    model = small_net()
    dense = dense_hessian(model, small_data())
    torch.testing.assert_close(dense, dense.T, atol=1e-12, rtol=0)
    found = lambda_max(model, CROSS_ENTROPY, small_data(parts), tolerance=1e-10)
    assert found.value == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-8)


class Quadratic(nn.Module):
    """f(w) = sum_i h_i w_i^2 / 2 whatever the input: its Hessian is diag(h)."""

    def __init__(self, weights, curvatures):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(weights, dtype=torch.float64))
        self.register_buffer("h", torch.tensor(curvatures, dtype=torch.float64))

    def forward(self, inputs):
        return (0.5 * (self.h * self.w**2).sum()).expand(len(inputs))


class Mean(nn.Module):
    reduction = "mean"

    def forward(self, prediction, target):
        return prediction.mean()


NOTHING = [(torch.zeros(4, 1), torch.zeros(4))]


def test_algebraic_maximum_is_not_the_largest_magnitude():
    curvatures = np.linspace(-10.0, 1.0, 40).tolist()
    found = lambda_max(Quadratic([0.1] * 40, curvatures), Mean(), NOTHING, tolerance=1e-6)
    assert found.value == pytest.approx(1.0, abs=1e-5) and found.converged


def test_block_eigenvalues_interlace():
    model = small_net()
    whole = lambda_max(model, CROSS_ENTROPY, small_data(), tolerance=1e-9).value
    for layer in (model[0], model[2], model[4]):
        block = lambda_max(model, CROSS_ENTROPY, small_data(), list(layer.parameters()), tolerance=1e-9).value
        expected = torch.linalg.eigvalsh(dense_hessian(model, small_data(), list(layer.parameters())))[-1]
        assert block == pytest.approx(float(expected), rel=1e-7)
        assert block <= whole + 1e-9


def test_hessian_vector_product_equals_finite_difference():
    model, batches = small_net(), small_data()
    parameters = list(model.parameters())
    vector = torch.randn(sum(p.numel() for p in parameters), dtype=torch.float64)
    parts = [v.view_as(p) for v, p in zip(vector.split([p.numel() for p in parameters]), parameters, strict=True)]

    def gradient(step):
        with torch.no_grad():
            torch._foreach_add_(parameters, parts, alpha=step)
        loss = CROSS_ENTROPY(model(batches[0][0]), batches[0][1])
        found = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
        with torch.no_grad():
            torch._foreach_add_(parameters, parts, alpha=-step)
        return found

    difference = (gradient(1e-5) - gradient(-1e-5)) / 2e-5
    torch.testing.assert_close(hessian(model, CROSS_ENTROPY, batches) @ vector, difference, atol=1e-6, rtol=0)


def test_average_flatness_of_a_quadratic():
    model, batches, sigma = Quadratic([1.0, -2.0], [1.0, 10.0]), NOTHING, 0.3
    before = model.w.detach().clone()
    estimates = [average_flatness(model, Mean(), batches, sigma, draws=50, seed=seed) for seed in range(40)]
    error = np.std(estimates, ddof=1) / np.sqrt(40)
    assert abs(np.mean(estimates) - (20.5 + 0.5 * sigma**2 * 11.0)) < 4 * error
    assert torch.equal(model.w, before)
    assert average_flatness(model, Mean(), batches, 0.0) == pytest.approx(mean_loss(model, Mean(), batches))
    assert weight_norm(model) == pytest.approx(5**0.5)


@pytest.mark.parametrize(("shift", "expected"), [(1.0, 1.0), (-1.0, 0.0), (0.0, 0.0)])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_active_fraction_of_constant_preactivations(shift, expected, activation):
    model = nn.Sequential(nn.Linear(3, 5), activation())
    nn.init.zeros_(model[0].weight)
    nn.init.constant_(model[0].bias, shift)
    assert active_fraction(model, [(torch.randn(7, 3), torch.zeros(7))]) == {"layer1": expected}


def test_active_fraction_of_symmetric_preactivations():
    torch.manual_seed(0)
    inputs = torch.randn(4000, 6)
    relu, gelu = (active_fraction(nn.Sequential(kind()), [(inputs, inputs)])["layer1"] for kind in (nn.ReLU, nn.GELU))
    assert relu == pytest.approx(0.5, abs=4 * 0.5 / (24000**0.5))
    assert relu == gelu


def test_layers_of_timm_networks_are_found_in_depth_order():
    from curvature.models.vision import mlp_mixer, resnet, vision_transformer

    shape = {"image_shape": (1, 8, 8), "num_classes": 10}
    vit = vision_transformer(**shape, patch_size=4, width=16, depth=3, heads=2, mlp_width=32)
    mixer = mlp_mixer(**shape, patch_size=4, width=16, depth=2, tokens_mlp_width=8, channels_mlp_width=32)
    res = resnet(**shape, layers=[1, 1, 1], width=8, bottleneck=False, small_stem=True)
    assert [len(group) for group in activation_layers(vit).values()] == [1, 1, 1]
    assert [len(group) for group in activation_layers(mixer).values()] == [2, 2]
    assert list(activation_layers(res)) == ["layer1", "layer2", "layer3"]
    vit = vit.double()
    inputs = torch.randn(6, 1, 8, 8, dtype=torch.float64)
    assert all(0 < value < 1 for value in active_fraction(vit, [(inputs, inputs)]).values())
    found = lambda_max(vit, CROSS_ENTROPY, [(inputs, torch.arange(6))])
    assert found.value > 0 and found.converged


def test_modes_and_precision_are_restored():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Linear(2, 2))
    model[1].eval()
    with exact_arithmetic(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model] == [True, False, True] and model.training

"""Per-block curvature, the layer-wise recursion and the tangent kernel where they are known exactly (float64)."""

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from curvature.errors import ConfigError
from curvature.hessian.blocks import block_lambda_max, parameter_blocks
from curvature.hessian.ntk import MODES, ntk_condition_number, tangent_kernel
from curvature.hessian.operator import exact_arithmetic, hessian
from curvature.hessian.recursion import layer_hessians
from curvature.hessian.spectrum import lambda_max
from curvature.models.vision import mlp_mixer, resnet, vision_transformer

CROSS_ENTROPY = nn.CrossEntropyLoss()
SHAPE = {"image_shape": (1, 8, 8), "num_classes": 10}


def networks():
    torch.manual_seed(0)
    sizes = {"patch_size": 4, "width": 8, "depth": 2, "zero_head": False}
    return {
        "vit": vision_transformer(**SHAPE, **sizes, heads=2, mlp_width=16).double(),
        "mixer": mlp_mixer(**SHAPE, **sizes, tokens_mlp_width=4, channels_mlp_width=16).double(),
        "resnet": resnet(**SHAPE, layers=[1, 1], width=4, bottleneck=False, small_stem=True).double(),
    }


def digits(count):
    return torch.from_numpy(load_digits().data[:count]) / 16.0


def images(count):
    source = load_digits()
    return torch.from_numpy(source.images[:count]).unsqueeze(1) / 8.0 - 1.0, torch.from_numpy(source.target[:count])


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("vit", {"embedding", "attention", "mlp", "block1", "block2"}),
        ("mixer", {"embedding", "token_mixing", "channel_mixing", "block1", "block2"}),
        ("resnet", {"embedding", "block1", "block2"}),
    ],
)
def test_blocks_partition_the_network(name, parts):
    network = networks()[name]
    blocks = parameter_blocks(network)
    assert set(blocks) == parts
    covered = [p for key in blocks if key.startswith("block") or key == "embedding" for p in blocks[key]]
    assert len({id(p) for p in covered}) == len(covered)
    outside = {n.split(".")[0] for n, p in network.named_parameters() if all(p is not q for q in covered)}
    assert outside == ({"fc"} if name == "resnet" else {"norm", "head"})


@pytest.mark.parametrize("name", ["vit", "mixer"])
def test_block_eigenvalues_are_those_of_the_dense_blocks_and_interlace(name):
    network, batches = networks()[name], [images(8)]
    whole = lambda_max(network, CROSS_ENTROPY, batches, tolerance=1e-6).value
    found = block_lambda_max(network, CROSS_ENTROPY, batches, tolerance=1e-6)
    assert all(value.converged and value.value <= whole * (1 + 1e-6) for value in found.values())
    block = parameter_blocks(network)["embedding"]
    with exact_arithmetic(network):
        operator = hessian(network, CROSS_ENTROPY, batches, block)
        dense = operator @ torch.eye(operator.shape[0], dtype=torch.float64)
    torch.testing.assert_close(dense, dense.T, atol=1e-10, rtol=0)
    assert found["embedding"].value == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-7)


def test_hessian_of_a_transformer_block_is_symmetric_and_equals_double_backward():
    network, (inputs, labels) = networks()["vit"], images(6)
    parameters = parameter_blocks(network)["block2"]
    with exact_arithmetic(network):
        operator = hessian(network, CROSS_ENTROPY, [(inputs[:2], labels[:2]), (inputs[2:], labels[2:])], parameters)
        probes = torch.randn(operator.shape[0], 2, dtype=torch.float64)
        products = operator @ probes
        loss = CROSS_ENTROPY(network(inputs), labels)
        slope = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=True)])
        expected = torch.cat([g.flatten() for g in torch.autograd.grad(slope @ probes[:, 0], parameters)])
    torch.testing.assert_close(products[:, 0], expected, atol=1e-12, rtol=0)
    assert probes[:, 0] @ products[:, 1] == pytest.approx(float(probes[:, 1] @ products[:, 0]), abs=1e-10)


def test_networks_without_blocks_are_refused():
    with pytest.raises(ConfigError, match="blocks"):
        parameter_blocks(nn.Linear(2, 2))


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU, nn.ReLU])
def test_recursion_equals_the_dense_hessian(activation):
    torch.manual_seed(1)
    layers = [nn.Linear(4, 5, bias=False), activation(), nn.Linear(5, 6, bias=False), activation(), nn.Linear(6, 3)]
    network = nn.Sequential(*layers).double()
    example, label = torch.randn(4, dtype=torch.float64), torch.tensor(1)
    for layer, found in zip(layers[::2], layer_hessians(network, CROSS_ENTROPY, example, label), strict=True):
        operator = hessian(network, CROSS_ENTROPY, [(example[None], label[None])], [layer.weight])
        dense = operator @ torch.eye(operator.shape[0], dtype=torch.float64)
        torch.testing.assert_close(found.dense(), dense, atol=1e-14, rtol=0)
        assert found.lambda_max() == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-9, abs=1e-14)


def test_hessian_of_a_mean_loss_is_the_mean_of_the_recursions_and_does_not_factor():
    torch.manual_seed(2)
    first = nn.Linear(4, 5, bias=False)
    network = nn.Sequential(first, nn.Tanh(), nn.Linear(5, 3)).double()
    examples, labels = torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3
    found = [layer_hessians(network, CROSS_ENTROPY, x, y)[0] for x, y in zip(examples, labels, strict=True)]
    operator = hessian(network, CROSS_ENTROPY, [(examples, labels)], [first.weight])
    dense = operator @ torch.eye(operator.shape[0], dtype=torch.float64)
    torch.testing.assert_close(torch.stack([layer.dense() for layer in found]).mean(0), dense, atol=1e-14, rtol=0)
    curvature = torch.stack([layer.preactivation for layer in found]).mean(0)
    factored = torch.kron(curvature, examples.T @ examples / 6)
    assert (factored - dense).abs().max() > 0.01 * dense.abs().max()


def test_recursion_refuses_other_architectures():
    with pytest.raises(ConfigError, match="network"):
        layer_hessians(nn.Sequential(nn.Linear(2, 2), nn.Tanh()), CROSS_ENTROPY, torch.zeros(2), torch.tensor(0))


@pytest.mark.parametrize(("bias", "kappa"), [(False, 794.9661072309), (True, 867.5385899336)])
@pytest.mark.parametrize("mode", ["per_logit", "trace"])
def test_kernel_of_a_linear_model_on_the_first_sixteen_digits(bias, kappa, mode):
    model = nn.Linear(64, 10, bias=bias).double()
    assert ntk_condition_number(model, digits(16), mode).condition_number == pytest.approx(kappa, rel=1e-8)
    expected = digits(16) @ digits(16).T + float(bias)
    torch.testing.assert_close(tangent_kernel(model, digits(16), logit=3), expected, atol=1e-12, rtol=0)


def test_logit_sum_uses_weights_only():
    found = ntk_condition_number(nn.Linear(64, 10).double(), digits(16), "sum_logits")
    assert found.condition_number == pytest.approx(794.9661072309, rel=1e-8)
    assert found.largest == pytest.approx(10 * float(torch.linalg.eigvalsh(digits(16) @ digits(16).T)[-1]))


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_kernel_is_the_sum_over_layers_however_it_is_grouped(name):
    network, (inputs, _) = networks()[name], images(3)
    whole = tangent_kernel(network, inputs, 2)
    parts = [tangent_kernel(network, inputs, 2, [key]) for key, _ in network.named_parameters()]
    torch.testing.assert_close(torch.stack(parts).sum(0), whole, rtol=1e-10, atol=1e-12)
    grouped = tangent_kernel(network, inputs, 2, elements_at_once=1000)
    torch.testing.assert_close(grouped, whole, rtol=1e-10, atol=1e-12)
    network.eval()
    rows = []
    for example in inputs:
        grads = torch.autograd.grad(network(example[None])[0, 2], list(network.parameters()))
        rows.append(torch.cat([g.flatten() for g in grads]))
    torch.testing.assert_close(torch.stack(rows) @ torch.stack(rows).T, whole, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("mode", MODES)
def test_condition_number_ignores_scale_and_order_and_grows_with_examples(mode):
    network, (inputs, _) = networks()["vit"], images(7)
    kappa = ntk_condition_number(network, inputs, mode).condition_number
    assert ntk_condition_number(network, inputs.flip(0), mode).condition_number == pytest.approx(kappa, rel=1e-7)
    fewer = ntk_condition_number(network, inputs[:5], mode).condition_number
    assert fewer < kappa

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, x):
            return 3.0 * self.inner(x)

    assert ntk_condition_number(Scaled(), inputs, mode).condition_number == pytest.approx(kappa, rel=1e-7)


def test_repeated_example_gives_an_infinite_condition_number():
    found = ntk_condition_number(nn.Linear(64, 10).double(), digits(4)[[0, 1, 1, 2]])
    assert math.isinf(found.condition_number) and found.largest > 0


def test_bad_mode_and_single_precision_are_refused():
    with pytest.raises(ConfigError, match="mode='mean'"):
        ntk_condition_number(nn.Linear(64, 10).double(), digits(4), "mean")
    with pytest.raises(ConfigError, match="float64"):
        ntk_condition_number(nn.Linear(64, 10), digits(4).float())

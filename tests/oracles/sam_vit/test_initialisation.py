"""Initial weights of the paper's networks: distributions that are known in closed form."""

import pytest
import torch

from curvature.models.vision import mlp_mixer, resnet, vision_transformer

WIDTH, HIDDEN = 192, 768


def vit(**changes):
    torch.manual_seed(0)
    options = {"patch_size": 4, "width": WIDTH, "depth": 2, "heads": 3, "mlp_width": HIDDEN}
    return vision_transformer((3, 32, 32), 10, **(options | changes))


def is_uniform(weight, bound):
    """Inside the bound, reaching it, and of the variance bound^2 / 3 to five standard errors."""
    count = weight.numel()
    assert weight.abs().max() <= bound
    assert weight.abs().max() >= bound * (1 - 20 / count)
    spread = (4 / 45) ** 0.5 / (1 / 3) / count**0.5
    assert weight.var().item() == pytest.approx(bound**2 / 3, rel=5 * spread)


@pytest.mark.parametrize("third", [0, 1, 2], ids=["queries", "keys", "values"])
def test_each_projection_of_attention_is_xavier_on_its_own(third):
    for block in vit().blocks:
        weight = block.attn.qkv.weight.detach()
        is_uniform(weight[third * WIDTH : (third + 1) * WIDTH], (6 / (WIDTH + WIDTH)) ** 0.5)


def test_other_kernels_are_xavier_and_their_biases_small():
    block = vit().blocks[1]
    is_uniform(block.attn.proj.weight.detach(), (6 / (2 * WIDTH)) ** 0.5)
    for layer in (block.mlp.fc1, block.mlp.fc2):
        is_uniform(layer.weight.detach(), (6 / (WIDTH + HIDDEN)) ** 0.5)
        assert layer.bias.std().item() == pytest.approx(1e-6, rel=0.3)
    assert not block.attn.qkv.bias.any()
    assert not block.attn.proj.bias.any()


def test_tokens_and_classifier():
    network = vit()
    assert network.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    assert not network.cls_token.any()
    assert not network.head.weight.any()
    assert not network.head.bias.any()
    biased = vit(head_bias=-10.0)
    assert not biased.head.weight.any()
    assert (biased.head.bias == -10.0).all()


def test_the_mixer_has_the_same_kernels():
    torch.manual_seed(0)
    network = mlp_mixer((3, 32, 32), 10, 4, WIDTH, 2, 96, HIDDEN, zero_head=False)
    block = network.blocks[0]
    is_uniform(block.mlp_tokens.fc1.weight.detach(), (6 / (64 + 96)) ** 0.5)
    is_uniform(block.mlp_channels.fc2.weight.detach(), (6 / (WIDTH + HIDDEN)) ** 0.5)
    is_uniform(network.head.weight.detach(), (6 / (WIDTH + 10)) ** 0.5)


def test_the_library_keeps_its_own():
    weight = vit(initialisation="library").blocks[0].attn.qkv.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_a_resnet_in_channels_last_order_is_the_same_function():
    networks = []
    for channels_last in (False, True):
        torch.manual_seed(0)
        networks.append(resnet((3, 16, 16), 10, [1, 1, 1], 12, False, True, channels_last=channels_last).double())
    images = torch.randn(8, 3, 16, 16, dtype=torch.float64)
    plain, last = (network(images) for network in networks)
    assert (plain - last).abs().max() < 1e-12
    plain.square().sum().backward()
    last.square().sum().backward()
    for mine, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert (mine.grad - other.grad).abs().max() <= 1e-10 * mine.grad.abs().max() + 1e-12
    assert networks[1].layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert not networks[1].layer1[0].conv1.weight.is_contiguous()

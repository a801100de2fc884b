"""Loss surfaces and attention maps against closed forms."""

import math

import pytest
import torch
from torch import nn

from curvature.errors import ConfigError
from curvature.hessian.landscape import filter_normalised_direction, loss_surface, mean_loss
from curvature.models.attention import class_attention, entropy
from curvature.models.vision import mlp_mixer, vision_transformer


def test_each_filter_of_a_direction_has_the_norm_of_its_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4)).double()
    direction = filter_normalised_direction(model, 5)
    for parameter, part in zip(model.parameters(), direction, strict=True):
        if parameter.ndim < 2:
            assert not part.any()
        else:
            torch.testing.assert_close(part.flatten(1).norm(dim=1), parameter.detach().flatten(1).norm(dim=1))
    again, other = filter_normalised_direction(model, 5), filter_normalised_direction(model, 6)
    assert all(map(torch.equal, direction, again)) and not torch.equal(direction[0], other[0])


def test_surface_of_a_quadratic_loss_is_exact():
    """For squared error on a bias-free linear map the surface is a quadratic form in (a, b)."""
    torch.manual_seed(1)
    model, criterion = nn.Linear(5, 2, bias=False).double(), nn.MSELoss()
    inputs, targets = torch.randn(7, 5).double(), torch.randn(7, 2).double()
    before = model.weight.detach().clone()
    coordinates, losses = loss_surface(model, criterion, [(inputs, targets)], radius=0.5, points=3, seed=3)
    assert torch.equal(model.weight, before)
    u, v = (filter_normalised_direction(model, seed)[0] for seed in (6, 7))
    for row, a in enumerate(coordinates.tolist()):
        for column, b in enumerate(coordinates.tolist()):
            expected = ((inputs @ (before + a * u + b * v).T - targets) ** 2).mean()
            assert losses[row, column].item() == pytest.approx(expected.item(), rel=1e-12)
    assert losses[1, 1].item() == mean_loss(model, criterion, [(inputs, targets)])


def test_attention_of_one_block_by_hand():
    torch.manual_seed(2)
    network = vision_transformer((1, 4, 4), 3, 2, 8, 1, 2, 16, zero_head=False).double().eval()
    nn.init.normal_(network.cls_token)
    images = torch.randn(3, 1, 4, 4).double()
    found = class_attention(network, images)
    with torch.no_grad():
        tokens = torch.cat([network.cls_token.expand(3, -1, -1), network.patch_embed(images)], 1) + network.pos_embed
        block = network.blocks[0]
        queries, keys, _ = block.attn.qkv(block.norm1(tokens)).view(3, 5, 3, 2, 4).unbind(2)
        scores = torch.einsum("bhd,bnhd->bhn", queries[:, 0], keys) / 2.0
        expected = scores.softmax(-1)[:, :, 1:]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert all(
        block.attn.fused_attn == vision_transformer((1, 4, 4), 3, 2, 8, 1, 2, 16).blocks[0].attn.fused_attn
        for block in network.blocks
    )


def test_entropy_of_uniform_and_of_peaked_attention():
    assert entropy(torch.full((2, 16), 0.01)).tolist() == pytest.approx([math.log(16)] * 2)
    assert entropy(torch.tensor([0.0, 0.7, 0.0])).item() == 0.0


def test_a_mixer_has_no_class_token():
    with pytest.raises(ConfigError, match="class token"):
        class_attention(mlp_mixer((1, 4, 4), 3, 2, 8, 1, 4, 16), torch.zeros(1, 1, 4, 4))

"""Zero-invariance and slimming (float64): the slim network is the masked one, whatever its structure."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from curvature.errors import ConfigError
from curvature.pruning import apply_recipe, build_search_space, recipe_of, slim, zero_groups
from curvature.pruning.graph import Candidate, candidates
from curvature.pruning.inputs import Inputs
from curvature.pruning.zoo import ZOO

GROUPS = {
    "residual": 14, "concatenation, normalised": 20, "depthwise convolution": 14, "layer called twice": 8,
    "group normalisation": 7, "transformer, LayerNorm": 28, "transformer, RMSNorm": 44,
    "transformer, 2 of 4 key heads": 26, "tied transformer, RMSNorm": 44, "tied embedding": 24,
    "gated linear unit": 13, "transposed convolution": 14, "pixel shuffle": 8, "sigmoid and softplus": 16,
    "bare scale, flattened": 8, "grouped convolution": 14, "LSTM": 10, "nn.MultiheadAttention": 12,
    "tied autoencoder, functional": 0, "data-dependent branch": 0, "hard-coded view": 10, "frozen layer": 8,
    "CARN": 88, "CARN, two groups": 56, "YOLO C2f block": 28, "BERT (transformers)": 72,
    "Llama (transformers)": 68, "Phi (transformers)": 72,
}  # fmt: skip


def prepared(name):
    """A float64 network of the zoo with random statistics, its space and further inputs."""
    torch.manual_seed(0)
    build, example = ZOO[name]
    model, inputs = build().double().eval(), Inputs.of(example())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.running_mean, module.weight, module.bias):
                value.data.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return model, build_search_space(model, inputs.like(1, batch=2).value), inputs.like(7, batch=3)


@torch.no_grad()
def zeroed(model, space, share=0.5, seed=3):
    """A copy with a random share of every layer's groups at zero, and which."""
    generator = torch.Generator().manual_seed(seed)
    gone = torch.zeros(space.size, dtype=torch.bool)
    for node in space.nodes:
        chosen = torch.randperm(node.size, generator=generator)[: min(node.size - 1, int(share * node.size))]
        gone[node.start + chosen] = True
    copied = copy.deepcopy(model)
    parameters = dict(copied.named_parameters(remove_duplicate=False))
    for cut in space.cuts("member", "auxiliary"):
        if cut.tensor in parameters:
            rows = torch.tensor([int(owner) >= 0 and bool(gone[owner]) for owner in cut.owner]).nonzero()[:, 0]
            parameters[cut.tensor].index_fill_(cut.dim, rows, 0.0)
    return copied, gone


def count(model):
    return sum(p.numel() for p in model.parameters())


def agree(a, b, inputs, tolerance=1e-12):
    for left, right in zip(inputs(a), inputs(b), strict=True):
        assert left.shape == right.shape
        assert (left - right).abs().max() <= tolerance * max(1.0, float(left.abs().max()))


@pytest.mark.parametrize("name", ZOO)
def test_o5_slim_is_the_masked_network_or_nothing_is_removed(name):
    model, space, inputs = prepared(name)
    assert space.size == GROUPS[name]
    if not space.size:
        return
    masked, gone = zeroed(model, space)
    assert torch.equal(zero_groups(masked, space), gone)
    before = copy.deepcopy(masked.state_dict())
    smaller = slim(masked, space)
    agree(masked, smaller, inputs)
    assert count(smaller) < count(model)
    assert all(torch.equal(value, before[key]) for key, value in masked.state_dict().items())


@pytest.mark.parametrize("name", ["tied embedding", "tied transformer, RMSNorm"])
def test_tied_weights_stay_one_tensor(name):
    model, space, _ = prepared(name)
    smaller = slim(zeroed(model, space)[0], space)
    assert smaller.head.weight is smaller.embedding.weight
    assert smaller.embedding.weight.shape[1] < model.embedding.weight.shape[1]


@pytest.mark.parametrize("name", ["residual", "transformer, RMSNorm", "concatenation, normalised", "gated linear unit"])
def test_o6_slimming_is_idempotent_and_composes(name):
    model, space, inputs = prepared(name)
    masked, _ = zeroed(model, space)
    once = slim(masked, space)
    again = build_search_space(once, inputs.like(1, batch=2).value)
    assert not zero_groups(once, again).any()
    twice = slim(once, again)
    agree(once, twice, inputs)
    assert count(twice) == count(once)
    further, gone = zeroed(once, again, seed=9)
    total = torch.zeros(space.size, dtype=torch.bool)
    total[~zero_groups(masked, space)] = gone
    total |= zero_groups(masked, space)
    both = copy.deepcopy(masked)
    parameters = dict(both.named_parameters())
    with torch.no_grad():
        for cut in space.cuts("member", "auxiliary"):
            if cut.tensor in parameters:
                rows = total[cut.owner].logical_and(cut.owner >= 0).nonzero()[:, 0]
                parameters[cut.tensor].index_fill_(cut.dim, rows, 0.0)
    at_once, in_steps = slim(both, space), slim(further, again)
    assert count(at_once) == count(in_steps)
    agree(at_once, in_steps, inputs)


def test_o4_groups_of_a_resnet18():
    from curvature.models.vision import resnet

    model = resnet((3, 8, 8), 10, [2, 2, 2, 2], bottleneck=False, small_stem=True)
    assert build_search_space(model, torch.randn(2, 3, 8, 8)).size == 2880


def test_o4_groups_of_a_vgg16():
    from torchvision.models import vgg16_bn

    model = nn.Sequential(vgg16_bn(num_classes=2).features, nn.Flatten(), nn.Linear(512, 10))
    found = [item for _, item in candidates(model, Inputs.of(torch.randn(1, 3, 32, 32)))]
    assert sum(item.units for item in found if isinstance(item, Candidate)) == 4224


def test_o4_groups_of_carn():
    from curvature.models.super_resolution import CARN

    model = CARN()
    space = build_search_space(model, torch.randn(2, 3, 6, 6))
    assert count(model) == 964_163
    assert space.size == 1408 and "up.0" in space.unprunable


@pytest.mark.parametrize("name", ["BERT (transformers)", "Llama (transformers)", "Phi (transformers)"])
def test_language_models_lose_heads_and_hidden_units_at_other_lengths_too(name):
    model, space, inputs = prepared(name)
    assert space.checked == ["batch 2", "batch 5", "another length"]
    heads = 2 if "Llama" in name else 4
    assert [node.size for node in space.nodes] == [heads, 32, heads, 32]
    masked, _ = zeroed(model, space)
    smaller = slim(masked, space)
    for batch, length in ((1, 3), (4, 9)):
        agree(masked, smaller, inputs.like(11, batch=batch, length=length))
    stream = [why for layer, why in space.unprunable.items() if "embed" in layer or layer.endswith("output.dense")]
    assert stream and all("normalises" in why or "differs" in why for why in stream)


def test_key_value_heads_leave_with_their_query_heads_and_caches_and_named_inputs_do_not_disturb():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, max_position_embeddings=32, **sizes)
    model = LlamaForCausalLM(config).double().eval()
    tokens = torch.arange(12).view(2, 6)
    example = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    space = build_search_space(model, example)
    masked, gone = zeroed(model, space)
    smaller = slim(masked, space)
    attention = smaller.model.layers[0].self_attn
    assert gone[space.nodes[0].start : space.nodes[0].start + 2].sum() == 1
    shapes = [tuple(layer.weight.shape) for layer in (attention.q_proj, attention.k_proj, attention.o_proj)]
    assert shapes == [(8, 16), (4, 16), (16, 8)]
    cached = smaller(tokens[:, :4], use_cache=True).past_key_values
    follow = smaller(tokens[:, 4:], past_key_values=cached).logits
    torch.testing.assert_close(follow, masked(tokens).logits[:, 4:], atol=1e-6, rtol=0)


def test_channels_beyond_a_layer_are_a_reason_and_not_an_error():
    class Answers(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.answers = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x):
            start, end = self.answers(torch.relu(self.hidden(x))).split(1, dim=-1)
            return start.squeeze(-1), end.squeeze(-1)

    space = build_search_space(Answers(), torch.randn(2, 5, 6))
    assert [node.name for node in space.nodes] == ["hidden"] and "answers" in space.unprunable


def test_o18_layer_norm_changes_when_zeros_are_removed_and_rms_norm_can_be_corrected():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 9, 16, dtype=torch.float64, generator=generator)
    weight, keep = torch.randn(16, dtype=torch.float64, generator=generator), torch.arange(0, 16, 3)
    masked = torch.zeros_like(x).index_copy_(-1, keep, x[..., keep])
    ratio = 16 / len(keep)
    exact = F.rms_norm(masked, (16,), weight, 1e-3)[..., keep]
    corrected = F.rms_norm(x[..., keep], (len(keep),), weight[keep] * ratio**0.5, 1e-3 * ratio)
    naive = F.rms_norm(x[..., keep], (len(keep),), weight[keep], 1e-3)
    torch.testing.assert_close(corrected, exact, atol=1e-14, rtol=0)
    assert (naive - exact).abs().max() > 0.1
    layer = F.layer_norm(masked, (16,))[..., keep]
    assert (F.layer_norm(x[..., keep], (len(keep),)) - layer).abs().max() > 0.1
    kept = x[..., keep]
    mean = kept.sum(-1, keepdim=True) / 16
    virtual = (kept - mean) / (kept.square().sum(-1, keepdim=True) / 16 - mean.square() + 1e-5).sqrt()
    torch.testing.assert_close(virtual, layer, atol=1e-13, rtol=0)


def test_o18_constants_are_folded_into_the_next_bias_even_where_there_is_none():
    model, space, inputs = prepared("sigmoid and softplus")
    assert model.b.bias is None
    masked, _ = zeroed(model, space)
    smaller = slim(masked, space)
    agree(masked, smaller, inputs)
    assert smaller.b.bias.shape == (4,) and smaller.b.in_features == 4


def test_reasons_are_given():
    assert "frozen" in prepared("frozen layer")[1].unprunable["a"]
    assert "LSTM" in prepared("LSTM")[1].unprunable["enter"]
    assert "not executed" in prepared("data-dependent branch")[1].unprunable["right"]
    assert "normalises over the units" in prepared("transformer, LayerNorm")[1].unprunable["down"]
    space = build_search_space(nn.Linear(3, 2), torch.randn(2, 4))
    assert space.size == 0 and "cannot be evaluated" in space.unprunable["(model)"]


def test_excluded_layers_are_left_alone_and_inputs_may_be_named():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    space = build_search_space(model, {"input": torch.randn(2, 6)}, exclude=["2"])
    assert [node.name for node in space.nodes] == ["0"]
    assert "excluded" in space.unprunable["2"]


def test_recipe_rebuilds_a_slim_network_from_its_class(tmp_path):
    model, space, inputs = prepared("tied transformer, RMSNorm")
    masked, _ = zeroed(model, space)
    smaller = slim(masked, space)
    torch.save(smaller.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "recipe.json").write_text(json.dumps(recipe_of(masked, space)))
    fresh = ZOO["tied transformer, RMSNorm"][0]().double().eval()
    rebuilt = apply_recipe(fresh, json.loads((tmp_path / "recipe.json").read_text()))
    rebuilt.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    agree(smaller, rebuilt, inputs, 0.0)
    with pytest.raises(ConfigError):
        apply_recipe(nn.Linear(2, 2), recipe_of(masked, space))


def test_a_slim_network_is_saved_without_this_package(tmp_path):
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, num_classes=10, embed_dim=16, depth=2, num_heads=4, mlp_ratio=2.0
    ).eval()
    space = build_search_space(model, torch.randn(2, 1, 8, 8))
    assert space.size == 2 * (4 + 32)
    smaller = slim(zeroed(model, space)[0], space)
    assert smaller.blocks[0].attn.num_heads == 2 and smaller.blocks[0].attn.qkv.weight.shape == (24, 16)
    torch.save(smaller, tmp_path / "model.pt")
    needed = torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "model.pt")
    assert needed and not [name for name in needed if "curvature" in name]

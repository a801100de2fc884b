"""The networks of the paper have exactly the published numbers of parameters (1000 classes, 224 x 224)."""

from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from curvature.errors import ConfigError
from curvature.models.vision import parameter_count

CONF = Path(__file__).parents[3] / "conf" / "model"
COUNTS = {
    "vit_s32": 22_878_952,
    "vit_s16": 22_050_664,
    "vit_b32": 88_224_232,
    "vit_b16": 86_567_656,
    "mixer_b32": 60_293_428,
    "mixer_b16": 59_880_472,
    "resnet50": 25_557_032,
    "resnet152": 60_192_808,
}


def build(name, shape=(3, 224, 224), classes=1000, **changes):
    cfg = OmegaConf.create({"data": {"image_shape": list(shape), "num_classes": classes}})
    cfg.model = OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), changes)
    return instantiate(cfg.model)


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_paper_scale(name, count):
    assert parameter_count(lambda: build(name)) == count


@pytest.mark.parametrize("name", ["vit_desk", "mixer_desk", "resnet_desk"])
def test_desk_scale_is_small_and_runs(name):
    import torch

    network = build(name, (1, 8, 8), 10)
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert 15_000 < sum(p.numel() for p in network.parameters()) < 90_000


@pytest.mark.parametrize("name", ["vit_lab", "mixer_lab", "resnet_lab"])
def test_lab_scale_runs(name):
    import torch

    assert build(name, (3, 32, 32), 10)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_initialisation_of_the_paper():
    import torch

    network = build("vit_b16", (3, 32, 32), 10)
    weight = network.blocks[0].mlp.fc1.weight
    assert weight.abs().max() <= (6 / (768 + 3072)) ** 0.5
    assert 0 < network.blocks[0].mlp.fc1.bias.abs().max() < 1e-5
    assert torch.count_nonzero(network.head.weight) == 0
    assert network.norm.eps == 1e-6
    assert network.blocks[0].mlp.act.approximate == "tanh"


@pytest.mark.parametrize(("changes", "key"), [({"patch_size": 3}, "patch_size"), ({"heads": 5}, "heads")])
def test_sizes_that_do_not_fit_are_refused(changes, key):
    with pytest.raises(Exception, match=f"model.{key}") as error:
        build("vit_desk", (1, 8, 8), 10, **changes)
    assert isinstance(error.value.__cause__ or error.value, ConfigError)

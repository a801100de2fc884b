"""The evaluation of released weights: on pictures in ImageNet's layout, with weights from a file."""

import json

import numpy as np
import pytest
import timm
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from safetensors.torch import save_file

from curvature.configs import config_directory
from curvature.data.files import scan
from curvature.engine import run
from curvature.errors import ConfigError
from curvature.papers.sam_vit_released import accuracy, released_accuracy

CLASSES = ["n01", "n02", "n03"]
NAME = "vit_tiny_patch16_224"


def pictures(folder, names, count, generator):
    for name in names:
        (folder / name).mkdir(parents=True)
        for index in range(1, count + 1):
            pixels = generator.integers(0, 256, (250, 280, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"p_{name[-1]}{index}.png")


@pytest.fixture
def root(tmp_path):
    generator = np.random.default_rng(0)
    pictures(tmp_path / "imagenet" / "val", CLASSES, 2, generator)
    pictures(tmp_path / "imagenetv2-matched-frequency", ["0", "1", "2"], 1, generator)
    answers = [[] for _ in range(40)]
    for number, labels in {11: [0, 1, 2], 12: [0], 21: [0, 1, 2], 31: [0, 1, 2]}.items():
        answers[number - 1] = labels
    (tmp_path / "imagenet_real.json").write_text(json.dumps(answers))
    return tmp_path


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model(NAME, num_classes=3)
    torch.nn.init.normal_(model.head.weight)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.fixture
def three_classes(monkeypatch):
    """timm's configuration of the network, but for three classes instead of a thousand."""
    real = timm.create_model

    def create(name, **options):
        options["pretrained_cfg_overlay"] = {**(options.get("pretrained_cfg_overlay") or {}), "num_classes": 3}
        return real(name, **options | {"num_classes": 3})

    monkeypatch.setattr(timm, "create_model", create)


@pytest.mark.usefixtures("three_classes")
def test_accuracies_are_those_of_the_network_on_each_set(root, weights):
    found = released_accuracy(0, NAME, str(root), str(weights), batch_size=4, num_workers=0, device="cpu")
    model = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay={"file": str(weights)}).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))

    def expected(folder):
        paths, labels, _ = scan(folder)
        inputs = torch.stack([transform(Image.open(path.decode()).convert("RGB")) for path in paths])
        with torch.no_grad():
            chosen = model(inputs).argmax(-1)
        return chosen, float((chosen == labels).double().mean())

    chosen, clean = expected(root / "imagenet" / "val")
    assert found["released/imagenet"] == clean
    assert found["released/imagenet_v2"] == expected(root / "imagenetv2-matched-frequency")[1]
    assert found["released/imagenet_real"] == (3 + int(chosen[1] == 0)) / 4


def test_the_experiment_runs_and_reports(root, weights, three_classes, tmp_path):
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        cfg = compose(
            "config",
            overrides=[
                "experiment=paper/sam_vit_released", f"data_root={root}", f"released.checkpoint={weights}",
                f"released.name={NAME}", "released.num_workers=0", f"outputs={tmp_path / 'outputs'}",
            ],
        )  # fmt: skip
    metrics = run(cfg).metrics
    assert {"released/imagenet", "released/imagenet_v2", "released/imagenet_real"} <= set(metrics)


def test_labels_that_several_classes_satisfy():
    labels = torch.tensor([[True, False, True], [False, True, False]])
    assert accuracy([2, 0], labels) == 0.5
    assert accuracy([2, 0, 1], torch.tensor([2, 0, 0])) == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", ["vit_base_patch16_224.sam_in1k", "vit_base_patch32_224.sam_in1k"])
def test_the_released_weights_are_known_to_timm_with_the_reported_setting(name):
    given = timm.get_pretrained_cfg(name)
    assert (given.input_size, given.crop_pct, given.interpolation) == ((3, 224, 224), 0.9, "bicubic")
    assert given.mean == given.std == (0.5, 0.5, 0.5)
    assert given.num_classes == 1000


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("imagenet/val", "imagenet/val/<class>"),
        ("imagenetv2-matched-frequency", "imagenetv2"),
        ("imagenet_real.json", "imagenet_real"),
    ],
)
def test_what_is_missing_is_named_before_the_network_is_built(root, weights, missing, named):
    (root / missing).rename(root / "elsewhere")
    with pytest.raises(ConfigError, match=named):
        released_accuracy(0, NAME, str(root), str(weights), num_workers=0)


def test_other_classes_and_a_missing_checkpoint_are_refused(root, weights, monkeypatch):
    with pytest.raises(ConfigError, match="a file with weights"):
        released_accuracy(0, NAME, str(root), str(root / "none.safetensors"))
    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **options: real(name))
    with pytest.raises(ConfigError, match="the 1000 classes"):
        released_accuracy(0, NAME, str(root), str(weights))

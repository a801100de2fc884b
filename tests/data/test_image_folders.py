"""Image folders in ImageNet's layout, and its robustness sets, on small pictures in the real directory structures."""

import json
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from data_support import class_folders

from curvature.data.folders import ImageFolderDataModule
from curvature.data.robustness import CORRUPTIONS, SEVERITIES
from curvature.errors import ConfigError
from curvature.optim.schedules import constant
from curvature.training.classifier import Classifier

CLASSES = ["n01", "n02", "n03"]
OPTIONS = {"num_classes": 3, "image_shape": [3, 6, 6], "batch_size": 6, "val_size": 3, "name": "imagenet"}


@pytest.fixture
def root(tmp_path):
    class_folders(tmp_path / "imagenet" / "train", CLASSES, 5)
    class_folders(tmp_path / "imagenet" / "val", CLASSES, 2, seed=9)
    return tmp_path


def build(root, **options):
    module = ImageFolderDataModule(root=str(root), **OPTIONS | options)
    module.setup("fit")
    return module


@pytest.mark.parametrize("in_memory", [True, False])
def test_val_is_the_test_split_and_validation_is_held_out_of_train(root, in_memory):
    module = build(root, in_memory=in_memory)
    assert (module.train_size, module.val_size, module.test_size) == (12, 3, 6)
    assert module.classes == CLASSES
    images, labels = next(iter(module.test_dataloader()[0]))
    assert images.shape == (6, 3, 6, 6) and sorted(labels.tolist()) == [0, 0, 1, 1, 2, 2]


def test_a_test_folder_is_used_where_there_is_one(root):
    class_folders(root / "imagenet" / "test", CLASSES, 4)
    module = build(root, val_size=None)
    assert (module.train_size, module.val_size, module.test_size) == (15, 6, 12)


def test_imagenet_c_puts_severities_together(root):
    for corruption in CORRUPTIONS:
        for severity in SEVERITIES:
            class_folders(root / "imagenet-c" / corruption / str(severity), CLASSES, 1)
    module = build(root, robustness=["imagenet_c"])
    assert len(module.test_names) == 1 + 15
    loader = module.test_dataloader()[1 + CORRUPTIONS.index("snow")]
    assert module.test_names[1 + CORRUPTIONS.index("snow")] == "imagenet_c/snow"
    assert sum(len(labels) for _, labels in loader) == 5 * 3


def test_imagenet_r_chooses_among_its_own_classes(root):
    class_folders(root / "imagenet-r", ["n01", "n03"], 2)
    module = build(root, robustness=["imagenet_r"])
    logits = torch.tensor([[1.0, 9.0, 0.0], [0.0, 9.0, 1.0]])
    assert module.correct("imagenet_r", logits, torch.tensor([0, 2])).tolist() == [True, True]
    assert module.correct("clean", logits, torch.tensor([1, 1])).tolist() == [True, True]


def test_imagenet_v2_folders_are_class_numbers(root):
    class_folders(root / "imagenetv2-matched-frequency", ["0", "1", "2"], 1)
    module = build(root, robustness=["imagenet_v2"])
    (batch,) = list(module.test_dataloader()[1])
    assert sorted(batch[1].tolist()) == [0, 1, 2]


def test_real_labels_accept_several_classes_and_leave_out_images_without_any(root):
    answers = [[0], [0, 2], [], [1], [2], [2]]
    (root / "imagenet_real.json").write_text(json.dumps(answers))
    module = build(root, robustness=["imagenet_real"])
    (batch,) = list(module.test_dataloader()[1])
    assert batch[1].shape == (5, 3)
    labels = torch.tensor([[True, False, True]])
    assert module.correct("imagenet_real", torch.tensor([[0.0, 1.0, 2.0]]), labels).item()
    assert not module.correct("imagenet_real", torch.tensor([[0.0, 3.0, 2.0]]), labels).item()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"name": "absent"}, ["data_root", "absent/train/<class>"]),
        ({"num_classes": 4}, ["data.num_classes=4", "3"]),
        ({"robustness": ["imagenet_c"]}, ["imagenet-c/gaussian_noise/1/<class>"]),
        ({"robustness": ["imagenet_d"]}, ["data.robustness", "imagenet_c"]),
    ],
)
def test_what_is_missing_is_named(root, options, expected):
    with pytest.raises(ConfigError) as error:
        build(root, **options)
    for text in expected:
        assert text in str(error.value)


def test_classes_that_differ_between_splits_are_refused(root):
    class_folders(root / "imagenet" / "val", ["n04"], 1)
    with pytest.raises(ConfigError, match="n04"):
        build(root)


class AlwaysFirst(torch.nn.Module):
    """Logits of a network that sees the first of three classes in every picture."""

    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.tensor([1.0, 0.0, 0.0]))

    def forward(self, images):
        return self.bias.expand(len(images), 3)


def test_corrupted_accuracy_is_that_of_imagenet_c_and_every_set_is_reported(root):
    for corruption in CORRUPTIONS:
        for severity in SEVERITIES:
            class_folders(root / "imagenet-c" / corruption / str(severity), ["n01", "n02"], 1)
    class_folders(root / "imagenet-r", ["n01"], 2)
    class_folders(root / "imagenetv2-matched-frequency", ["0", "1", "2"], 1)
    module = build(root, robustness=["imagenet_r", "imagenet_c", "imagenet_v2"])
    optimizer = partial(torch.optim.SGD, lr=0.1)
    classifier = Classifier(AlwaysFirst(), optimizer, constant, num_classes=3, max_steps=1)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.test(classifier, datamodule=module, verbose=False)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert metrics["test/corrupted_accuracy"] == pytest.approx(1 / 2)
    assert metrics["test/corrupted/imagenet_c/fog"] == pytest.approx(1 / 2)
    assert metrics["test/shifted/imagenet_r"] == pytest.approx(1.0)
    assert metrics["test/shifted/imagenet_v2"] == pytest.approx(1 / 3)
    assert metrics["test/accuracy"] == pytest.approx(1 / 3)

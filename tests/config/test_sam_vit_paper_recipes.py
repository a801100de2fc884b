"""Per-model settings of experiment=paper/sam_vit: composed, built without memory, counted and billed."""

import math
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.nn import functional as F

from curvature.data.augment import PerExample
from curvature.engine import _trainer_options
from curvature.models.cost import forward_macs, gpu_hours
from curvature.models.vision import vision_transformer
from curvature.papers.sam_vit_cost import bill, recipes

CONF = Path(__file__).parents[2] / "conf"
# Parameters, rho, A100-hours with SAM as estimated by hand from published multiply-adds.
MODELS = {
    "sam_vit_s32": (22_878_952, 0.05, 12),
    "sam_vit_s16": (22_050_664, 0.1, 47),
    "sam_vit_b32": (88_224_232, 0.15, 45),
    "sam_vit_b16": (86_567_656, 0.2, 180),
    "sam_mixer_b32": (60_293_428, 0.35, 33),
    "sam_mixer_b16": (59_880_472, 0.6, 130),
    "sam_resnet50": (25_557_032, 0.02, 25),
    "sam_resnet101": (44_549_160, 0.05, 48),
    "sam_resnet152": (60_192_808, 0.02, 70),
    "sam_resnet50x2": (97_953_576, 0.05, 4 * 25),
    "sam_resnet101x2": (173_817_640, 0.05, 4 * 48),
    "sam_resnet152x2": (236_300_072, 0.05, 4 * 70),
}


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=["experiment=paper/sam_vit", *overrides])


@pytest.mark.parametrize(("recipe", "expected"), MODELS.items())
def test_bill(recipe, expected):
    found = bill(recipe)
    assert (found.parameters, found.rho) == expected[:2]
    assert found.sam_hours == pytest.approx(expected[2], rel=0.06)
    assert found.plain_hours == found.sam_hours / 2


def test_every_recipe_is_billed():
    assert set(MODELS) | set(FURTHER) == set(recipes())


def vit_s(patch):
    """Parameters of ViT-S from the published S/16: patches and positions differ."""
    return 22_050_664 + 384 * (3 * (patch**2 - 16**2) + (224 // patch) ** 2 - 14**2)


def mixer(patch, width, depth, tokens_mlp, channels_mlp):
    """Parameters of a Mixer of 1000 classes, counted by hand."""
    tokens = (224 // patch) ** 2
    mixing = 2 * tokens * tokens_mlp + tokens_mlp + tokens + 2 * width * channels_mlp + channels_mlp + width
    return (3 * patch**2 + 1) * width + depth * (mixing + 4 * width) + 2 * width + 1000 * (width + 1)


FURTHER = {
    "sam_vit_s14": (vit_s(14), 0.1),
    "sam_vit_s8": (vit_s(8), 0.15),
    "sam_mixer_s32": (mixer(32, 512, 8, 256, 2048), 0.1),
    "sam_mixer_s16": (mixer(16, 512, 8, 256, 2048), 0.15),
    "sam_mixer_s8": (mixer(8, 512, 8, 256, 2048), 0.2),
    "sam_mixer_b8": (mixer(8, 768, 12, 384, 3072), 0.6),
}


@pytest.mark.parametrize(("recipe", "expected"), FURTHER.items())
def test_further_sizes_are_counted_by_hand(recipe, expected):
    found = bill(recipe)
    assert (found.parameters, found.rho) == expected
    assert found.sam_hours > 0.0


def test_counts_by_hand_give_the_published_ones():
    assert mixer(16, 768, 12, 384, 3072) == MODELS["sam_mixer_b16"][0]
    assert mixer(32, 768, 12, 384, 3072) == MODELS["sam_mixer_b32"][0]
    assert vit_s(32) == MODELS["sam_vit_s32"][0]


@pytest.mark.parametrize(
    ("recipe", "base", "lr", "decay", "steps", "end"),
    [
        ("sam_vit_b16", torch.optim.AdamW, 3e-3, 0.3, 300 * 1_268_355 / 4096, 0.0),
        ("sam_mixer_b16", torch.optim.AdamW, 3e-3, 0.3, 300 * 1_268_355 / 4096, 0.01),
        ("sam_resnet50", torch.optim.SGD, 1.6, 1e-3, 90 * 1_268_355 / 4096, 0.0),
    ],
)
def test_optimiser_schedule_and_loss(recipe, base, lr, decay, steps, end):
    cfg = composed(f"recipe={recipe}")
    assert cfg.max_steps == pytest.approx(steps, abs=5)
    with torch.device("meta"):
        module = instantiate(cfg.module)
    (optimizer,), (schedule,) = module.configure_optimizers()
    assert type(optimizer.base_optimizer) is base and optimizer.rho == cfg.rho and optimizer.max_grad_norm == 1.0
    assert {group["initial_lr"] for group in optimizer.param_groups} == {lr}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {decay}
    warmup, factor = cfg.schedule.warmup_steps, schedule.lr_lambdas[0]
    assert factor(warmup // 2) == pytest.approx(0.5, abs=1e-3) and factor(warmup) == pytest.approx(1.0)
    assert factor(cfg.max_steps) == pytest.approx(end, abs=1e-9)
    middle = 0.5 * (1 + math.cos(math.pi / 2)) if end == 0.0 else (1 + end) / 2
    assert factor((cfg.max_steps + warmup) // 2) == pytest.approx(middle, abs=1e-3)
    logits, labels = torch.randn(4, 1000), torch.tensor([1, 2, 3, 999])
    one_hot = F.one_hot(labels, 1000).float()
    softmax = F.cross_entropy(logits, labels)
    wanted = softmax
    if base is torch.optim.AdamW:
        wanted = F.binary_cross_entropy_with_logits(logits, one_hot, reduction="sum") / 4
    torch.testing.assert_close(module.criterion(logits, labels), wanted)
    torch.testing.assert_close(module.evaluation_criterion(logits, labels), softmax)
    drops = [getattr(m, "drop_prob", 0.0) for m in module.model.modules()]
    assert max(drops) == pytest.approx(0.1 if recipe == "sam_mixer_b16" else 0.0)


def test_base_arms_differ_from_sam_in_the_optimiser_only():
    for recipe, plain in (("sam_vit_b16", "adamw"), ("sam_resnet50", "sgd")):
        with_sam, without = composed(f"recipe={recipe}"), composed(f"recipe={recipe}", f"optimizer={plain}")
        assert with_sam.optimizer.base_optimizer == without.optimizer
        assert {key: with_sam[key] for key in ("lr", "weight_decay", "max_steps", "schedule", "data", "model")} == {
            key: without[key] for key in ("lr", "weight_decay", "max_steps", "schedule", "data", "model")
        }


def test_strong_augmentation_comes_on_top_of_a_recipe():
    cfg = composed("recipe=[sam_mixer_b16,sam_vit_aug_imagenet]", "rho=0.2")
    assert [item["_target_"].rsplit(".", 1)[1] for item in cfg.data.train_transform][-1] == "RandAugment"
    _, labels = instantiate(cfg.module.mixing)(torch.rand(4, 3, 8, 8), torch.tensor([1, 2, 3, 999]))
    assert labels.shape == (4, 1000) and torch.allclose(labels.sum(1), torch.ones(4))
    assert cfg.rho == 0.2 and cfg.model.drop_path_rate == 0.1


def test_strong_augmentation_of_cifar10_replaces_crop_and_flip():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=["experiment=lab/sam_vit", "+recipe=sam_vit_aug_lab"])
    names = [item["_target_"].rsplit(".", 1)[1] for item in cfg.data.train_transform]
    assert names == ["RandomCrop", "RandomHorizontalFlip", "RandAugment"]
    augment = PerExample([instantiate(item) for item in cfg.data.train_transform])
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    changed = augment(images, np.arange(4))
    assert changed.shape == images.shape and changed.dtype == torch.uint8 and not torch.equal(changed, images)
    assert torch.equal(changed, augment(images, np.arange(4)))


def test_adversarial_training_is_at_four_255ths_of_the_range():
    cfg = composed("recipe=[sam_vit_s16,sam_vit_adversarial_imagenet]")
    training, judging = instantiate(cfg.module.adversary), instantiate(cfg.callbacks.adversarial).attack
    assert training.eps == judging.eps == pytest.approx(2 * 4 / 255, rel=1e-4)
    assert (training.steps, judging.steps) == (1, 10)
    assert training.step_size == pytest.approx(1.25 * training.eps, rel=1e-4)
    assert judging.step_size == pytest.approx(0.25 * judging.eps)


@pytest.mark.parametrize(("override", "expected"), [([], timedelta(hours=24)), (["trainer.strategy=auto"], None)])
def test_processes_wait_a_day_for_the_measures_of_the_first(override, expected):
    cfg = composed(*override)
    strategy = _trainer_options(OmegaConf.to_container(cfg.trainer, resolve=True))["strategy"]
    assert strategy == "auto" if expected is None else strategy._timeout == expected
    assert cfg.callbacks.measures.batch_size * 10 < cfg.callbacks.measures.images


def test_multiply_adds_of_one_block_by_hand():
    width, hidden, tokens, classes = 32, 128, 5, 10
    block = tokens * (4 * width * width + 2 * width * hidden) + 2 * tokens * tokens * width
    expected = (tokens - 1) * 4 * 4 * width + block + width * classes

    def build():
        return vision_transformer((1, 8, 8), classes, 4, width, 1, 4, hidden)

    assert forward_macs(build, (1, 8, 8)) == expected
    assert gpu_hours(1_000, 1e12, 2, utilisation=0.5, peak=1e12) == pytest.approx(6e3 * 1e12 * 2 / 0.5e12 / 3600)

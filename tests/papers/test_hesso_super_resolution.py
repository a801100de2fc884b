"""CARN: its published size and groups, the paper's setting, and a narrow one that is trained and pruned in a run."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from torch.optim import SGD

from curvature.engine import run
from curvature.errors import ConfigError
from curvature.models.super_resolution import CARN
from curvature.models.vision import parameter_count
from curvature.optim.schedules import constant, multistep
from curvature.training.super_resolution import SuperResolution

CONF = Path(__file__).parents[2] / "conf"
DESK = ["experiment=hesso", "+recipe=hesso_carn_desk"]
OFFLINE = ["tracking=offline", "trainer.enable_progress_bar=false", "callbacks.slim.latency_repetitions=0"]
SMALL = ["model.width=4", "model.stages=1", "data.patch_size=8", "data.batch_size=4", "max_steps=12",
         "optimizer.start_step=2", "optimizer.pruning_steps=8", "optimizer.pruning_periods=2",
         "trainer.val_check_interval=6"]  # fmt: skip


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=[*overrides])


def test_the_papers_setting_is_that_of_the_sheet():
    cfg = composed("experiment=paper/hesso_carn", "data_root=/")
    assert (cfg.paper, cfg.scale, cfg.lr, cfg.max_grad_norm, cfg.max_steps) == ("hesso", "paper", 1e-4, 10.0, 600_000)
    assert (cfg.data.scale, cfg.data.patch_size, cfg.data.batch_size) == (2, 64, 64)
    wanted = {"variant": "adam", "target_group_sparsity": 0.6, "start_step": 60_000, "pruning_steps": 60_000,
              "pruning_periods": 10, "weight_decay": 0.0, "direction": "variant", "adam": "torch"}  # fmt: skip
    assert wanted == {key: cfg.optimizer[key] for key in wanted}
    assert cfg.module.border == 2
    assert parameter_count(lambda: instantiate(cfg.model)) == 964_163
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=cfg.lr)
    schedule = multistep(optimizer, cfg.max_steps, cfg.schedule.milestones, cfg.schedule.decay)
    (factor,) = schedule.lr_lambdas
    assert [factor(step) for step in (0, 399_999, 400_000, 599_999)] == [1, 1, 0.5, 0.5]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_images_become_larger_by_the_factor(scale):
    model = CARN(width=4, stages=1, scale=scale)
    images = torch.rand(2, 3, 5, 7)
    assert model(images).shape == (2, 3, 5 * scale, 7 * scale)
    torch.nn.init.zeros_(model.leave.weight)
    torch.nn.init.zeros_(model.leave.bias)
    assert torch.equal(model(images), model.mean.expand(2, 3, 5 * scale, 7 * scale))


def test_what_carn_cannot_be_is_said():
    wrong = ({"scale": 5}, {"width": 0}, {"stages": 0}, {"groups": 0}, {"groups": 3}, {"mean": (0.5,)})
    for options in wrong:
        with pytest.raises(ConfigError, match=f"model.{next(iter(options))}"):
            CARN(**{"width": 4} | options)


def test_a_run_ends_with_a_slim_network_that_is_the_masked_one(tmp_path):
    metrics = run(composed(*DESK, *SMALL, *OFFLINE, f"outputs={tmp_path}")).metrics
    assert metrics["groups/zero"] == metrics["groups/target"] == int(0.6 * metrics["groups/total"]) > 0
    assert metrics["slim/max_difference"] < 1e-12
    assert metrics["params/left"] < 0.8 and metrics["macs/left"] < 0.8
    assert metrics["passes/forward"] == metrics["passes/backward"] == 1
    assert metrics["test/psnr"] == pytest.approx((metrics["test/psnr/china"] + metrics["test/psnr/flower"]) / 2)
    assert all(math.isfinite(metrics[name]) for name in ("val/psnr", "val/loss", "test/loss", "test/bicubic/china"))


def test_a_run_on_folders_reports_every_test_set(tmp_path):
    for index, name in enumerate(("DIV2K/DIV2K_train_HR", "DIV2K/DIV2K_valid_HR", "Set14", "B100", "Urban100")):
        (tmp_path / name).mkdir(parents=True)
        pixels = np.random.default_rng(index).integers(0, 256, (34, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name / "1.png")
    smaller = ["data.num_workers=0", "max_steps=4", "optimizer.pruning_steps=2", "optimizer.start_step=1",
               "trainer.val_check_interval=2", "trainer.accelerator=cpu"]  # fmt: skip
    cfg = composed(
        "experiment=paper/hesso_carn", f"data_root={tmp_path}", f"outputs={tmp_path}", *SMALL, *OFFLINE, *smaller
    )
    metrics = run(cfg).metrics
    sets = [metrics[f"test/psnr/{name}"] for name in ("Set14", "B100", "Urban100")]
    assert metrics["test/psnr"] == pytest.approx(sum(sets) / 3)
    assert metrics["groups/zero"] == metrics["groups/target"] > 0


class Enlarged(torch.nn.Module):
    """Every pixel four times."""

    def __init__(self, factor=2):
        super().__init__()
        self.factor, self.gain = factor, torch.nn.Parameter(torch.ones(()))

    def forward(self, images):
        return self.gain * images.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)


def module(model, border=2):
    return SuperResolution(border=border, model=model, optimizer=lambda named: SGD(dict(named).values(), lr=0.1),
                           schedule=constant, max_steps=1)  # fmt: skip


def test_the_loss_is_the_mean_absolute_error():
    low, high = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 8, 8)
    model = Enlarged()
    torch.testing.assert_close(module(model).training_loss(low, high), (model(low) - high).abs().mean())


def test_networks_and_borders_that_do_not_fit_are_refused():
    data = instantiate(composed(*DESK, "data.patch_size=24").data)
    data.setup()
    module(Enlarged()).check_data(data)
    with pytest.raises(ConfigError, match=r"48, 48.*72, 72"):
        module(Enlarged(3)).check_data(data)
    with pytest.raises(ConfigError, match=r"module\.border"):
        module(Enlarged(), border=24).check_data(data)
    with pytest.raises(ConfigError, match=r"module\.border"):
        module(Enlarged(), border=-1)

"""Pretrained pipelines from a local folder: sampled by arms, judged by FID, with errors before anything is spent."""

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image

from curvature.errors import ConfigError
from curvature.samplers.features import FeatureNet
from curvature.samplers.pipelines import inception, pipeline_scheduler, pipeline_study
from curvature.samplers.study import Arm

ARMS = {
    "base": {"solver": "dpm_3m"},
    "same": {"solver": "dpm_3m", "correction": "lml", "lamb": 1e-3},
    "lml": {"solver": "dpm_3m", "correction": "lml", "beta": 0.4},
}


@pytest.fixture
def folders(tmp_path):
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"), norm_num_groups=4,
    )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler(beta_schedule="scaled_linear")).save_pretrained(tmp_path / "model")
    (tmp_path / "real").mkdir()
    for index in range(20):
        pixels = torch.randint(0, 256, (12, 10, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(index))
        Image.fromarray(pixels.numpy()).save(tmp_path / "real" / f"{index}.png")
    return {"checkpoint": str(tmp_path / "model"), "reference": str(tmp_path / "real")}


def features():
    torch.manual_seed(1)
    return FeatureNet((3, 8, 8), 10, (16, 4)).requires_grad_(False)


OPTIONS = {"features": features, "steps": [4], "samples": 12, "batch_size": 5, "resolution": 8, "device": "cpu"}


def test_arms_share_seeds_and_the_exact_form_without_kappa_is_its_base(folders):
    found = pipeline_study(0, arms=ARMS, **folders, **OPTIONS)
    assert found["fid/same/nfe_4"] == found["fid/base/nfe_4"]
    assert found["fid/lml/nfe_4"] != found["fid/base/nfe_4"]
    larger = pipeline_study(0, arms={"base": ARMS["base"]}, **folders, **{**OPTIONS, "batch_size": 12})
    assert larger["fid/base/nfe_4"] == pytest.approx(found["fid/base/nfe_4"], rel=1e-4)
    assert pipeline_study(1, arms={"base": ARMS["base"]}, **folders, **OPTIONS) != {
        "fid/base/nfe_4": found["fid/base/nfe_4"]
    }


def test_schedulers_keep_the_noise_schedule_of_the_pipeline():
    config = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085).config
    for solver in ("ddim", "dpm_3m", "dpmpp_2m", "unipc"):
        scheduler = pipeline_scheduler(Arm(solver, {"correction": "lml", "beta": 0.1}), config)
        assert (scheduler.config.beta_schedule, scheduler.config.beta_start) == ("scaled_linear", 0.00085)
        assert (scheduler.config.beta, scheduler.config.final_sigmas_type) == (0.1, "sigma_min")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"checkpoint": "nowhere"}, "checkpoint"),
        ({"checkpoint": None}, "checkpoint"),
        ({"reference": "nowhere"}, "reference"),
        ({"prompts": "nowhere"}, "prompts"),
        (
            {"arms": {**ARMS, "rescale": {"solver": "ddim", "match_variance_of": "lml"}}},
            "arms.rescale.match_variance_of",
        ),
    ],
)
def test_what_is_missing_is_named(folders, change, key):
    with pytest.raises(ConfigError) as error:
        pipeline_study(0, **{"arms": ARMS, **folders, **OPTIONS, **change})
    assert error.value.key == key


def test_too_few_prompts_and_missing_inception_weights(folders, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    with pytest.raises(ConfigError, match="number of prompts, 2"):
        pipeline_study(0, arms=ARMS, prompts=str(tmp_path / "prompts.txt"), **folders, **OPTIONS)
    with pytest.raises(ConfigError, match="inception_weights"):
        inception(None)

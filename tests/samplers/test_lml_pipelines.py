"""Pretrained pipelines from a local folder: sampled by arms, judged by FID, with errors before anything is spent."""

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image

from curvature.errors import ConfigError
from curvature.samplers.features import FeatureNet
from curvature.samplers.pipelines import inception, pipeline_scheduler, pipeline_study
from curvature.samplers.study import SOLVERS, Arm, inference_steps

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


def test_a_matched_arm_ends_at_the_variance_of_its_arm(folders):
    arms = {**ARMS, "rescale": {"solver": "dpm_3m", "match_variance_of": "lml"}}
    found = pipeline_study(0, arms=arms, **folders, **OPTIONS, calibration=4)
    assert 0 < abs(found["shrink/rescale/nfe_4"]) < 0.5
    assert len({found[f"fid/{name}/nfe_4"] for name in ("base", "lml", "rescale")}) == 3
    plain = {"rescale": {**ARMS["base"], "correction": "rescale_control", "shrink": found["shrink/rescale/nfe_4"]}}
    again = pipeline_study(0, arms=plain, **folders, **OPTIONS)
    assert again["fid/rescale/nfe_4"] == pytest.approx(found["fid/rescale/nfe_4"], rel=1e-6)


def test_every_solver_makes_as_many_calls_as_it_is_told():
    config = DDPMScheduler(beta_schedule="scaled_linear").config
    for solver in SOLVERS:
        for calls in (5, 10, 20):
            scheduler = pipeline_scheduler(Arm(solver), config, calls)
            scheduler.set_timesteps(inference_steps(scheduler, calls))
            assert len(scheduler.timesteps) == calls
            assert scheduler.timesteps[0] == 999


def test_the_documented_damping_follows_the_number_of_steps():
    config, arm = DDPMScheduler().config, Arm("dpm_3m", {"correction": "lml", "readme_lamb": True})
    assert [pipeline_scheduler(arm, config, count).config.lamb for count in (5, 10, 20)] == [8e-4, 8e-4, 5e-4]
    arm = Arm("dpm_3m", {"correction": "lml", "readme_lamb": True, "lamb": 5e-3})
    assert pipeline_scheduler(arm, config, 11).config.lamb == 5e-3


def test_schedulers_keep_the_noise_schedule_of_the_pipeline():
    config = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085).config
    for solver, (_, options) in SOLVERS.items():
        scheduler = pipeline_scheduler(Arm(solver, {"correction": "lml", "beta": 0.1}), config, 10)
        assert (scheduler.config.beta_schedule, scheduler.config.beta_start) == ("scaled_linear", 0.00085)
        assert scheduler.config.beta == 0.1
        assert {key: scheduler.config[key] for key in options} == options


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"checkpoint": "nowhere"}, "checkpoint"),
        ({"checkpoint": None}, "checkpoint"),
        ({"reference": "nowhere"}, "reference"),
        ({"prompts": "nowhere"}, "prompts"),
        ({"calibration": 1}, "calibration"),
        ({"arms": {"pndm": {"solver": "pndm"}}, "steps": [2]}, "steps"),
        ({"arms": {"released": {"solver": "dpm_3m", "readme_lamb": True}}}, "steps"),
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

"""The denoiser's run, the studies as runs, resume, and bad arguments."""

import copy

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from curvature.configs import config_directory
from curvature.engine import run
from curvature.errors import ConfigError
from curvature.models.denoisers import MLPDenoiser, UNetDenoiser
from curvature.training.evaluations import Evaluations


def config(tmp_path, *overrides):
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        line = ["experiment=lml_diffusion", f"outputs={tmp_path}", "tracking=offline", *overrides]
        return compose("config", overrides=line)


SMALL = ("+debug=smoke", "module.steps=[5]", "module.samples=200", "module.feature_steps=300")


def test_a_run_compares_the_arms_and_draws_grids(tmp_path):
    result = run(config(tmp_path, *SMALL))
    metrics = result.metrics
    assert metrics["fid/lml_kappa_0/nfe_5"] == metrics["fid/dpm_3m/nfe_5"]
    assert metrics["fid/lml_0.2/nfe_5"] != metrics["fid/dpm_3m/nfe_5"]
    assert metrics["features/accuracy"] > 0.85
    assert metrics["finite/released/nfe_5"] < 1
    assert (result.directory / "artifacts" / "samples" / "nfe_5.png").stat().st_size > 10_000


def test_training_lowers_the_loss_and_the_average_follows(tmp_path):
    before = run(config(tmp_path / "a", *SMALL)).metrics
    after = run(
        config(
            tmp_path / "b", *SMALL, "max_steps=200", "trainer.val_check_interval=null", "checkpoint.every_n_steps=1000"
        )
    ).metrics
    assert after["val/loss"] < 0.7 * before["val/loss"]
    assert after["fid/dpm_3m/nfe_5"] < 0.8 * before["fid/dpm_3m/nfe_5"]


def test_studies_run_as_evaluations(tmp_path):
    cfg = config(tmp_path, "study=lml_gmm64", "+debug=smoke", "max_steps=1")
    cfg.module.functions[0].samples = 100
    cfg.module.functions[0].steps = [5]
    cfg.comparison = {name: cfg.comparison[name] for name in ("dpm_3m", "lml_0.1", "rescale")}
    metrics = run(cfg).metrics
    assert metrics["moment_w2/dpm_3m/nfe_5"] > 0.5
    assert metrics["variance/rescale/nfe_5"] == pytest.approx(metrics["variance/lml_0.1/nfe_5"], rel=0.05)


def test_evaluations_are_means_over_their_seeds():
    module = Evaluations([lambda seed: {"a": float(seed)}, lambda seed: {"b": 2.0 * seed}], seed=3, max_steps=2)
    module._evaluate()
    checkpoint = {"state_dict": copy.deepcopy(module.state_dict())}
    module.on_save_checkpoint(checkpoint)
    module._evaluate()
    assert module.results == {"a": 6.5, "b": 13.0}
    resumed = Evaluations(module.functions, seed=3, max_steps=2)
    resumed.on_load_checkpoint(checkpoint)
    resumed.load_state_dict(checkpoint["state_dict"])
    assert resumed.results == {"a": 6.0, "b": 12.0}
    resumed._evaluate()
    assert resumed.results == module.results
    with pytest.raises(ConfigError, match=r"module\.keep='median'"):
        Evaluations(module.functions, seed=3, max_steps=2, keep="median")


def test_denoisers_and_the_ddpm_unet():
    images, timesteps = torch.randn(3, 1, 8, 8), torch.tensor([0, 500, 999])
    for net in (MLPDenoiser((1, 8, 8), 32, 1), UNetDenoiser((1, 8, 8), (32, 64), 1)):
        out = net(images, timesteps)
        assert out.shape == images.shape
        assert not torch.equal(out, net(images, timesteps.flip(0)))
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        cfg = compose("config", overrides=["data=cifar10", "model=unet_ddpm", "max_steps=1"])
    with torch.device("meta"):
        unet = instantiate(cfg.model, image_shape=[3, 32, 32])
    assert sum(p.numel() for p in unet.parameters()) == 35_746_307


def test_a_saved_unet_is_loaded_and_others_are_refused(tmp_path):
    net = UNetDenoiser((1, 8, 8), (32, 64), 1)
    net.net.save_pretrained(tmp_path)
    loaded = UNetDenoiser((1, 8, 8), checkpoint=str(tmp_path))
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 4])
    torch.testing.assert_close(loaded.eval()(x, t), net.eval()(x, t))
    with pytest.raises(ConfigError, match="channels"):
        UNetDenoiser((3, 8, 8), checkpoint=str(tmp_path))
    with pytest.raises(ConfigError, match="checkpoint"):
        UNetDenoiser((1, 8, 8), checkpoint=str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    "override", ["module.ema_decay=1.0", "module.samples=1", "module.steps=[11]", "comparison.dpm_3m.solver=euler"]
)
def test_bad_arguments_fail_before_training(tmp_path, override):
    with pytest.raises(ConfigError):
        run(config(tmp_path, "+debug=smoke", override))
    assert not list(tmp_path.rglob("config.yaml"))

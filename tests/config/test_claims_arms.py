"""Every arm of every committed claims file composes: no sweep stops at a key that does not exist."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from curvature.claims.files import claims_file
from curvature.claims.papers import experiments_with_claims
from curvature.claims.plan import plan
from curvature.claims.schema import load
from curvature.validation import validate

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("experiment", experiments_with_claims())
def test_every_arm_composes(experiment, tmp_path):
    scale, _, paper = experiment.rpartition("/")
    claims = load(claims_file(ROOT / "experiments", paper, scale or "desk"))

    def composed(overrides):
        cfg = compose("config", overrides=overrides)
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        validate(cfg)
        assert cfg.module.max_steps == cfg.max_steps, "the module counts on as many steps as the trainer takes"
        return cfg

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        runs = plan(claims, claims.claims, composed, [f"experiment={experiment}", f"data_root={tmp_path}"])
    assert {run.arm for run in runs} == set(claims.arms)

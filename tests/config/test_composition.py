"""Every experiment at every scale composes, resolves and is strict."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from curvature.fingerprint import fingerprint
from curvature.validation import validate

CONF = Path(__file__).parents[2] / "conf"
EXPERIMENTS = sorted(
    str(path.relative_to(CONF / "experiment").with_suffix("")) for path in (CONF / "experiment").rglob("*.yaml")
)


def composed(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_composes_and_resolves(experiment, tmp_path):
    cfg = composed(f"experiment={experiment}", f"data_root={tmp_path}")
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    validate(cfg)
    name = experiment.rsplit("/", 1)[-1]
    assert name == cfg.paper or name.startswith(f"{cfg.paper}_")
    expected = experiment.split("/")[0] if "/" in experiment else "desk"
    assert cfg.scale == expected
    assert cfg.cost


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_smoke_composes(experiment, tmp_path):
    cfg = composed(f"experiment={experiment}", "+debug=smoke", f"data_root={tmp_path}")
    assert (cfg.scale, cfg.max_steps) == ("smoke", 4)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_unknown_key_is_refused(experiment):
    with pytest.raises(HydraException, match="Could not override 'no_such_key'"):
        composed(f"experiment={experiment}", "no_such_key=1")


def test_every_group_option_is_valid_yaml_with_lower_case_name():
    for path in CONF.rglob("*.yaml"):
        OmegaConf.load(path)
        assert path.stem == path.stem.lower()


def test_scales_of_one_paper_have_different_fingerprints(tmp_path):
    root = f"data_root={tmp_path}"
    addresses = {fingerprint(composed(f"experiment={name}", root)) for name in EXPERIMENTS}
    assert len(addresses) == len(EXPERIMENTS)

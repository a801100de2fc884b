"""Every option of every config group composes, resolves and holds only values that its parts take."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from curvature.arguments import check_arguments
from curvature.validation import validate

CONF = Path(__file__).parents[2] / "conf"
SEPARATE = {"experiment", "debug"}
"""Groups whose options :mod:`test_composition` tries."""
HOSTS = {
    "algorithm": ["experiment=sgd_stability"],
    "callbacks": ["experiment=sam_vit", "+"],
    "data": ["experiment=hessian_alignment"],
    "data/div2k": ["experiment=hesso", "+recipe=hesso_carn_desk"],
    "data/photographs": ["experiment=hesso", "+recipe=hesso_carn_desk"],
    "data/generated_questions": ["experiment=hesso", "+recipe=hesso_bert_desk"],
    "data/squad": ["experiment=hesso", "+recipe=hesso_bert_desk"],
    "head": ["experiment=grassmann_head"],
    "method": ["experiment=hessian_alignment"],
    "model": ["experiment=grassmann_head"],
    "model/eeg_spdnet": ["experiment=spd_batchnorm"],
    "model/spd": ["experiment=spd_batchnorm"],
    "model/carn": ["experiment=hesso", "+recipe=hesso_carn_desk"],
    "model/bert_qa": ["experiment=hesso", "+recipe=hesso_bert_desk"],
    "model/causal_lm": ["experiment=hesso", "data=tokens"],
    "norm": ["experiment=spd_batchnorm"],
    "optimizer": ["experiment=grassmann_head"],
    "pruning": ["experiment=sam_vit", "+"],
    "recipe/grassmann": ["experiment=paper/grassmann_head", "+"],
    "recipe/grassmann_cifar10_subset": ["experiment=lab/grassmann_head", "+"],
    "recipe/hesso": ["experiment=paper/hesso", "+"],
    "recipe/hesso_bert_desk": ["experiment=hesso", "+"],
    "recipe/hesso_carn_desk": ["experiment=hesso", "+"],
    "recipe/hesso_cifar10_subset": ["experiment=lab/hesso", "+"],
    "recipe/hesso_phi2": ["experiment=hesso", "+"],
    "recipe/sam": ["experiment=paper/sam_vit"],
    "schedule": ["experiment=sam_vit"],
    "slurm": ["experiment=sam_vit"],
    "study/alignment": ["experiment=hessian_alignment"],
    "study/gauge": ["experiment=diffusion_gauge"],
    "study/hesso": ["experiment=hesso"],
    "study/lml": ["experiment=lml_diffusion"],
    "study/stability": ["experiment=sgd_stability"],
    "tracking": ["experiment=sam_vit"],
    "trainer": ["experiment=sam_vit"],
}
"""Beginning of ``<group>/<option>`` -> overrides it is tried with, the longest wins; + for what no default names."""

BASES = {"study/stability_descent", "study/stability_facts"}
"""What other options build on; they cannot be chosen alone."""


def options(below="."):
    for path in sorted((CONF / below).rglob("*.yaml")):
        if path.parent != CONF and path.relative_to(CONF).parts[0] not in SEPARATE:
            yield str(path.relative_to(CONF).with_suffix(""))


def composed(option, root):
    group, _, name = option.rpartition("/")
    host = HOSTS[max((start for start in HOSTS if option.startswith(start)), key=len)]
    plus = "+" if "+" in host else ""
    overrides = [*(item for item in host if item != "+"), f"data_root={root}", f"{plus}{group}={name}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=overrides)


@pytest.mark.parametrize("option", sorted({*options()} - BASES - {*options("hydra")}))
def test_option_composes_resolves_and_is_valid(option, tmp_path):
    cfg = composed(option, tmp_path)
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    validate(cfg)
    for part in ("data", "module", "callbacks"):
        check_arguments(cfg[part], part)


@pytest.mark.parametrize("option", options("hydra"))
def test_option_of_hydra_composes(option):
    group, _, name = option.rpartition("/")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=["experiment=sam_vit", f"{group}={name}"], return_hydra_config=True)
    assert cfg.hydra.runtime.choices[group] == name

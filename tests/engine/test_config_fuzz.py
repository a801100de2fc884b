"""Random values for the keys of a run's config: it runs, or one error that a user can act on says why not."""

import json
import os
import random
import re
import shutil
import time
from collections import defaultdict
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from curvature.configs import group_options

CONF = Path(__file__).parents[2] / "conf"
SEED = int(os.environ.get("CURVATURE_FUZZ_SEED", "0"))
"""Decides order, values and configs; the same for everybody unless one wants other draws."""
SECONDS = 40
LEAST = 60
"""So many keys are tried in runs, however slow the machine is."""
VIT = [
    "experiment=sam_vit",
    "model.width=8",
    "model.mlp_width=8",
    "model.depth=1",
    "data.train_size=200",
    "callbacks.measures.images=4",
    "callbacks.measures.draws=1",
    "+callbacks.step_time.repetitions=5",
]
BERT = [
    "experiment=hesso",
    "+recipe=hesso_bert_desk",
    "data.train_articles=8",
    "data.test_articles=2",
    "data.batch_size=8",
]
CARN = ["experiment=hesso", "+recipe=hesso_carn_desk", "model.width=4", "model.stages=1", "data.patch_size=8"]
SMALL = {
    "adamw": [*VIT, "optimizer=adamw"],
    "sam": [*VIT, "optimizer=sam"],
    "asam": [*VIT, "optimizer=asam"],
    "gsam": [*VIT, "optimizer=gsam"],
    "sgd_stability": ["experiment=sgd_stability", "grid=[0.02]"],
    "hessian_alignment": ["experiment=hessian_alignment", "method=hutchinson"],
    "spd_batchnorm": ["experiment=spd_batchnorm"],
    "grassmann_head": ["experiment=grassmann_head"],
    "hesso": ["experiment=hesso", "module.pretrain_steps=0"],
    "hesso_bert": [*BERT, "optimizer.start_step=0", "optimizer.pruning_steps=null"],
    "hesso_carn": [*CARN, "optimizer.start_step=0", "optimizer.pruning_steps=null"],
    "lml_diffusion": ["experiment=lml_diffusion", "module.steps=[5]", "module.samples=64"],
    "diffusion_gauge": ["experiment=diffusion_gauge"],
    "policy_gradient": ["experiment=policy_gradient", "data.trajectories=2", "data.environment.horizon=10"],
    "lie": ["experiment=spd_batchnorm", "norm=lie"],
    "arcface": ["experiment=grassmann_head", "head=arcface", "optimizer=sgd"],
    "fish": ["experiment=hessian_alignment", "method=fish"],
}
"""Configs whose runs take about a second."""
VARIED = {
    "sam_vit": ("model=mixer_desk", "model=resnet_desk", "optimizer=lamb", "+recipe=sam_vit_aug", "+callbacks=blocks"),
    "grassmann_head": tuple(f"head={name}" for name in group_options("head")),
    "spd_batchnorm": tuple(f"norm={name}" for name in group_options("norm")),
    "hessian_alignment": tuple(f"method={name}" for name in group_options("method")),
    "policy_gradient": ("optimizer=sharp", "optimizer=storm_pg", "optimizer=n_harpg", "data=lqr", "data=cubic"),
    "sgd_stability": ("algorithm=gd", "study=stability_escape", "study=stability_linear", "study=stability_witness"),
    "lml_diffusion": ("study=lml_gmm64", "study=lml_sdxl", "study=lml_facts"),
    "hesso": ("optimizer=dhspg", "optimizer=hesso_cric", "optimizer=hesso_sgd", "study=hesso_facts"),
    "diffusion_gauge": ("study=gauge_trained", "slurm=cpu", "slurm=single_gpu", "slurm=multi_node"),
}
"""Options other than the default ones; their keys are checked, not run."""
LEFT_ALONE = {"hydra", "_target_", "_partial_", "_convert_"}
NOT_RUN = {
    "outputs",
    "paper",
    "experiments",
    "slurm",
    "tracking.uri",
    "trainer.devices",
    "trainer.num_nodes",
    "data.num_workers",
}
"""Where a run writes and what starts processes: checked, not run."""
VALUES = [
    *(None, True, False, -2, -1, 0, 1, 2, 4, -1.0, 0.0, 0.3, 1.5, float("nan"), float("inf"), 1e300),
    *("", "no such thing", "3", "ä\n", [], [1, 2], ["x"], {}, {"a": 1}),
]
EXAMPLES = [
    ("sam", "callbacks.measures.draws", -2),
    ("sam", "callbacks.measures.draws", float("inf")),
    ("gsam", "optimizer.lr_max", "3"),
    ("gsam", "optimizer.base_optimizer.betas", -1.0),
    ("sam", "data.corruptions", {"a": 1}),
    ("sam", "data_root", {"a": 1}),
    ("sam", "model.drop_rate", float("nan")),
    ("sam", "model.width", 0),
    ("sam", "trainer.limit_test_batches", 0.3),
    ("sam", "trainer.plugins", "no such thing"),
    ("adamw", "model.depth", -1),
    ("adamw", "optimizer.betas", 1),
    ("arcface", "head.loss.scale", ["x"]),
    ("hesso", "callbacks.slim.latency_repetitions", -1),
    ("hesso_bert", "model.sizes.num_attention_heads", -1),
    ("diffusion_gauge", "module.functions", [1, 2]),
    ("hessian_alignment", "module.measure_samples", -1),
    ("lml_diffusion", "comparison.opposite.beta", {"a": 1}),
    ("sgd_stability", "rate_scale", -1),
]
"""Draws that once ended in a traceback or in a message that did not say what was wrong."""


def leaves(node, prefix=""):
    for key in node:
        path = f"{prefix}{key}"
        if key in LEFT_ALONE or "." in str(key):
            continue
        if OmegaConf.is_interpolation(node, key) and isinstance(node[key], DictConfig):
            continue
        value = node[key]
        if isinstance(value, DictConfig) and len(value):
            yield from leaves(value, f"{path}.")
        elif not isinstance(value, ListConfig) or prefix:
            yield path


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def holders(configs):
    """Key -> names of the configs that have it."""
    found = defaultdict(list)
    for name, cfg in configs.items():
        for key in leaves(cfg):
            found[key].append(name)
    return found


def draws(configs, purpose):
    """Every key once, in random order, as (name of a config, key, value)."""
    chance = random.Random(f"{purpose} {SEED}")
    found = sorted(holders(configs).items())
    chance.shuffle(found)
    return [(chance.choice(names), key, chance.choice(VALUES)) for key, names in found]


def changed(cfg, key, value):
    cfg = cfg.copy()
    OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    return cfg


def names_it(message, key, value):
    """Whether an error names the key, its value, or the part of the config the key belongs to."""
    *groups, leaf = key.split(".")
    text = str(value)
    if leaf in message or repr(value) in message or (text and text in message):
        return True
    return any(re.search(rf"\b{re.escape(group)}(=| cannot be built)", message) for group in groups)


def check(cfg):
    """Everything that is checked before a run or a submission, or the message of the refusal."""
    from curvature.arguments import check_arguments
    from curvature.cluster.options import read_options
    from curvature.errors import CurvatureError
    from curvature.fingerprint import fingerprint
    from curvature.tracking.store import validate_uri
    from curvature.validation import validate

    try:
        validate(cfg)
        fingerprint(cfg)
        if cfg.tracking.uri is not None:
            validate_uri(str(cfg.tracking.uri))
        if cfg.get("slurm") is not None:
            read_options(cfg)
        for part in ("data", "module", "callbacks"):
            check_arguments(cfg[part], part)
    except CurvatureError as error:
        return str(error)
    return None


def attempt(outputs, cfg):
    """Status of the run, or the message of its refusal; whatever else it raises is a failure of the test."""
    from curvature.engine import run
    from curvature.errors import CurvatureError

    cfg.outputs = str(outputs)
    try:
        status = run(cfg).status
    except (CurvatureError, HydraException, OmegaConfBaseException) as error:
        status = str(error)
        assert status.strip()
    for record in outputs.glob("runs/*/*/run.json"):
        status = json.loads(record.read_text())["status"]
        assert status in ("FINISHED", "FAILED")
    shutil.rmtree(outputs, ignore_errors=True)
    return status


@pytest.fixture(scope="module")
def small():
    """Name -> config of a run that takes about a second."""
    return {
        name: composed(*overrides, "+debug=smoke", "tracking=offline", "max_steps=2")
        for name, overrides in SMALL.items()
    }


@pytest.fixture(scope="module")
def all_configs(small, tmp_path_factory):
    root = f"data_root={tmp_path_factory.mktemp('data')}"
    others = {name: composed(f"experiment={name}", root) for name in group_options("experiment")}
    varied = {
        f"{name} {option}": composed(f"experiment={name}", option, root)
        for name, options in VARIED.items()
        for option in options
    }
    return small | others | varied


def test_every_key_of_every_config_is_accepted_or_refused_by_name(all_configs):
    cases = draws(all_configs, "check")
    slurm = [("diffusion_gauge slurm=multi_node", key, value) for key in slurm_keys(all_configs) for value in VALUES]
    paths = [("sam", key, value) for key in ("outputs", "paper", "experiments", "trainer.devices") for value in VALUES]
    problems = []
    for name, key, value in [*cases, *slurm, *paths]:
        try:
            message = check(changed(all_configs[name], key, value))
        except Exception as error:
            problems.append(f"{name}: {key}={value!r} raises {error!r}")
            continue
        if message is not None and not names_it(message, key, value):
            problems.append(f"{name}: {key}={value!r} is refused with {message!r}")
    assert not problems, "\n".join(problems)
    assert len(cases) >= 400


def slurm_keys(configs):
    return [key for key in holders(configs) if key.startswith("slurm.")]


def test_any_value_of_any_key_runs_or_says_what_is_wrong(small, tmp_path):
    import torch

    for name, cfg in small.items():
        assert attempt(tmp_path / "outputs", cfg.copy()) == "FINISHED", name
    cases = [case for case in draws(small, "run") if case[1] not in NOT_RUN]
    problems, tried, deadline = [], 0, time.monotonic() + SECONDS
    for name, key, value in [*EXAMPLES, *cases]:
        if time.monotonic() > deadline and tried >= len(EXAMPLES) + LEAST:
            break
        tried += 1
        try:
            status = attempt(tmp_path / "outputs", changed(small[name], key, value))
        except Exception as error:
            problems.append(f"{name}: {key}={value!r} raises {error!r}")
            continue
        if status not in ("FINISHED", "FAILED") and not names_it(status, key, value):
            problems.append(f"{name}: {key}={value!r} is refused with {status!r}")
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    print(f"{tried - len(EXAMPLES)} of {len(cases)} keys tried in runs, CURVATURE_FUZZ_SEED={SEED}")
    assert not problems, "\n".join(problems)
    assert tried >= len(EXAMPLES) + LEAST

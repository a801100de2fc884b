"""Random values for the keys of a run's config: it runs, or one error that a user can act on says why not."""

import json
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

CONF = Path(__file__).parents[2] / "conf"
SECONDS = 60
SMOKE = ["+debug=smoke", "tracking=offline", "max_steps=2"]
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
    "lml_diffusion": ["experiment=lml_diffusion", "module.steps=[5]", "module.samples=64"],
    "diffusion_gauge": ["experiment=diffusion_gauge"],
    "policy_gradient": ["experiment=policy_gradient", "data.trajectories=2", "data.environment.horizon=10"],
}
LEFT_ALONE = {"hydra", "paper", "outputs", "experiments", "_target_", "_partial_", "_convert_", "slurm"}
"""Where a run writes, what it is, and what hands on to a cluster."""
STARTS_PROCESSES = {
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.accelerator",
    "data.num_workers",
}
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 4),
    st.sampled_from([-1.0, 0.0, 0.3, 1.5, float("nan"), float("inf"), 1e300]),
    st.sampled_from(["", "no such thing", "3", "ä\n"]),
    st.sampled_from([[], [1, 2], ["x"], {}, {"a": 1}]),
)


def leaves(node, prefix=""):
    for key in node:
        path = f"{prefix}{key}"
        if key in LEFT_ALONE or path in STARTS_PROCESSES or path == "tracking.uri" or "." in str(key):
            continue
        if OmegaConf.is_interpolation(node, key) and isinstance(node[key], DictConfig):
            continue
        value = node[key]
        if isinstance(value, DictConfig) and len(value):
            yield from leaves(value, f"{path}.")
        elif not isinstance(value, ListConfig) or prefix:
            yield path


def small_config(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=[*overrides, *SMOKE])


BASE = {name: small_config(*overrides) for name, overrides in SMALL.items()}
KEYS = {name: sorted(leaves(cfg)) for name, cfg in BASE.items()}


def attempt(outputs, name, changes):
    """Status of the run, or the message of its error; whatever else it raises is a failure of the test."""
    from curvature.engine import run
    from curvature.errors import CurvatureError

    cfg = BASE[name].copy()
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    cfg.outputs = str(outputs)
    try:
        status = run(cfg).status
    except (CurvatureError, HydraException, OmegaConfBaseException) as error:
        status = str(error)
        assert status.strip()
    for record in outputs.glob("runs/*/*/run.json"):
        assert json.loads(record.read_text())["status"] in ("FINISHED", "FAILED")
    return status


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    yield tmp_path_factory.mktemp("fuzz")
    import torch

    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(scope="module")
def deadline(outputs):
    for name in BASE:
        assert attempt(outputs, name, {}) == "FINISHED"
    return time.monotonic() + SECONDS


@st.composite
def changes(draw):
    name = draw(st.sampled_from(sorted(BASE)))
    keys = draw(st.lists(st.sampled_from(KEYS[name]), min_size=1, max_size=2, unique=True))
    return name, {key: draw(VALUES) for key in keys}


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    print_blob=True,
)
@given(case=changes())
@example(case=("sam", {"callbacks.measures.draws": -2}))
@example(case=("sam", {"callbacks.measures.draws": float("inf")}))
@example(case=("gsam", {"optimizer.lr_max": "3"}))
@example(case=("gsam", {"optimizer.base_optimizer.betas": -1.0}))
@example(case=("sam", {"data.corruptions": {"a": 1}}))
@example(case=("sam", {"data_root": {"a": 1}}))
@example(case=("sam", {"model.drop_rate": float("nan")}))
@example(case=("sam", {"trainer.limit_test_batches": 0.3}))
def test_any_value_of_any_key_runs_or_says_what_is_wrong(outputs, deadline, case):
    if time.monotonic() < deadline:
        attempt(outputs, *case)

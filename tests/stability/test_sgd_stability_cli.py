"""Every study of the experiment composes and fits its module; one goes through the command line into MLflow."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from curvature.claims.files import claims_file
from curvature.claims.plan import plan
from curvature.claims.schema import load
from curvature.papers.sgd_stability import SgdStability
from curvature.training.evaluations import Evaluations
from curvature.validation import validate

CONF = Path(__file__).parents[2] / "conf"
EXPERIMENT = "experiment=sgd_stability"
CLAIMS = load(claims_file("experiments", "sgd_stability", "desk"))


def composed(overrides: list[str]):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=overrides)


@pytest.mark.parametrize("arm", CLAIMS.arms)
def test_every_arm_is_a_run_whose_parts_fit(arm):
    cfg = composed([EXPERIMENT, *CLAIMS.arms[arm].overrides])
    validate(cfg)
    module, data = instantiate(cfg.module), instantiate(cfg.data)
    assert isinstance(module, Evaluations if arm in ("linear", "scaling", "witness") else SgdStability)
    named = {"escape": "escape-sgd", "dln-gd-edge": "dln-gd", "digits-gd-long": "digits-gd"}
    assert cfg.arm == named.get(arm, arm)
    if isinstance(module, SgdStability):
        module.start = None
        module.check_data(data)
        assert module.recipe.batch_size == (None if "-gd" in arm else 1)
        assert module.recipe.schedule == "constant"


def test_both_algorithms_have_the_same_problem_and_start():
    for study in ("dln", "relu", "digits", "balance"):
        starts = []
        for algorithm in ("sgd", "gd"):
            cfg = composed([EXPERIMENT, f"study=stability_{study}", f"algorithm={algorithm}", "seed=3"])
            module, data = instantiate(cfg.module), instantiate(cfg.data)
            module.check_data(data)
            starts.append((module.replicas.state(), data.problem))
        (first, one), (second, other) = starts
        assert all((first[name] == second[name]).all() for name in first)
        assert (one.inputs == other.inputs).all() and (one.targets == other.targets).all()


def test_matched_rates_of_relu_nets_are_scaled_by_the_root_of_the_dimension():
    rates = []
    for arm in ("relu-sgd", "relu-gd"):
        rates.append(instantiate(composed([EXPERIMENT, *CLAIMS.arms[arm].overrides]).module).recipe.rates)
    assert rates[1] == pytest.approx([*(10 * rate for rate in rates[0]), 0.15])


def test_all_claims_are_one_plan_of_distinct_runs():
    runs = plan(CLAIMS, CLAIMS.claims, composed, [EXPERIMENT])
    assert len(runs) == len(CLAIMS.arms) * len(CLAIMS.seeds) == len({run.fingerprint for run in runs})


def test_a_run_leaves_its_metrics_and_figures_with_mlflow(command, tmp_path):
    done = command("run.py", EXPERIMENT, "study=stability_escape", "max_steps=12", "trainer.enable_progress_bar=false")
    assert done.returncode == 0, done.stderr
    assert "escape/agreement" in done.stdout
    figures = {path.name for path in (tmp_path / "outputs" / "mlartifacts").rglob("plots/*.png")}
    assert figures == {"sweep.png", "trajectories.png", "escape.png"}

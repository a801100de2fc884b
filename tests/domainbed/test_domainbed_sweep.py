"""DomainBed's sweep as a Hydra option, and our own runs as records."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from curvature.alignment import IGA, Fishr, IRMv1
from curvature.data.seeds import seed_hash
from curvature.domainbed import hparams, runs, selection, tables
from curvature.engine import run
from curvature.errors import ConfigError
from curvature.tracking import deliver_all

ROOT = Path(__file__).parents[2]
SMALL = (
    "experiment=hessian_alignment",
    "+debug=smoke",
    "data=cmnist_domainbed_digits",
    "model=domainbed_cnn",
    "model.width=8",
    "module.eval_every=2",
    "module.measure_samples=50",
)


def composed(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides=[*SMALL, *overrides])


def test_draws_are_those_of_the_released_registry():
    def generator(name):
        return np.random.RandomState(seed_hash(seed_hash(3, 1), name))

    drawn = hparams.hparams("HGP", "PACS", 3, 1, "as_released")
    assert drawn["penalty_alpha"] == 10 ** generator("penalty_alpha").uniform(-3, -5)
    assert drawn["penalty_beta"] == 10 ** generator("penalty_beta").uniform(-1, -3)
    assert drawn["batch_size"] == int(2 ** generator("batch_size").uniform(4, 5.5))
    assert drawn["resnet_dropout"] == generator("resnet_dropout").choice([0.0, 0.1, 0.5])
    assert drawn["weight_decay"] == 10 ** generator("weight_decay").uniform(-6, -2)
    narrow = hparams.hparams("HGP", "PACS", 3, 1, "as_intended")
    assert narrow["weight_decay"] == 10 ** generator("weight_decay").uniform(-6, -3)
    assert all(narrow[name] == drawn[name] for name in drawn if name != "weight_decay")
    small = hparams.hparams("Hutchinson", "ColoredMNIST", 3, 1, "as_intended")
    assert small["lr"] == 10 ** generator("lr").uniform(-4.5, -3.5)
    assert hparams.hparams("ERM", "ColoredMNIST", 3, 1, "as_intended")["lr"] == 10 ** generator("lr").uniform(
        -4.5, -2.5
    )
    with pytest.raises(ConfigError, match="as_intended"):
        hparams.hparams("HGP", "PACS", 3, 1, "as_published")


@pytest.mark.parametrize("algorithm", hparams.ALGORITHMS)
def test_overrides_build_the_method_that_domainbed_trains(algorithm):
    cfg = composed(*hparams.overrides(algorithm, "PACS", 2, 1, dropout=False))
    method = instantiate(cfg.method)
    values = hparams.hparams(algorithm, "PACS", 2, 1)
    assert type(method).__name__.removesuffix("v1") == algorithm
    assert (cfg.l2, method.rescale, cfg.lr, cfg.data.batch_size) == (0.0, False, values["lr"], values["batch_size"])
    assert method.reduction == ("sum" if isinstance(method, IGA) else "mean")
    if isinstance(method, IRMv1 | Fishr):
        assert method.reset_optimizer and method.weight == values.get("irm_lambda", values.get("lambda"))
    if "penalty_alpha" in values:
        assert (method.alpha, method.beta) == (values["penalty_alpha"], values["penalty_beta"])
        assert method.detach_center and method.weight_at(0) == 1.0


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("sweep")
    options = ["dataset=ColoredMNIST", "domains=3", "algorithms=[ERM,HGP]", "hparams_seeds=1", "trial_seeds=1"]
    command = [sys.executable, "run.py", "-m", *SMALL, "tracking=offline", f"outputs={outputs}"]
    command += ["hydra/sweeper=domainbed", *(f"hydra.sweeper.{option}" for option in options)]
    first, again = (subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240) for _ in range(2))
    return outputs, first, again


def test_sweep_runs_once_and_ends_in_tables_of_every_rule(sweep):
    outputs, first, again = sweep
    assert first.returncode == 0, first.stdout + first.stderr
    assert "12 runs, 12 of them remain" in first.stdout and "12 runs, 0 of them remain" in again.stdout
    folder = outputs / "domainbed" / "ColoredMNIST"
    selected = pd.read_csv(folder / "selected.csv")
    assert selected.groupby("rule").size().to_dict() == dict.fromkeys(selection.RULES, 2 * 3)
    directories = {path.parent.name for path in (outputs / "runs" / "hessian_alignment").glob("*/run.json")}
    assert len(directories) == 12 and set(selected["run"]) <= directories
    assert all(f"selection: {rule}" in (folder / "tables.md").read_text() for rule in selection.RULES)
    assert (folder / "tables.tex").read_text().count(r"\end{tabular}") == len(selection.RULES)
    for name in ("summary.csv", "differences.csv", "regret.csv"):
        assert len(pd.read_csv(folder / name)) > 0
    files = (outputs / "runs" / "hessian_alignment").glob("*/run.json")
    seeds = {json.loads(path.read_text())["seed"] for path in files}
    assert len(seeds) == 12 and seed_hash("ColoredMNIST", "HGP", [0, 2], 0, 0) in seeds


def test_records_of_runs_are_what_was_logged(sweep):
    found = runs.import_runs(sweep[0], "hessian_alignment")
    assert not found.unreadable and not found.unfinished
    frame = found.records
    assert sorted(frame["env"].unique()) == [0, 1, 2] and sorted(frame["step"].unique()) == [2, 4]
    row = frame[(frame["algorithm"] == "HGP") & (frame["test_envs"] == "2") & (frame["step"] == 4)].set_index("env")
    (directory,) = (sweep[0] / "runs" / "hessian_alignment").glob(f"{row['run'].iloc[0]}/metrics.jsonl")
    logged = {(r["key"], r["step"]): r["value"] for r in map(json.loads, directory.read_text().splitlines())}
    for env, name in enumerate(("p90_", "p80_", "-90_")):
        assert row.loc[env, "in_acc"] == logged[f"{name}/in/accuracy", 4]
        assert row.loc[env, "out_acc"] == logged[f"{name}/out/accuracy", 4]


def test_mlflow_and_directories_give_the_same_records(tmp_path):
    options = f"outputs={tmp_path}", "data.batch_size=16", "penalty_weight=1", "l2=0"
    for lr in (1e-3, 2e-3):
        run(composed(*options, "method=erm", f"lr={lr}"))
    run(composed(*options, "data.holdout_fraction=0", "method=erm"))
    deliver_all(tmp_path)
    mine = runs.import_runs(tmp_path, "hessian_alignment")
    theirs = runs.import_mlflow(f"sqlite:///{tmp_path}/mlflow.db", "hessian_alignment")
    assert len(mine.unreadable) == len(theirs.unreadable) == 1
    keys = ["run", "step", "env"]
    a, b = (found.records.astype({"run": str}).sort_values(keys, ignore_index=True) for found in (mine, theirs))
    assert sorted(a["hparams_seed"].unique()) == [0, 1] and set(a["algorithm"]) == {"ERM"}
    compared = ["run", "step", "env", "in_acc", "out_acc", "trial_seed"]
    pd.testing.assert_frame_equal(a[compared], b[compared])
    with (tmp_path / "runs" / "hessian_alignment" / a["run"][0] / "metrics.jsonl").open("a") as stream:
        stream.write('{"key": "cut')
    cut = runs.import_runs(tmp_path, "hessian_alignment")
    assert len(cut.records) == len(mine.records)
    tables.write(mine.records, tmp_path / "tables")
    assert "selection: training" in (tmp_path / "tables" / "tables.md").read_text()

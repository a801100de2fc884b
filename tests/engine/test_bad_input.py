"""What cannot work fails before anything is spent, with the key, the value and what is allowed."""

import re
import sqlite3

import pytest
import torch

EXPERIMENT = ["experiment=sam_vit", "+debug=smoke"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["optimizr.rho=1"], ["unknown key 'optimizr.rho'", "optimizer.rho"]),
        (["data.batchsize=4"], ["unknown key 'data.batchsize'", "data.batch_size"]),
        (["model=vit_desks"], ["model=vit_desks", "vit_desk"]),
        (["optimizer=sma"], ["optimizer=sma", "sam"]),
        (["data.batch_size=301"], ["data.batch_size=301", "300"]),
        (["data_root=/does/not/exist"], ["data_root='/does/not/exist'", "existing directory"]),
        (["module.m=33"], ["module.m=33", "100"]),
        (["model.patch_size=3"], ["model.patch_size=3"]),
        (["lr=-1"], ["lr=-1", "> 0"]),
        (["max_steps=0"], ["max_steps=0", ">= 1"]),
        (["seed=-1"], ["seed=-1"]),
        (["data.label_noise=2.0"], ["data.label_noise=2.0"]),
        (["optimizer.rho=-0.1"], ["rho", "-0.1"]),
        (["scale=huge"], ["scale='huge'", "desk"]),
        (["trainer.precision=77"], ["77"]),
        (["trainer.limit_test_batches=0.3"], ["trainer.limit_test_batches=0.3", "1/2"]),
        (["trainer.limit_val_batches=0.3"], ["trainer.limit_val_batches=0.3", "1/1"]),
        (["method=erm"], ["'method' is no part of experiment=sam_vit", "+method=OPTION", "  erm"]),
        (["hydra/launcher=?"], ["  joblib", "  slurm"]),
        (["trainer.devices=auto"], ["trainer.devices='auto'", ">= 1"]),
    ],
)
def test_message_names_what_is_wrong_and_nothing_is_started(command, tmp_path, overrides, expected):
    result = command("run.py", *EXPERIMENT, *overrides)
    assert result.returncode == 1
    for text in expected:
        assert text in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "outputs" / "mlflow.db").exists()


@pytest.mark.parametrize(("name", "hint"), [("sam_vitt", "did you mean sam_vit"), ("?", "experiment can be:")])
def test_unknown_experiment_lists_what_exists(command, name, hint):
    result = command("run.py", f"experiment={name}")
    assert result.returncode == 1
    assert hint in result.stderr
    listed = set(result.stderr.splitlines())
    assert {"  sam_vit", "  lab/sam_vit", "  hessian_alignment"} <= listed


def test_no_experiment_says_what_to_type(command):
    result = command("run.py")
    assert result.returncode == 1
    assert "experiment=sam_vit" in result.stderr and "experiment=lab/sam_vit" in result.stderr


@pytest.mark.parametrize("optimizer", ["sgd", "sam"])
def test_infinite_loss_stops_the_run_as_failed(command, tmp_path, optimizer):
    never = ("lr=1e30", f"optimizer={optimizer}", "max_grad_norm=null", "max_steps=40", "checkpoint.every_n_steps=1")
    result = command("run.py", *EXPERIMENT, *never)
    assert result.returncode == 1
    step = int(re.search(r"(?:the training loss|a weight) at step (\d+) is not finite", result.stderr)[1])
    assert 1 <= step <= 3
    assert "browse " in result.stdout
    (record,) = (tmp_path / "outputs" / "runs" / "sam_vit").glob("*/run.json")
    assert '"status": "FAILED"' in record.read_text()
    with sqlite3.connect(tmp_path / "outputs" / "mlflow.db") as database:
        assert database.execute("SELECT status FROM runs").fetchall() == [("FAILED",)]
    weights = torch.load(record.parent / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"].values()
    assert all(torch.isfinite(weight).all() for weight in weights)


def test_divergence_in_the_last_step_is_no_finished_run(command, tmp_path):
    once = ("lr=1e30", "optimizer=sgd", "max_grad_norm=null", "max_steps=1", "callbacks.measures=null")
    result = command("run.py", *EXPERIMENT, *once)
    assert result.returncode == 1
    assert "at step 1 is not finite" in result.stderr
    (record,) = (tmp_path / "outputs" / "runs" / "sam_vit").glob("*/run.json")
    assert '"status": "FAILED"' in record.read_text()

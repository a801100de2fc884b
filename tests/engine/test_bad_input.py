"""What cannot work fails before anything is spent, with the key, the value and what is allowed."""

import pytest

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
    ],
)
def test_message_names_what_is_wrong_and_nothing_is_started(command, tmp_path, overrides, expected):
    result = command("run.py", *EXPERIMENT, *overrides)
    assert result.returncode == 1
    for text in expected:
        assert text in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "outputs" / "mlflow.db").exists()


def test_unknown_experiment_lists_near_matches(command):
    result = command("run.py", "experiment=sam_vitt")
    assert result.returncode == 1
    assert "did you mean sam_vit" in result.stderr


def test_no_experiment_says_what_to_type(command):
    result = command("run.py")
    assert result.returncode == 1
    assert "experiment=" in result.stderr


def test_infinite_loss_stops_the_run_as_failed(command, tmp_path):
    result = command("run.py", *EXPERIMENT, "lr=1e30", "optimizer=sgd", "max_grad_norm=null", "max_steps=40")
    assert result.returncode == 1
    assert "the training loss at step" in result.stderr and "not finite" in result.stderr
    (record,) = (tmp_path / "outputs" / "runs" / "sam_vit").glob("*/run.json")
    assert '"status": "FAILED"' in record.read_text()


def test_help_is_free_of_heavy_imports():
    import subprocess
    import sys
    from pathlib import Path

    code = (
        "import sys, runpy\nsys.argv = ['run.py', '--help']\n"
        "try: runpy.run_path('run.py', run_name='__main__')\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'mlflow', 'timm', 'pytorch_lightning'} & set(sys.modules)\nprint('HEAVY', sorted(heavy))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert "HEAVY []" in result.stdout, result.stdout + result.stderr

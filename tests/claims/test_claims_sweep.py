"""From the command line to verdicts: runs what is missing, nothing twice; the report judges alone."""

import json
import re

import pytest
import yaml

SWEEP = ["-m", "experiment=sam_vit", "+debug=smoke", "claim=C14"]


@pytest.fixture
def experiments(tmp_path):
    """A claims file with two arms and two seeds, so that the sweep takes seconds."""
    claim = {
        "id": "C14",
        "statement": "SAM raises the final training loss.",
        "source": "Table 1",
        "reported": {"text": "0.65 to 0.82"},
        "decide": {"kind": "greater", "metric": "train/final_loss", "better": "sam", "worse": "base"},
        "expected": "inconclusive",
    }
    other = dict(claim, id="C15", decide=None, not_runnable="needs augmentation", expected=None)
    other.pop("decide")
    content = {
        "paper": {"title": "A Title", "authors": "A. Author", "venue": "V", "year": 2022},
        "seeds": [0, 1],
        "arms": {"sam": ["optimizer=sam"], "base": ["optimizer=adamw"]},
        "claims": [claim, other],
    }
    folder = tmp_path / "experiments" / "sam_vit"
    folder.mkdir(parents=True)
    (folder / "claims.yaml").write_text(yaml.safe_dump(content))
    return f"experiments={tmp_path / 'experiments'}"


def records(tmp_path):
    return {path: json.loads(path.read_text()) for path in (tmp_path / "outputs" / "runs").glob("*/*/run.json")}


def test_a_sweep_runs_what_is_missing_and_the_report_judges_without_running(command, tmp_path, experiments):
    first = command("run.py", *SWEEP, experiments, timeout=300)
    assert first.returncode == 0, first.stderr
    assert "4 runs decide 1 claims, 4 of them remain" in first.stdout
    assert "inconclusive" in first.stdout and "4 of 4 runs" in first.stdout
    done = records(tmp_path)
    assert sorted((r["arm"], r["seed"]) for r in done.values()) == [("base", 0), ("base", 1), ("sam", 0), ("sam", 1)]
    again = command("run.py", *SWEEP, experiments, timeout=300)
    assert "0 of them remain" in again.stdout and "4 of 4 runs" in again.stdout
    assert records(tmp_path) == done

    judged = command("report.py", "experiment=sam_vit", "+debug=smoke", experiments, "report.strict=true")
    assert judged.returncode == 0, judged.stdout + judged.stderr
    assert "needs augmentation" in judged.stdout
    page = (tmp_path / "outputs" / "report" / "sam_vit.html").read_text()
    for record in done.values():
        assert record["mlflow_run_id"] in page
    assert '<svg class="strip" role="img"' in page
    assert not re.search(r"src=\"https?:|href=\"https?:(?!//127\.0\.0\.1:5000/#/runs/)", page)

    claims = next((tmp_path / "experiments").rglob("claims.yaml"))
    claims.write_text(claims.read_text().replace("expected: inconclusive", "expected: reproduced"))
    strict = command("report.py", "experiment=sam_vit", "+debug=smoke", experiments, "report.strict=true")
    assert strict.returncode == 1
    assert "C14: inconclusive, expected reproduced" in strict.stdout
    assert command("report.py", "experiment=sam_vit", "+debug=smoke", experiments).returncode == 0


def test_two_at_a_time_with_joblib(command, tmp_path, experiments):
    result = command("run.py", *SWEEP, experiments, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", timeout=300)
    assert result.returncode == 0, result.stderr
    assert {record["status"] for record in records(tmp_path).values()} == {"FINISHED"}
    assert "4 of 4 runs" in result.stdout


def test_an_ordinary_sweep_works(command, tmp_path):
    sweep = ["-m", "experiment=sam_vit", "+debug=smoke", "hydra/sweeper=basic", "rho=0.05,0.1", "test=false"]
    result = command("run.py", *sweep, timeout=300)
    assert result.returncode == 0, result.stderr
    assert len(records(tmp_path)) == 2


@pytest.mark.parametrize(
    ("override", "expected"),
    [("claim=C99", ["C99", "C14"]), ("rho=0.1,0.2", ["rho", "hydra/sweeper=basic"]), ("lr=-1", ["lr=-1"])],
)
def test_a_sweep_that_cannot_work_runs_nothing(command, tmp_path, experiments, override, expected):
    result = command("run.py", "-m", "experiment=sam_vit", "+debug=smoke", experiments, override)
    assert result.returncode == 1
    for text in expected:
        assert text in result.stderr
    assert not records(tmp_path)


def test_a_failing_run_is_named_and_the_others_count(command, tmp_path, experiments):
    line = [*SWEEP, experiments, "data.batch_size=100", "+module.options.typo=1"]
    result = command("run.py", *line, timeout=300)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr


def test_unknown_report_options_are_refused(command):
    result = command("report.py", "report.strikt=true")
    assert result.returncode == 1 and "report.strikt" in result.stderr
    result = command("report.py", "experiment=sam_vitt")
    assert result.returncode == 1 and "did you mean sam_vit" in result.stderr


def test_claims_whose_data_is_not_there_are_left_out(command, tmp_path, experiments):
    path = tmp_path / "experiments" / "sam_vit" / "claims.yaml"
    content = yaml.safe_load(path.read_text())
    content["claims"][0]["data"] = "cifar10"
    path.write_text(yaml.safe_dump(content))
    (tmp_path / "data").mkdir()
    result = command("run.py", *SWEEP, experiments, f"data_root={tmp_path / 'data'}")
    assert result.returncode == 0, result.stderr
    assert "0 of them remain" in result.stdout and "C14 is not run: it needs cifar10/" in result.stdout
    assert not records(tmp_path)


@pytest.mark.parametrize(
    ("experiment", "expected"),
    [
        ("paper/hesso", ["experiment=paper/hesso has no claims", "claims.paper.yaml", "lab/hesso"]),
        ("paper/sam_vit_released", ["has no claims of its own", "experiment=paper/sam_vit ", "without -m"]),
    ],
)
def test_a_sweep_of_an_experiment_without_claims_says_so(command, tmp_path, experiment, expected):
    result = command("run.py", "-m", f"experiment={experiment}", f"data_root={tmp_path}")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    for text in expected:
        assert text in result.stderr

"""The worked example of the documentation, run as it stands in a folder of its own."""

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE = re.compile(r"^`([\w/.]+)`\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return dict(FILE.findall((ROOT / "docs" / "worked_example.md").read_text()))


@pytest.fixture
def paper(files, tmp_path) -> Path:
    folder = tmp_path / "paper"
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def run(command, paper, *overrides):
    path = os.pathsep.join([str(paper), os.environ.get("PYTHONPATH", "")])
    options = ("-m", "--config-dir", str(paper / "conf"), "experiment=weight_decay")
    return command(
        "run.py",
        *options,
        f"experiments={paper / 'experiments'}",
        *overrides,
        PYTHONPATH=path,
        COLUMNS="200",
        timeout=400,
    )


def test_three_files_go_from_claims_to_verdicts(command, paper, files):
    assert sorted(files) == [
        "conf/experiment/weight_decay.yaml",
        "experiments/weight_decay/claims.yaml",
        "weight_decay.py",
    ]
    first = run(command, paper)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "6 runs decide 2 claims, 6 of them remain" in first.stdout
    table = first.stdout[first.stdout.index("Weight decay leads to smaller weights") :]
    assert "reproduced" in table and "6 of 6 runs" in table and "NetTalk is not at hand" in table
    again = run(command, paper)
    assert "0 of them remain" in again.stdout
    options = ("--config-dir", str(paper / "conf"), "experiment=weight_decay", f"experiments={paper / 'experiments'}")
    path = os.pathsep.join([str(paper), os.environ.get("PYTHONPATH", "")])
    judged = command("report.py", *options, "report.write=true", PYTHONPATH=path)
    assert judged.returncode == 0, judged.stdout + judged.stderr
    assert "C1,reproduced," in (paper / "experiments" / "weight_decay" / "results.csv").read_text()


def test_the_checker_can_contradict(command, paper):
    claims = paper / "experiments" / "weight_decay" / "claims.yaml"
    claims.write_text(claims.read_text().replace("better: plain, worse: decayed", "better: decayed, worse: plain"))
    found = run(command, paper, "max_steps=20", "test=false")
    assert "contradicted" in found.stdout, found.stdout + found.stderr

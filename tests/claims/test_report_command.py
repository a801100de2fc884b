"""``report.py`` on fabricated finished runs: strict, write, accept, offline, and a store that does not answer."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from curvature.claims.plan import plan
from curvature.claims.schema import load

ROOT = Path(__file__).parents[2]
BASE = ["experiment=sam_vit"]


@pytest.fixture
def judged(command, tmp_path):
    """The report of a paper whose only claim holds by 0.1 in all of three runs an arm."""
    folder = tmp_path / "experiments" / "sam_vit"
    folder.mkdir(parents=True)
    decide = {"kind": "greater", "metric": "m", "better": "sam", "worse": "base"}
    claim = {"id": "C1", "statement": "s", "source": "x", "reported": {"text": "r"}, "decide": decide}
    content = {
        "paper": {"title": "T", "authors": "A", "venue": "V", "year": 2026},
        "seeds": [0, 1, 2],
        "arms": {"sam": ["optimizer=sam"], "base": ["optimizer=adamw"]},
        "claims": [claim | {"expected": "contradicted"}],
    }
    (folder / "claims.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    claims = load(folder / "claims.yaml")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        runs = plan(claims, claims.claims, lambda line: compose("config", overrides=line), BASE)
    for run in runs:
        directory = tmp_path / "outputs" / "runs" / "sam_vit" / run.fingerprint[:12]
        directory.mkdir(parents=True)
        record = {"status": "FINISHED", "fingerprint": run.fingerprint}
        record["metrics"] = {"m": run.seed / 100 + (0.6 if run.arm == "sam" else 0.5)}
        (directory / "run.json").write_text(json.dumps(record))

    def report(*options: str) -> subprocess.CompletedProcess:
        result = command("report.py", *BASE, f"experiments={folder.parent}", *options)
        assert "Traceback" not in result.stderr, result.stderr
        return result

    return report


def test_strict_fails_on_another_verdict_until_it_is_accepted(judged, tmp_path):
    folder = tmp_path / "experiments" / "sam_vit"
    before = (ROOT / "experiments" / "README.md").read_text()
    first = judged("report.strict=true", "report.write=true", "report.accept=true", "tracking=offline")
    assert first.returncode == 1
    assert "C1: reproduced, expected contradicted" in first.stdout
    assert "contradicted was expected, now reproduced" in first.stdout
    assert (
        (folder / "results.csv").read_text().splitlines()[1].startswith("C1,reproduced,m: sam - base,reproduced,0.1,")
    )
    assert "**reproduced**" in (folder / "verdicts.md").read_text()
    assert "**reproduced**" in (folder.parent / "README.md").read_text()
    assert (ROOT / "experiments" / "README.md").read_text() == before, "another folder of experiments was asked for"

    second = judged("report.strict=true", "tracking.uri=http://127.0.0.1:9")
    assert second.returncode == 0, second.stdout
    assert "the report is not kept with MLflow" in second.stderr
    assert (tmp_path / "outputs" / "report" / "index.html").exists()

    smoke = judged("+debug=smoke", "report.write=true")
    assert smoke.returncode == 1 and "no evidence" in smoke.stderr


def test_with_claim_only_its_rows_are_written_and_the_others_stay(judged, tmp_path):
    folder = tmp_path / "experiments" / "sam_vit"
    claims = yaml.safe_load((folder / "claims.yaml").read_text())
    other = claims["claims"][0] | {"id": "C0", "statement": "another"}
    claims["claims"].insert(0, other)
    (folder / "claims.yaml").write_text(yaml.safe_dump(claims, sort_keys=False))
    assert judged("report.write=true", "tracking=offline").returncode == 0
    table, page = folder / "results.csv", folder / "verdicts.md"
    table.write_text(table.read_text().replace("0.1,", "0.7,"))
    page.write_text(page.read_text().replace("**reproduced**", "**contradicted**"))

    assert judged("report.write=true", "claim=C1", "tracking=offline").returncode == 0
    rows = table.read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["C0", "C1"]
    assert "reproduced,0.7," in rows[1] and "reproduced,0.1," in rows[2]
    lines = page.read_text().splitlines()
    assert "**contradicted**" in lines[2] and lines[2].startswith("| C0: another")
    assert "**reproduced**" in lines[3] and lines[3].startswith("| C1: s")


def test_a_claim_needs_its_experiment_and_must_exist(command, judged):
    without = command("report.py", "claim=C1")
    assert without.returncode == 1 and "claim=C1 needs one experiment=NAME" in without.stderr
    unknown = judged("claim=C9", "tracking=offline")
    assert unknown.returncode == 1 and "C9" in unknown.stderr and "C1" in unknown.stderr

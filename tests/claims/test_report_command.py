"""``report.py`` on fabricated finished runs: strict, write, accept, offline, and a store that does not answer."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from curvature.claims.plan import plan
from curvature.claims.schema import load
from curvature.claims.scoreboard import board_of
from curvature.claims.tables import update_tables
from curvature.cli import main

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
        (folder / "results.csv")
        .read_text()
        .splitlines()[1]
        .startswith("C1,reproduced,m: sam - base,greater,deciding,reproduced,0.1,")
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
    table.write_text(table.read_text().replace("C0,reproduced", "C0,contradicted"))

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


def test_a_store_without_runs_erases_nothing(judged, tmp_path):
    """As on a fresh clone: tables, pages and expected verdicts stay, and the console says which claims are kept."""
    folder = tmp_path / "experiments" / "sam_vit"
    assert judged("report.write=true", "report.accept=true", "tracking=offline").returncode == 0
    names = ("results.csv", "verdicts.md", "claims.yaml", "../README.md")
    before = {name: (folder / name).read_text() for name in names}
    assert "expected: reproduced" in before["claims.yaml"]
    for left in (5, 0):
        for record in sorted((tmp_path / "outputs" / "runs").glob("*/*/run.json"))[left:]:
            record.unlink()
        found = judged("report.write=true", "report.accept=true", "tracking=offline")
        assert found.returncode == 0, found.stderr
        assert {name: (folder / name).read_text() for name in names} == before
        assert "committed results of C1" in found.stdout and "kept" in found.stdout
    page = (tmp_path / "outputs" / "report" / "sam_vit.html").read_text()
    assert "committed result, not from this store" in page and "0.1 " in page
    strict = judged("report.strict=true", "tracking=offline")
    assert strict.returncode == 1 and "C1: not run, expected reproduced" in strict.stdout

    assert judged("report.forget=true", "report.write=true", "tracking=offline").returncode == 0
    assert "C1,not run," in (folder / "results.csv").read_text()
    assert judged("report.accept=true", "tracking=offline").returncode == 0
    assert "expected" not in (folder / "claims.yaml").read_text()

    (folder / "results.csv").unlink()
    assert judged("report.write=true", "tracking=offline").returncode == 0
    assert not (folder / "results.csv").exists(), "nothing has been run, nothing is written"


def test_expected_verdicts_without_a_table_stay(judged, tmp_path):
    claims = tmp_path / "experiments" / "sam_vit" / "claims.yaml"
    before = claims.read_text()
    assert judged("report.accept=true", "tracking=offline").returncode == 0
    assert claims.read_text() == before


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("report.write=yes", ["report.write='yes'", "true or false"]),
        ("report.write", ["report.write=''", "true or false"]),
        ("report.wrte=true", ["report.wrte=true", "did you mean write"]),
        ("word", ["'word'", "report.py --help"]),
        ("experiments=/nowhere", ["no claims"]),
        ("optimizer=", ["'optimizer='"]),
    ],
)
def test_options_are_read_strictly(judged, option, expected):
    result = judged(option)
    assert result.returncode == 1
    for text in expected:
        assert text in result.stderr


def test_help_is_printed(command):
    result = command("report.py", "--help")
    assert result.returncode == 0
    assert "report.write=true" in result.stdout and "report.forget=true" in result.stdout


def test_a_damaged_table_is_one_clear_error_and_is_not_written_over(judged, tmp_path):
    table = tmp_path / "experiments" / "sam_vit" / "results.csv"
    table.write_text("to be, or not to be\n")
    result = judged("report.write=true", "tracking=offline")
    assert result.returncode == 1 and str(table) in result.stderr and "columns" in result.stderr
    assert table.read_text() == "to be, or not to be\n"


def test_a_full_disk_leaves_tables_as_they_were(judged, mounted, tmp_path):
    assert judged("report.write=true", "tracking=offline").returncode == 0
    disk = mounted("size=256k")
    folder = Path(shutil.copytree(tmp_path / "experiments", disk / "experiments")) / "sam_vit"
    before = {path.name: path.read_text() for path in folder.iterdir()}
    board = board_of(folder / "claims.yaml")
    filled(disk)
    with pytest.raises(OSError, match="No space left on device"):
        update_tables(board.verdicts, board.claims, folder / "claims.yaml")
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    (disk / "filler").unlink()
    update_tables(board.verdicts, board.claims, folder / "claims.yaml")
    assert {path.name: path.read_text() for path in folder.iterdir()} == before


def filled(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC


@pytest.mark.parametrize("state", ["full", "read-only"])
def test_outputs_that_cannot_be_written_are_one_clear_error(judged, mounted, tmp_path, state):
    assert judged("tracking=offline").returncode == 0
    disk = mounted("size=2m")
    shutil.copytree(tmp_path / "outputs", disk / "outputs")
    report = disk / "outputs" / "report"
    before = {path: path.read_bytes() for path in report.rglob("*") if path.is_file()}
    if state == "full":
        filled(disk)
    else:
        mounted("ro")
    words = [*BASE, f"experiments={tmp_path / 'experiments'}", "tracking=offline", f"outputs={disk}/outputs"]
    result = subprocess.run([sys.executable, "report.py", *words], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1, result.stdout
    assert "error: cannot write" in result.stderr and str(disk) in result.stderr
    assert ("once there is room" in result.stderr) == (state == "full")
    assert ("outputs=FOLDER" in result.stderr) == (state != "full")
    assert "Traceback" not in result.stderr
    after = {path: path.read_bytes() for path in report.rglob("*") if path.is_file()}
    index = report / "index.html"
    assert set(after) == set(before) and after[index] == before[index]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, "cannot write there: No space left on device; once there is room"),
        (errno.EROFS, "cannot write there: Read-only file system; choose another folder"),
        (errno.EACCES, "may not use there: Permission denied; choose another folder"),
    ],
)
def test_the_remedy_fits_the_problem(capsys, number, expected):
    def task():
        raise OSError(number, os.strerror(number), "there")

    assert main(task) == 1
    assert expected in capsys.readouterr().err

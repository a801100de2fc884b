"""The committed pages are those that the committed results make."""

import csv
import re
from pathlib import Path

import pytest

from curvature.claims.scoreboard import boards, scoreboard

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TABLES = sorted(EXPERIMENTS.glob("*/results*.csv"))


def test_scoreboard_is_in_line_with_the_result_tables():
    assert (EXPERIMENTS / "README.md").read_text() == scoreboard(EXPERIMENTS), (
        "run python report.py report.write=true, or curvature.claims.scoreboard alone"
    )


def test_every_claim_is_on_the_scoreboard():
    page = scoreboard(EXPERIMENTS)
    for board in boards(EXPERIMENTS):
        if board.rows:
            assert set(board.rows) <= {claim.id for claim in board.claims.claims}
            assert all(claim.statement.replace("|", "\\|") in page for claim in board.claims.claims)


@pytest.mark.parametrize("table", TABLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_verdicts_on_the_page_of_a_paper_are_those_of_its_table(table):
    page = table.with_name(table.name.replace("results", "verdicts").replace(".csv", ".md")).read_text()
    with table.open(newline="") as stream:
        committed = {row["claim"]: row["verdict"] for row in csv.DictReader(stream)}
    shown = dict(re.findall(r"^\| ([\w-]+): .*?\| \*\*([a-z ]+)\*\* \|", page, flags=re.MULTILINE))
    assert shown == committed


def test_a_changed_verdict_changes_the_page(tmp_path):
    source = EXPERIMENTS / "sam_vit"
    folder = tmp_path / "sam_vit"
    folder.mkdir()
    (folder / "claims.yaml").write_text((source / "claims.yaml").read_text())
    text = (source / "results.csv").read_text()
    (folder / "results.csv").write_text(text)
    before = scoreboard(tmp_path)
    (folder / "results.csv").write_text(re.sub(r"^C12,\w+,", "C12,contradicted,", text, flags=re.MULTILINE))
    after = scoreboard(tmp_path)
    assert before != after
    assert "**contradicted**" in next(line for line in after.splitlines() if line.startswith("| C12:"))

"""The verdicts that ``report.strict=true`` insists on are the committed ones, and are refreshed by one command."""

import re
from pathlib import Path

import pytest
from claims_support import PAPER
from omegaconf import OmegaConf

from curvature.claims.expected import accept, expected_verdicts
from curvature.claims.plan import plan
from curvature.claims.schema import Claims, ClaimsError, load
from curvature.claims.tables import COLUMNS

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
FILES = sorted(EXPERIMENTS.glob("*/claims*.yaml"))
TEXT = """# a comment that stays
paper: {title: T, authors: A, venue: V, year: 2026}
seeds: [0, 1, 2]
arms:
  a: []
  b: []   # the other arm
claims:
  - id: C1
    statement: >-
      one
      two
    source: x
    reported: {text: r}
    decide: {kind: greater, metric: m, better: a, worse: b}

  - id: C1-b
    expected: contradicted
    statement: the expected value of m
    source: x
    reported: {text: r}
    decide: {kind: greater, metric: m, better: b, worse: a}
"""
TABLE = ",".join(COLUMNS) + "\n"


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_committed_verdict_is_the_expected_one(path):
    recorded = {claim.id: claim.expected for claim in load(path).claims}
    hint = "python report.py report.accept=true takes over what the tables say"
    assert recorded == expected_verdicts(path), hint


def written(tmp_path, *rows, text=TEXT):
    (tmp_path / "claims.yaml").write_text(text)
    (tmp_path / "results.csv").write_text(TABLE + "".join(f"{row},,,,,,,,,,,desk,0 1 2\n" for row in rows))
    return tmp_path / "claims.yaml"


def test_accepting_changes_the_expected_verdicts_and_nothing_else(tmp_path):
    path = written(tmp_path, "C1,reproduced", "C1-b,inconclusive")
    assert [line.split(": ")[1] for line in accept(path)] == [
        "not run was expected, now reproduced",
        "contradicted was expected, now inconclusive",
    ]
    inserted = TEXT.replace("- id: C1\n", "- id: C1\n    expected: reproduced\n")
    assert path.read_text() == inserted.replace("expected: contradicted", "expected: inconclusive")
    assert accept(path) == []
    path = written(tmp_path, "C1,not run", "C1-b,not run")
    accept(path)
    assert path.read_text() == TEXT.replace("    expected: contradicted\n", "")


def test_a_file_that_cannot_be_edited_line_by_line_is_left_alone(tmp_path):
    text = re.sub(r"- id: C1\n", "-\n    id: C1\n", TEXT)
    path = written(tmp_path, "C1,reproduced", text=text)
    with pytest.raises(ClaimsError, match="by hand"):
        accept(path)
    assert path.read_text() == text
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith(".")] == []


def test_expected_verdicts_are_no_part_of_a_run():
    def runs(expected):
        decide = {"kind": "greater", "metric": "m", "better": "a", "worse": "b"}
        claim = {"id": "C1", "statement": "s", "source": "x", "reported": {"text": "r"}, "decide": decide}
        content = {"paper": PAPER, "seeds": [0, 1], "arms": {"a": [], "b": ["lr=2"]}}
        claims = Claims.model_validate(content | {"claims": [claim | {"expected": expected}]})
        return plan(claims, claims.claims, lambda line: OmegaConf.from_dotlist(line), ["paper=toy"])

    assert len({run.fingerprint for run in runs(None)}) == 4
    assert runs("reproduced") == runs(None)

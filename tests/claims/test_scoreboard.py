"""The committed pages are those that the committed results make, to the last character."""

import csv
import re
from pathlib import Path

import pytest
from claims_support import fabricated

from curvature.claims.effects import effect_text
from curvature.claims.files import results_file, verdicts_file
from curvature.claims.schema import load
from curvature.claims.scoreboard import board_of, boards, scoreboard
from curvature.claims.tables import COLUMNS, markdown, read_table, table_text, update_tables
from curvature.errors import ConfigError

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
FILES = [path for path in sorted(EXPERIMENTS.glob("*/claims*.yaml")) if results_file(path).exists()]
COMMITTED = pytest.mark.parametrize("file", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
HINT = "made by python report.py report.write=true from the tables as they are; rows without runs in the store stay"


def test_scoreboard_is_in_line_with_the_result_tables():
    assert (EXPERIMENTS / "README.md").read_text() == scoreboard(EXPERIMENTS), HINT


def test_every_claim_is_on_the_scoreboard():
    page = scoreboard(EXPERIMENTS)
    for board in boards(EXPERIMENTS):
        if board.committed:
            assert all(claim.statement.replace("|", "\\|") in page for claim in board.claims.claims)


@COMMITTED
def test_the_page_of_verdicts_is_made_from_the_table(file):
    board = board_of(file)
    committed = [verdict for verdict in board.verdicts if verdict.claim.id in board.committed]
    assert verdicts_file(file).read_text() == markdown(committed), HINT


@COMMITTED
def test_a_table_that_is_read_and_written_stays_the_same(file):
    table, claims = results_file(file), load(file)
    with table.open(newline="") as stream:
        assert {row["claim"] for row in csv.DictReader(stream)} <= {claim.id for claim in claims.claims}
    assert table_text(list(read_table(table, claims).values())) == table.read_text()


@COMMITTED
def test_numbers_of_bounds_and_their_verdicts_go_together(file):
    for verdict in board_of(file).committed.values():
        for part in verdict.parts:
            if part.kind == "bound" and part.effect and part.effect.n >= 3:
                assert part.verdict == ("reproduced" if part.effect.value <= part.threshold[0] else "contradicted")
                assert part.effect.low <= part.effect.value == part.effect.high
                assert "at most" in effect_text(part)


def test_pages_tell_deciding_parts_from_informative_ones():
    page = scoreboard(EXPERIMENTS)
    assert re.search(r"M = I: 3\.75e-14 \(at most 1e-12; 5 seeds: 1\.72e-14 to 3\.75e-14\) \(reproduced\)", page)
    assert re.search(r"\(informative, (reproduced|contradicted|inconclusive)\)", page)


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


def test_what_is_judged_is_what_is_read_back(tmp_path):
    """Texts of judged verdicts and of the same from the table agree, in all kinds of decisions."""
    for source in FILES:
        paper = fabricated(source)
        file = tmp_path / source.parent.name / source.name
        file.parent.mkdir(exist_ok=True)
        file.write_text(source.read_text())
        update_tables(paper.verdicts, paper.claims, file)
        for judged, read in zip(paper.verdicts, board_of(file).verdicts, strict=True):
            assert (read.verdict, read.seeds, read.committed) == (judged.verdict, judged.seeds, True)
            for one, other in zip(judged.parts, read.parts, strict=True):
                assert (one.name, one.kind, one.verdict, one.informative) == (
                    other.name,
                    other.kind,
                    other.verdict,
                    other.informative,
                )
                numbers = r"-?[\d.]+(?:e[-+]\d+)?"
                assert re.sub(numbers, "x", effect_text(one)) == re.sub(numbers, "x", effect_text(other))
                found = [[float(n) for n in re.findall(numbers, effect_text(part))] for part in (one, other)]
                assert found[0] == pytest.approx(found[1], rel=0.011), "rounded twice, at most the last digit differs"


ROW = "C1,reproduced,a part,bound,deciding,reproduced,0.1,0,0.1,nan,5,0.2,desk,0 1"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"\xff\xfe\x00garbage", ["not a result table"]),
        (b"a,b\n1,2\n", ["columns", "claim", "part_verdict"]),
        (b"", ["columns"]),
        (b'claim"\x00', ["columns"]),
        (ROW.replace("0.1,0,", "much,0,"), ["column effect", "C1", "much"]),
        (ROW.replace("0.1,0,", ",0,"), ["column effect", "effect, low, high, p, n"]),
        (ROW.replace("C1,reproduced", "C1,fine"), ["column verdict", "fine", "contradicted"]),
        (ROW.replace("deciding,reproduced", "deciding,yes"), ["column part_verdict", "yes"]),
        (ROW.replace("deciding", "important"), ["column role", "important"]),
        (ROW.replace(",0.2,", ",,"), ["column threshold", "limit"]),
        (ROW.replace("0 1", "zero"), ["column seeds", "zero"]),
        (ROW.replace("nan,5", "nan,five"), ["column n", "five"]),
        (ROW.replace("nan,5", "nan,nan"), ["column n", "whole"]),
        ("C1,reproduced,a part", ["column", "C1"]),
    ],
)
def test_a_table_that_is_none_is_one_clear_error(tmp_path, content, named):
    claims = load(next(path for path in FILES if path.parent.name == "sam_vit"))
    (tmp_path / "claims.yaml").write_text((EXPERIMENTS / "sam_vit" / "claims.yaml").read_text())
    table = tmp_path / "results.csv"
    if isinstance(content, str):
        content = f"{','.join(COLUMNS)}\n{content}\n".encode()
    table.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_table(table, claims)
    assert str(table) in str(error.value)
    for text in named:
        assert text in str(error.value)


def test_a_table_that_is_a_folder_is_one_clear_error(tmp_path):
    (tmp_path / "results.csv").mkdir()
    with pytest.raises(ConfigError, match="not a result table"):
        read_table(tmp_path / "results.csv", load(FILES[0]))

"""One page over all papers, made from the claims files and the committed result tables alone."""

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from curvature.claims.report import ORDER
from curvature.claims.schema import Claims, load

INTRODUCTION = """# Scoreboard

What became of every claim, by paper and scale. A desk verdict is about directions on two cores and embedded data, not
about the paper's magnitudes. Figures marked † are not confirmed. Made by `python report.py report.write=true` from the
claims files and result tables of each folder; a test checks that it is in line with them.
"""


@dataclass(frozen=True)
class Board:
    """The claims of one paper at one scale with their committed verdicts.

    Attributes:
        folder: name of the paper's folder.
        scale: ``desk``, ``lab`` or ``paper``.
        claims: the claims file.
        rows: rows of the result table by claim id; empty if nothing has been committed.
    """

    folder: str
    scale: str
    claims: Claims
    rows: dict[str, list[dict[str, str]]]

    def verdict(self, claim: str) -> str:
        """The committed verdict of a claim; ``not run`` if there is none."""
        rows = self.rows.get(claim)
        return rows[0]["verdict"] if rows else "not run"


def boards(experiments: Path) -> list[Board]:
    """Every claims file below ``experiments`` with its result table, papers by name, desk scale first."""
    paths = sorted(experiments.glob("*/claims*.yaml"), key=lambda path: (path.parent.name, len(path.name)))
    return [board_of(path) for path in paths]


def board_of(path: Path) -> Board:
    """One claims file with the result table beside it."""
    scale = path.name.removeprefix("claims").removesuffix(".yaml").strip(".") or "desk"
    table = path.with_name("results.csv" if scale == "desk" else f"results.{scale}.csv")
    rows: dict[str, list[dict[str, str]]] = {}
    if table.exists():
        with table.open(newline="") as stream:
            for row in csv.DictReader(stream):
                rows.setdefault(row["claim"], []).append(row)
    return Board(path.parent.name, scale, load(path), rows)


def scoreboard(experiments: Path) -> str:
    """The page in Markdown: counts by paper and scale, then each claim with our effect beside the paper's figure."""
    papers = boards(experiments)
    lines = [INTRODUCTION, "| paper | scale | " + " | ".join(ORDER) + " |", "|---" * (2 + len(ORDER)) + "|"]
    for board in papers:
        counts = Counter(board.verdict(claim.id) for claim in board.claims.claims)
        name = f"[{board.folder}]({board.folder}/README.md)"
        lines.append(f"| {name} | {board.scale} | " + " | ".join(str(counts[verdict]) for verdict in ORDER) + " |")
    for board in papers:
        if not board.rows:
            continue
        lines += ["", f"## {board.claims.paper.title} ({board.scale})", ""]
        lines += ["| claim | verdict | our effect [95 % interval] | n | paper |", "|---|---|---|---|---|"]
        for claim in board.claims.claims:
            figure = claim.reported.text + ("" if claim.reported.confirmed else " †")
            own = [row for row in board.rows.get(claim.id, []) if row["effect"]]
            effects = "<br>".join(f"{row['part']}: {_effect(row)}" for row in own)
            count = "/".join(dict.fromkeys(row["n"] for row in own))
            cells = (f"{claim.id}: {claim.statement}", f"**{board.verdict(claim.id)}**", effects, count, figure)
            lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _effect(row: dict[str, str]) -> str:
    value, low, high = (float(row[key]) for key in ("effect", "low", "high"))
    interval = "" if value in (low, high) else f" [{low:.3g}, {high:.3g}]"
    return f"{value:.3g}{interval}"

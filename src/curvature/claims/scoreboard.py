"""One page over all papers, made from the claims files and the committed result tables alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from curvature.claims.effects import HEADING
from curvature.claims.files import results_file, scale_of
from curvature.claims.palette import ORDER
from curvature.claims.schema import Claims, load
from curvature.claims.tables import cells, effects, figure, read_table, title
from curvature.claims.verdicts import ClaimVerdict

INTRODUCTION = """# Scoreboard

What became of every claim, by paper and scale. A desk verdict is about directions on two cores and embedded data, not
about the paper's magnitudes. Each part has its own verdict; informative parts do not enter the claim's. Figures marked
† are not confirmed. Made by `python report.py report.write=true` from the claims files and result tables of each
folder; a test checks that it is in line with them.
"""


@dataclass(frozen=True)
class Board:
    """The claims of one paper at one scale with their committed verdicts.

    Attributes:
        folder: name of the paper's folder.
        scale: ``desk``, ``lab`` or ``paper``.
        claims: the claims file.
        committed: verdicts of the result table by claim id; empty if nothing has been committed.
    """

    folder: str
    scale: str
    claims: Claims
    committed: dict[str, ClaimVerdict]

    @property
    def verdicts(self) -> list[ClaimVerdict]:
        """Of every claim in the file's order, the committed verdict; ``not run`` if there is none."""
        return [
            self.committed.get(claim.id)
            or ClaimVerdict(claim, "not run", [], self.scale, claim.seeds or self.claims.seeds, {}, 0)
            for claim in self.claims.claims
        ]

    def keep(self, judged: Sequence[ClaimVerdict]) -> list[ClaimVerdict]:
        """``judged``, but the committed verdict where the runs of a claim are not all there to judge it by."""
        held = {name: verdict for name, verdict in self.committed.items() if verdict.verdict != "not run"}
        return [held.get(verdict.claim.id, verdict) if verdict.verdict == "not run" else verdict for verdict in judged]


def boards(experiments: Path) -> list[Board]:
    """Every claims file below ``experiments`` with its result table, papers by name, desk scale first."""
    paths = sorted(experiments.glob("*/claims*.yaml"), key=lambda path: (path.parent.name, len(path.name)))
    return [board_of(path) for path in paths]


def board_of(path: Path) -> Board:
    """One claims file with the result table beside it.

    Raises:
        ConfigError: a result table that is none.
    """
    claims = load(path)
    return Board(path.parent.name, scale_of(path), claims, read_table(results_file(path), claims))


def scoreboard(experiments: Path) -> str:
    """The page in Markdown: counts by paper and scale, then each claim with our effect beside the paper's figure."""
    papers = boards(experiments)
    lines = [INTRODUCTION, "| paper | scale | " + " | ".join(ORDER) + " |", "|---" * (2 + len(ORDER)) + "|"]
    for board in papers:
        counts = Counter[str](verdict.verdict for verdict in board.verdicts)
        name = f"[{board.folder}]({board.folder}/README.md)"
        lines.append(cells(name, board.scale, *(str(counts[verdict]) for verdict in ORDER)))
    for board in papers:
        if not board.committed:
            continue
        lines += ["", f"## {board.claims.paper.title} ({board.scale})", ""]
        lines += [f"| claim | verdict | {HEADING} | n | paper |", "|---|---|---|---|---|"]
        for verdict in board.verdicts:
            count = "/".join(dict.fromkeys(str(part.effect.n) for part in verdict.parts if part.effect))
            row = title(verdict.claim), f"**{verdict.verdict}**", effects(verdict), count, figure(verdict.claim)
            lines.append(cells(*row))
    return "\n".join(lines) + "\n"

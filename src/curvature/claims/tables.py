"""Verdicts as a console table, as Markdown and as CSV."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from curvature.claims.verdicts import ClaimVerdict, PartVerdict

COLOURS = {
    "reproduced": "green",
    "contradicted": "red",
    "inconclusive": "yellow",
    "not run": "dim",
    "not testable": "magenta",
}
COLUMNS = ("claim", "verdict", "part", "part_verdict", "effect", "low", "high", "p", "n", "threshold", "scale", "seeds")


def effect_text(part: PartVerdict) -> str:
    """``value [low, high]`` with three significant digits, or an em dash."""
    if part.effect is None:
        return "—"
    value, low, high = part.effect.value, part.effect.low, part.effect.high
    if math.isinf(low) or math.isinf(high):
        return f"{value:.3g}"
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"


def print_verdicts(verdicts: Sequence[ClaimVerdict], title: str) -> None:
    """Print one row for each claim and one for each part of it."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_lines=False)
    for column in ("claim", "verdict", "effect [95 % interval]", "paper"):
        table.add_column(column, overflow="fold")
    for verdict in verdicts:
        colour = COLOURS[verdict.verdict]
        reported = verdict.claim.reported
        paper = reported.text + ("" if reported.confirmed else " (unconfirmed)")
        table.add_row(
            f"[bold]{verdict.claim.id}[/bold] {verdict.claim.statement}",
            f"[{colour}]{verdict.verdict}[/{colour}]",
            verdict.claim.not_runnable or f"{len(verdict.run_ids)} of {verdict.planned} runs, seeds {verdict.seeds}",
            paper,
            end_section=not verdict.parts,
        )
        for index, part in enumerate(verdict.parts):
            mark = COLOURS[part.verdict]
            name = f"  {part.name}" + (" (informative)" if part.informative else "")
            shown = effect_text(part) + (f"  {part.detail}" if part.detail else "")
            table.add_row(
                name, f"[{mark}]{part.verdict}[/{mark}]", shown, "", end_section=index + 1 == len(verdict.parts)
            )
    console = Console()
    console.print(table)
    scales = {verdict.scale for verdict in verdicts} - {"paper"}
    for scale in sorted(scales):
        console.print(f"{scale} scale shows directions; the paper's magnitudes need experiment=paper/...", style="dim")


def markdown(verdicts: Sequence[ClaimVerdict]) -> str:
    """A Markdown table: claim, verdict, effects, the paper's figure."""
    lines = ["| claim | verdict | our effect [95 % interval] | paper |", "|---|---|---|---|"]
    for verdict in verdicts:
        reported = verdict.claim.reported
        paper = reported.text + ("" if reported.confirmed else " †")
        if verdict.claim.not_runnable:
            effects = verdict.claim.not_runnable
        else:
            effects = "<br>".join(
                f"{part.name}: {effect_text(part)} ({'informative' if part.informative else part.verdict})"
                for part in verdict.parts
            )
        row = (f"{verdict.claim.id}: {verdict.claim.statement}", f"**{verdict.verdict}**", effects, paper)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |")
    return "\n".join(lines) + "\n"


def update_tables(verdicts: Sequence[ClaimVerdict], order: Sequence[str], table: Path, page: Path) -> None:
    """Write the claims of ``verdicts`` into a result table and its Markdown page; other claims stay as they are.

    The table has one row for each part of each claim, with the columns :data:`COLUMNS`.

    Args:
        verdicts: what has been judged now.
        order: ids of all claims of the claims file, in its order.
        table: CSV, made if missing.
        page: page of :func:`markdown`, made if missing.
    """
    rows: dict[str, list[list[str]]] = {}
    if table.exists():
        with table.open(newline="") as stream:
            for row in list(csv.reader(stream))[1:]:
                rows.setdefault(row[0], []).append(row)
    lines = page.read_text().splitlines()[2:] if page.exists() else []
    shown = {line.removeprefix("| ").split(":", 1)[0]: line for line in lines}
    fresh = markdown(verdicts).splitlines()
    for verdict, line in zip(verdicts, fresh[2:], strict=True):
        rows[verdict.claim.id] = _rows(verdict)
        shown[verdict.claim.id] = line
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(row for name in order for row in rows.get(name, []))
    page.write_text("\n".join([*fresh[:2], *(shown[name] for name in order if name in shown)]) + "\n")


def _rows(verdict: ClaimVerdict) -> list[list[str]]:
    seeds = " ".join(map(str, verdict.seeds))
    head = [verdict.claim.id, verdict.verdict]
    if not verdict.parts:
        return [[*head, "", "", "", "", "", "", "", "", verdict.scale, seeds]]
    rows = []
    for part in verdict.parts:
        effect = part.effect
        found = (effect.value, effect.low, effect.high, effect.p, effect.n) if effect else ("",) * 5
        numbers = [f"{number:.6g}" if isinstance(number, float) else str(number) for number in found]
        threshold = " ".join(f"{bound:g}" for bound in part.threshold)
        rows.append([*head, part.name, part.verdict, *numbers, threshold, verdict.scale, seeds])
    return rows

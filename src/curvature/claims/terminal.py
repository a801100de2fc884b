"""Verdicts as a table in the terminal."""

from collections.abc import Sequence

from curvature.claims.effects import effect_text
from curvature.claims.palette import PALETTE
from curvature.claims.verdicts import ClaimVerdict


def print_verdicts(verdicts: Sequence[ClaimVerdict], title: str) -> None:
    """Print one row for each claim and one for each part of it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_lines=False)
    for column in ("claim", "verdict", "effect [95 % interval], or worst value", "paper"):
        table.add_column(column, overflow="fold")
    for verdict in verdicts:
        colour = PALETTE[verdict.verdict].terminal
        reported = verdict.claim.reported
        paper = reported.text + ("" if reported.confirmed else " (unconfirmed)")
        table.add_row(
            f"[bold]{verdict.claim.id}[/bold] {escape(verdict.claim.statement)}",
            f"[{colour}]{verdict.verdict}[/{colour}]",
            escape(_runs(verdict)),
            escape(paper),
            end_section=not verdict.parts,
        )
        for index, part in enumerate(verdict.parts):
            mark = PALETTE[part.verdict].terminal
            name = f"  {part.name}" + (" (informative)" if part.informative else "")
            shown = effect_text(part) + (f"  {part.detail}" if part.detail else "")
            last = index + 1 == len(verdict.parts)
            table.add_row(escape(name), f"[{mark}]{part.verdict}[/{mark}]", escape(shown), "", end_section=last)
    console = Console()
    console.print(table)
    scales = {verdict.scale for verdict in verdicts} - {"paper"}
    for scale in sorted(scales):
        console.print(f"{scale} scale shows directions; the paper's magnitudes need experiment=paper/...", style="dim")


def _runs(verdict: ClaimVerdict) -> str:
    if verdict.committed:
        return "committed result, not from this store"
    return verdict.claim.not_runnable or f"{len(verdict.run_ids)} of {verdict.planned} runs, seeds {verdict.seeds}"

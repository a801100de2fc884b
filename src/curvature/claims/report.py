"""The HTML report: an index of all claims and a page for each paper, without external assets."""

import json
import logging
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curvature.claims.effects import effect_pieces, effect_text
from curvature.claims.palette import ORDER, PALETTE
from curvature.claims.papers import PaperVerdicts, committed_paper
from curvature.claims.plots import plot_claim
from curvature.claims.scoreboard import Board
from curvature.claims.strips import strip
from curvature.rundir import write_atomically

if TYPE_CHECKING:
    from jinja2 import Environment

log = logging.getLogger(__name__)


def write_report(papers: Sequence[PaperVerdicts], folder: Path, boards: Iterable[Board] = ()) -> Path:
    """Write ``index.html``, a page for each paper and a PNG for each claim with runs into ``folder``.

    Pages of papers that were judged earlier stay. Each file is replaced as a whole or not at all, the index last.

    Args:
        papers: what has been judged now.
        folder: of the report, made if missing.
        boards: all papers; those that have never been judged get a page of their committed results, and pages of
            others are removed.

    Returns:
        Path of ``index.html``.
    """
    templates = _templates()
    earlier = _entries(folder)
    entries: dict[str, dict[str, Any]] = {}
    for paper in map(committed_paper, boards):
        known = earlier.get(paper.page)
        entries[paper.page] = known if known and not known["committed"] else _write(paper, folder, templates)
    for paper in papers:
        entries[paper.page] = _write(paper, folder, templates)
    for page in set(earlier) - set(entries):
        (folder / f"{page}.html").unlink(missing_ok=True)
        shutil.rmtree(folder / page, ignore_errors=True)
    write_atomically(folder / "pages.json", json.dumps(entries, indent=1))
    ordered = sorted(entries.values(), key=lambda entry: (entry["paper"], entry["scale"] != "desk", entry["scale"]))
    write_atomically(folder / "index.html", templates.get_template("index.html.j2").render(papers=ordered))
    return folder / "index.html"


def log_report(paper: str, folder: Path, uri: str, name: str = "report") -> None:
    """Keep the files of ``folder`` with the paper's MLflow experiment, in its one run named ``name``.

    Nothing is kept if there is no such experiment, or if ``uri`` is ``offline``; a store that does not answer is warned
    of.
    """
    from curvature.tracking import store
    from curvature.tracking.delivery import summary

    database = store.sqlite_path(uri)
    if uri == store.OFFLINE or (database is not None and not database.exists()):
        return
    try:
        client = store.client(uri)
        experiment = client.get_experiment_by_name(paper)
        if experiment is None:
            return
        query = f"attributes.run_name = '{name}'"
        found = client.search_runs([experiment.experiment_id], query, max_results=1)
        tags = {"kind": name}
        run = found[0] if found else client.create_run(experiment.experiment_id, run_name=name, tags=tags)
        client.log_artifacts(run.info.run_id, str(folder), name)
        client.set_terminated(run.info.run_id)
    except Exception as error:
        log.warning("the report is not kept with MLflow: %s", summary(error))


def _templates() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from curvature.tracking.store import run_page

    templates = Environment(
        loader=PackageLoader("curvature.claims"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals.update(
        effect_pieces=effect_pieces,
        effect_text=effect_text,
        strip=strip,
        run_page=run_page,
        order=ORDER,
        palette=PALETTE,
        made=time.strftime("%Y-%m-%d %H:%M"),
    )
    return templates


def _write(paper: PaperVerdicts, folder: Path, templates: "Environment") -> dict[str, Any]:
    """Write the page of a paper and the pictures of its claims; returns its entry in the index."""
    pictures = {
        verdict.claim.id: f"{paper.page}/{verdict.claim.id}.png"
        for verdict in paper.verdicts
        if not verdict.committed and plot_claim(verdict, folder / paper.page / f"{verdict.claim.id}.png")
    }
    content = templates.get_template("paper.html.j2").render(paper=paper, pictures=pictures)
    write_atomically(folder / f"{paper.page}.html", content)
    source = paper.claims.paper
    return {
        "page": paper.page,
        "experiment": paper.experiment,
        "paper": paper.paper,
        "scale": paper.scale,
        "title": source.title,
        "source": f"{source.authors}, {source.venue} {source.year}",
        "committed": not paper.uri,
        "claims": [
            {
                "id": verdict.claim.id,
                "statement": verdict.claim.statement,
                "verdict": verdict.verdict,
                "committed": verdict.committed and verdict.verdict != "not run",
            }
            for verdict in paper.verdicts
        ],
    }


def _entries(folder: Path) -> dict[str, dict[str, Any]]:
    """The index of the report in ``folder``; empty if there is none or it is damaged."""
    try:
        found = json.loads((folder / "pages.json").read_text())
        return {page: entry for page, entry in found.items() if (folder / f"{page}.html").exists() and _whole(entry)}
    except (OSError, ValueError, AttributeError):
        return {}


def _whole(entry: Any) -> bool:
    keys = {"page", "experiment", "paper", "scale", "title", "source", "committed", "claims"}
    return isinstance(entry, dict) and keys <= set(entry) and isinstance(entry["claims"], list)

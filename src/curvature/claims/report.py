"""The HTML report: a scoreboard and a page for each paper, without external assets."""

import logging
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from curvature.claims.papers import PaperVerdicts
from curvature.claims.plots import plot_claim
from curvature.claims.tables import effect_text

log = logging.getLogger(__name__)

ORDER = ("reproduced", "contradicted", "inconclusive", "not testable", "not run")


def write_report(papers: Sequence[PaperVerdicts], folder: Path) -> Path:
    """Write ``index.html``, one page for each paper and its plots into ``folder``, replacing what was there.

    Returns:
        Path of ``index.html``.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from curvature.tracking.store import run_page

    templates = Environment(loader=PackageLoader("curvature.claims"), autoescape=True, undefined=StrictUndefined)
    templates.globals.update(
        effect_text=effect_text, run_page=run_page, order=ORDER, made=time.strftime("%Y-%m-%d %H:%M")
    )
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    rows = []
    for paper in papers:
        page = paper.experiment.replace("/", "-")
        plots = {
            verdict.claim.id: f"{page}/{verdict.claim.id}.png"
            for verdict in paper.verdicts
            if plot_claim(verdict, fresh / page / f"{verdict.claim.id}.png")
        }
        content = templates.get_template("paper.html.j2").render(paper=paper, plots=plots)
        (fresh / f"{page}.html").write_text(content)
        rows.append((page, paper, Counter(verdict.verdict for verdict in paper.verdicts)))
    (fresh / "index.html").write_text(templates.get_template("index.html.j2").render(rows=rows))
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
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

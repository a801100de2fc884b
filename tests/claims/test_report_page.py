"""The report in a real browser: complete without a network, readable on a phone and in the dark, its filters filter."""

import html
import json
import math
import re
from itertools import chain, pairwise
from pathlib import Path
from urllib.parse import urldefrag

import pytest
from claims_support import PAPER, claims_of, fabricated, verdict_of
from matplotlib.image import imread

from curvature.claims.palette import ORDER
from curvature.claims.papers import PaperVerdicts
from curvature.claims.report import write_report
from curvature.claims.scoreboard import boards
from curvature.claims.strips import strip

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
UI = "http://me:secret@tracking:5000/"
JUDGED = {"spd_batchnorm": "desk", "lab-policy_gradient": "lab"}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two papers judged on made-up metrics among all the committed ones."""
    papers = [
        fabricated(EXPERIMENTS / "spd_batchnorm" / "claims.yaml", uri=UI),
        fabricated(EXPERIMENTS / "policy_gradient" / "claims.lab.yaml", "lab", "sqlite:///outputs/mlflow.db"),
    ]
    return write_report(papers, tmp_path_factory.mktemp("report") / "report", boards(EXPERIMENTS))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_report_reads_on_phone_and_desktop(report, page, screenshots, width, scheme):
    problems = []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if not request.url.startswith("file:") else None)
    page.on("requestfailed", lambda request: problems.append(request.url))
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    for name in ("index", *JUDGED, "sgd_stability"):
        page.goto(report.with_name(f"{name}.html").as_uri())
        page.screenshot(path=screenshots / f"{name}-{width}-{scheme}.png")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        lines = page.locator(".number").evaluate_all("all => all.map(item => item.getClientRects().length)")
        assert set(lines) <= {1}, "no number is broken"
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
        assert dark == (scheme == "dark")
        if name == "index":
            continue
        heights = page.locator(".strip text").evaluate_all(
            "all => all.map(item => item.getBoundingClientRect().height)"
        )
        assert heights and min(heights) >= 10
        outside = page.locator(".strip text, .strip circle").evaluate_all(
            "all => all.filter(item => { const box = item.getBoundingClientRect();"
            " return box.left < 0 || box.right > window.innerWidth; }).length"
        )
        assert outside == 0
        background = page.locator(".strip").first.evaluate("item => getComputedStyle(item).backgroundColor")
        assert background == "rgba(0, 0, 0, 0)", "the plot has the page's background"
    assert [problem for problem in problems if not problem.startswith("data:")] == []


def test_filters_hide_verdicts_that_are_not_wanted(report, page):
    for name, items in (("index", "li[data-verdict]"), ("sgd_stability", "section.card")):
        page.goto(report.with_name(f"{name}.html").as_uri())
        all_items = page.locator(items).count()
        page.get_by_role("checkbox", name="not run").uncheck()
        assert not page.locator(f"{items}[data-verdict='not run']").filter(visible=True).count()
        for verdict in ORDER[1:4]:
            page.get_by_role("checkbox", name=verdict).uncheck()
        shown = page.locator(items).filter(visible=True)
        assert 0 < shown.count() < all_items
        assert shown.count() == page.locator(f"{items}[data-verdict='reproduced']").count()
        for verdict in ORDER[1:]:
            page.get_by_role("checkbox", name=verdict).check()
    assert page.locator("section.card").filter(visible=True).count() == all_items


def test_a_claim_of_the_index_leads_to_its_page(report, page):
    page.goto(report.as_uri())
    card = page.locator("section.card", has=page.get_by_role("link", name="Learning to Normalize")).first
    card.get_by_text(" claims", exact=False).click()
    card.get_by_role("link", name="C9", exact=True).click()
    assert page.url.endswith("/spd_batchnorm.html#C9")
    page.locator("#C9 summary").click()
    links = page.locator("#C9 details a").evaluate_all("all => all.map(link => link.href)")
    assert links and all(link.startswith("http://tracking:5000/#/runs/id-") for link in links)


def test_every_link_resolves_and_nothing_is_fetched(report):
    for path in report.parent.glob("*.html"):
        text = path.read_text()
        assert not re.search(r"\bsrc=|<link (?!rel=\"icon\" href=\"data:,\")|@import|url\(", text)
        for target in map(html.unescape, re.findall(r"<a href=\"([^\"]*)\"", text)):
            if target.startswith("http"):
                assert re.match(r"http://(127\.0\.0\.1|tracking):5000/#/runs/id-", target)
                continue
            file, fragment = urldefrag(target)
            assert (report.parent / file).exists(), target
            assert not fragment or f'id="{fragment}"' in (report.parent / file).read_text()


def test_each_claim_with_runs_has_a_picture(report):
    """One panel a part; committed results, which have no runs, have none."""
    drawn = {path.stem for path in report.with_name("spd_batchnorm").glob("*.png")}
    entries = json.loads((report.parent / "pages.json").read_text())["spd_batchnorm"]["claims"]
    assert drawn == {claim["id"] for claim in entries if claim["verdict"] != "not run"}
    heights = {name: imread(report.with_name("spd_batchnorm") / f"{name}.png").shape[0] for name in ("C2", "C10")}
    assert heights["C10"] > heights["C2"] > 130
    assert not report.with_name("sgd_stability").exists()


def test_every_claim_is_on_the_index_and_committed_results_are_marked(report):
    entries = json.loads((report.parent / "pages.json").read_text())
    everything = boards(EXPERIMENTS)
    assert len(entries) == len(everything)
    assert sum(len(entry["claims"]) for entry in entries.values()) == sum(len(b.claims.claims) for b in everything)
    assert report.read_text().count("<li data-verdict") == sum(len(board.claims.claims) for board in everything)
    marked = {page for page, entry in entries.items() if any(claim["committed"] for claim in entry["claims"])}
    assert marked and not marked & set(JUDGED)
    kept = [sum(claim["committed"] for claim in entry["claims"]) for entry in entries.values()]
    assert [f"({count} committed results" in report.read_text() for count in kept if count] == [True] * len(marked)
    for page in entries:
        text = report.with_name(f"{page}.html").read_text()
        assert ("committed result, not from this store" in text) == (page in marked)


def test_judging_one_paper_keeps_the_pages_of_the_others(tmp_path):
    folder, papers = tmp_path / "report", EXPERIMENTS
    everything = boards(papers)
    first = fabricated(papers / "spd_batchnorm" / "claims.yaml")
    write_report([first], folder, everything)
    kept = (folder / "spd_batchnorm.html").read_text()
    assert "id-ill-bw-0" in kept
    second = fabricated(papers / "hesso" / "claims.yaml")
    write_report([second], folder, everything)
    assert (folder / "spd_batchnorm.html").read_text() == kept
    assert not json.loads((folder / "pages.json").read_text())["spd_batchnorm"]["committed"]
    write_report([second], folder, [board for board in everything if board.folder == "hesso"])
    assert not (folder / "spd_batchnorm.html").exists(), "a paper that is no more has no page"
    (folder / "pages.json").write_text('{"hesso": 3}')
    assert write_report([], folder, everything).exists(), "a damaged index is made anew"


def test_titles_are_text_not_markup(tmp_path):
    verdict = verdict_of(claims_of({"kind": "positive", "value": "m@a"}, arms={"a": []}), {})
    claims = claims_of({"kind": "positive", "value": "m@a"}, arms={"a": []})
    claims = claims.model_copy(update={"paper": claims.paper.model_copy(update=PAPER | {"title": "<b>S</b> & more"})})
    paper = PaperVerdicts("sam_vit", "sam_vit", "desk", claims, [verdict], UI)
    text = write_report([paper], tmp_path / "report").read_text()
    assert "&lt;b&gt;S&lt;/b&gt; &amp; more" in text


def test_marks_lie_inside_the_plot_and_labels_apart():
    papers = [fabricated(path) for path in EXPERIMENTS.glob("*/claims.yaml")]
    parts = [part for paper in papers for verdict in paper.verdicts for part in verdict.parts]
    strips = [found for found in map(strip, parts) if found]
    assert len(strips) > 100
    for found in strips:
        ends = [*(found.interval or ()), *(found.spread or ())]
        assert all(0 <= x <= 100 for x in chain(found.values, found.limits, ends, [found.effect]))
        positions = sorted(label.x for label in found.labels)
        assert all(later - x > 20 for x, later in pairwise(positions))


def test_a_part_without_a_number_has_no_plot():
    claims = claims_of({"kind": "positive", "value": "m@a"}, arms={"a": []})
    assert strip(verdict_of(claims, {}).parts[0]) is None
    assert strip(verdict_of(claims, {"a": [{"m": math.nan}] * 5}).parts[0]) is None
    level = strip(verdict_of(claims, {"a": [{"m": 0.0}] * 5}).parts[0])
    assert level.effect == 50.0 and len(level.labels) == 1

"""The report in a real browser: complete without a network, usable on a phone, its filter filters."""

import pytest
from claims_support import PAPER
from omegaconf import OmegaConf

from curvature.claims.papers import PaperVerdicts
from curvature.claims.plan import PlannedRun
from curvature.claims.report import write_report
from curvature.claims.schema import Claims
from curvature.claims.verdicts import Result, judge

UI = "http://me:secret@tracking:5000/"


@pytest.fixture
def report(tmp_path):
    decide = {"kind": "greater", "metric": "test/a_metric_with_a_rather_long_name", "better": "sam", "worse": "base"}
    common = {"statement": "SAM wins.", "source": "Table 1", "reported": {"text": "+5.3 points", "confirmed": False}}
    content = {
        "paper": PAPER | {"title": "<b>Sharpness</b> & more"},
        "seeds": [0, 1, 2],
        "arms": {"sam": [], "base": []},
        "claims": [{"id": "C1", "decide": decide} | common, {"id": "C2", "not_runnable": "no GPU here"} | common],
    }
    claims = Claims.model_validate(content)
    metric = decide["metric"]
    runs = [PlannedRun(arm, None, seed, f"{arm}{seed}", []) for arm in claims.arms for seed in claims.seeds]
    results = {f"sam{s}": Result(f"id-sam-{s}", {metric: 1 + s / 100}) for s in claims.seeds}
    results |= {f"base{s}": Result(f"id-base-{s}", {metric: 0.5}) for s in claims.seeds}
    config = OmegaConf.create({"paper": "sam_vit", "scale": "desk"})
    verdicts = judge(claims, claims.claims, runs, results, "desk")
    return write_report([PaperVerdicts("sam_vit", config, claims, verdicts, UI)], tmp_path / "report")


@pytest.mark.parametrize("width", [390, 1400])
def test_report_reads_on_phone_and_desktop(report, page, screenshots, width):
    problems = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: problems.append(request.url) if not request.url.startswith("file:") else None)
    page.on("requestfailed", lambda request: problems.append(request.url))
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(report.as_uri())
    assert page.locator(".counts").inner_text().split() == [
        "reproduced",
        "1",
        "contradicted",
        "0",
        "inconclusive",
        "0",
        "not",
        "testable",
        "0",
        "not",
        "run",
        "1",
    ]
    assert page.get_by_text("<b>Sharpness</b> & more").is_visible(), "titles are text, not markup"
    page.screenshot(path=screenshots / f"scoreboard-{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.get_by_role("link", name="Sharpness").click()
    page.get_by_text("id-sam-2").wait_for(state="attached")
    links = page.locator("details a").evaluate_all("all => all.map(link => link.href)")
    assert len(links) == 6 and all(link.startswith("http://tracking:5000/#/runs/id-") for link in links)
    assert page.locator("img").evaluate_all("all => all.every(image => image.naturalWidth > 100)")
    page.screenshot(path=screenshots / f"paper-{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    problems = [problem for problem in problems if not problem.startswith("data:")]
    assert problems == []


def test_filter_hides_verdicts_that_are_not_wanted(report, page):
    page.goto(report.with_name("sam_vit.html").as_uri())
    page.get_by_role("checkbox", name="not run").uncheck()
    assert page.locator("#C1").is_visible()
    assert not page.locator("#C2").is_visible()
    page.get_by_role("checkbox", name="not run").check()
    assert page.locator("#C2").is_visible()

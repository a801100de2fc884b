"""``make ui`` opened in a real browser: experiment, runs, a metric chart and an HTML report are visible."""

import math
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from tracking_support import free_port, wait_until

from curvature.tracking import Tracker, default_uri, ui_command
from curvature.tracking.store import run_page
from curvature.tracking.ui import main


@pytest.fixture
def logged(outputs, tmp_path):
    report = tmp_path / "report"
    report.mkdir()
    (report / "index.html").write_text("<html><body><h1>Scoreboard of claims</h1><p>C2 reproduced</p></body></html>")
    for arm, rate in {"sam": 50, "adamw": 20}.items():
        directory = outputs / "runs" / "sam_vit" / arm
        tags = {"fingerprint": arm, "arm": arm, "seed": "0"}
        tracker = Tracker(
            directory, default_uri(outputs), "sam_vit", f"{arm}-s0", tags, {"lr": 0.1}, flush_seconds=0.05
        )
        tracker.start()
        for step in range(200):
            tracker.log_metrics({"train/loss": math.exp(-step / rate)}, step)
        tracker.log_metrics({"test/accuracy": 0.9}, 200)
        tracker.log_directory(report, "report")
        assert tracker.finish("FINISHED", timeout_s=60)
    return outputs


@pytest.fixture
def served(logged, tmp_path):
    """What ``make ui`` prints, and its port."""
    port, log = free_port(), tmp_path / "ui.log"
    command = [sys.executable, "-m", "curvature.tracking.ui", "--outputs", str(logged), "--port", str(port)]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
    wait_until(lambda: answers(port), 90)
    yield log.read_text()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def answers(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def test_runs_chart_and_report_are_visible(served, page, screenshots):
    link = re.search(r"sam_vit +(http://127\.0\.0\.1:\S+)", served)
    assert link, served
    page.goto(link.group(1))
    page.get_by_role("link", name="sam_vit").first.wait_for()
    page.get_by_role("link", name="adamw-s0").wait_for()
    page.get_by_text("2 matching runs").wait_for()
    page.screenshot(path=screenshots / "runs.png")

    page.get_by_role("link", name="sam-s0").click()
    page.get_by_role("tab", name="Overview").wait_for()
    page.get_by_text("fingerprint").first.wait_for()
    page.screenshot(path=screenshots / "run.png")
    run_id = re.search(r"/runs/(\w+)", page.url).group(1)
    server = re.match(r"http://[^/]+", page.url).group(0)
    page.goto("about:blank")
    page.goto(run_page(server, run_id))
    page.get_by_role("tab", name="Overview").wait_for()
    assert page.get_by_text("sam-s0").first.is_visible(), "the report's link to a run opens it"
    page.get_by_role("tab", name="Model metrics").click()
    page.get_by_placeholder("Search metric charts").fill("loss")
    page.get_by_text("sam-s0 (test/accuracy)").wait_for(state="detached")
    page.get_by_text("sam-s0 (train/loss)").wait_for()
    curve = page.locator("path.js-line").first
    curve.wait_for(state="attached")
    points = re.findall(r"([\d.]+),([\d.]+)", curve.get_attribute("d"))
    assert len(points) > 20, "a curve, not a dot"
    assert [float(y) for _, y in points] == sorted(float(y) for _, y in points), "it falls as the loss does"
    page.screenshot(path=screenshots / "metrics.png")

    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("report", exact=True).click()
    page.get_by_text("index.html").first.click()
    report = page.frame_locator("iframe").get_by_role("heading", name="Scoreboard of claims")
    report.wait_for()
    page.screenshot(path=screenshots / "report.png")
    assert report.is_visible()


def test_the_ui_listens_on_loopback_only(served):
    port = int(re.search(r"127\.0\.0\.1:(\d+)", served).group(1))
    listeners = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    addresses = {fields[1] for fields in listeners if fields[3] == "0A" and int(fields[1].split(":")[1], 16) == port}
    assert addresses == {f"0100007F:{port:04X}"}


def test_without_runs_it_says_so_and_makes_nothing(tmp_path, capsys):
    assert main(["--outputs", str(tmp_path / "outputs")]) == 1
    assert "no runs yet" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


def test_a_server_is_not_served_a_second_time(tmp_path, capsys):
    assert main(["--outputs", str(tmp_path), "--uri", "http://me:secret@tracking.example.org"]) == 0
    assert "http://***@tracking.example.org" in capsys.readouterr().out


def test_the_command_of_the_summary_names_the_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(ui_command(default_uri("outputs")))
    assert Path(words[0]).exists()
    assert words[1:6] == ["ui", "--backend-store-uri", "sqlite:///outputs/mlflow.db", "--host", "127.0.0.1"]
    assert f"sqlite:////{str(tmp_path.parent)[1:]}/x.db" in ui_command(f"sqlite:///{tmp_path.parent}/x.db")
    assert ui_command("http://me:secret@tracking.example.org:5000") == "http://***@tracking.example.org:5000"


def test_the_environment_chooses_the_store(monkeypatch, tmp_path):
    assert default_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example.org")
    assert default_uri(tmp_path) == "http://tracking.example.org"

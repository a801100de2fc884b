"""Fixtures: a real MLflow server, headless Chromium, an outputs folder."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tracking_support import Server

from curvature.tracking.courier import courier

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def session_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture
def server(session_server: Server) -> Server:
    """The server, running; a test may stop it. Tests share it and use experiments of their own."""
    if session_server._process is None:
        session_server.start()
    return session_server


@pytest.fixture(autouse=True)
def no_ambient_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session", autouse=True)
def no_helper_left() -> Iterator[None]:
    yield
    if courier._process is not None:
        courier._process.kill()
        courier._process.wait()


@pytest.fixture
def page() -> Iterator[Any]:
    """A page of headless Chromium."""
    if not Path(CHROMIUM).exists():
        reason = "Chromium is missing; apt-get install chromium"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """Folder of screenshots; CURVATURE_SCREENSHOTS keeps them."""
    folder = Path(os.environ.get("CURVATURE_SCREENSHOTS") or tmp_path / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def outputs(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "outputs"
    shutil.rmtree(tmp_path / "outputs", ignore_errors=True)

"""Fixtures: a real MLflow server, headless Chromium, an outputs folder."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tracking_support import Server

from curvature.tracking.courier import courier


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
def outputs(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "outputs"
    shutil.rmtree(tmp_path / "outputs", ignore_errors=True)

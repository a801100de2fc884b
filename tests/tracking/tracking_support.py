"""A real MLflow server that can be stopped and started, and a direct look into its database."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from curvature.tracking import store


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """``mlflow server`` on loopback over a sqlite file; the same port and file after each stop."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.database = folder / "server.db"
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Server":
        self.folder.mkdir(parents=True, exist_ok=True)
        store.client(f"sqlite:///{self.database}")
        arguments = store.ui_arguments(f"sqlite:///{self.database}", self.port)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *arguments[1:]],
            cwd=self.folder,
            env=os.environ | store.ENVIRONMENT | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=(self.folder / "server.log").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_until(self._is_up, 240)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self, number: int = signal.SIGKILL) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, number)
            self._process.wait(30)
            self._process = None

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "server.log").read_text()
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False


def wait_until(condition: Any, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not so after {timeout_s} s"
        time.sleep(0.02)


def rows(database: Path, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Result of an SQL query, past MLflow and our own code."""
    connection = sqlite3.connect(database, timeout=30)
    try:
        return connection.execute(query, values).fetchall()
    finally:
        connection.close()


def runs(database: Path, experiment: str) -> list[tuple[str, str]]:
    """(run id, status) of the runs that are not deleted."""
    return rows(
        database,
        "SELECT run_uuid, status FROM runs JOIN experiments USING (experiment_id)"
        " WHERE experiments.name = ? AND runs.lifecycle_stage = 'active'",
        experiment,
    )


def history(database: Path, run_id: str, key: str) -> list[tuple[int, float]]:
    """(step, value) of every row of a metric in the order of steps; a row stored twice appears twice."""
    return rows(database, "SELECT step, value FROM metrics WHERE run_uuid = ? AND key = ? ORDER BY step", run_id, key)

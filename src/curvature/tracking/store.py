"""Which MLflow store is used, and how it is opened quietly and safely."""

import functools
import logging
import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from curvature.errors import ConfigError, CurvatureError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

OFFLINE = "offline"
"""Tracking URI that means: write to the run directory only; it can be delivered to a store later."""

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    # Retries are ours: a blind repeat of "create run" would create two.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
"""Set for MLflow where the user's environment says nothing."""

FIRST_PORT = 5000
"""Where the user interface is served if nothing else is."""

DAMAGE = ("file is not a database", "disk image is malformed", "malformed database schema")
"""What sqlite says of a file that is damaged."""

SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql")


class DamagedStore(CurvatureError):
    """A sqlite file that cannot be read; run directories hold what was logged."""

    def __init__(self, database: Path) -> None:
        super().__init__(
            f"{database} is damaged; move it away. A new one is made; run directories keep all that was logged"
        )


def default_uri(outputs: Path | str) -> str:
    """``MLFLOW_TRACKING_URI`` if set, else ``sqlite:///<outputs>/mlflow.db`` with an absolute path."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(outputs).absolute()}/mlflow.db"


def validate_uri(uri: str) -> None:
    """Check that ``uri`` is of a kind that stores a repeated metric once.

    Raises:
        ConfigError: for ``tracking.uri``, naming what is allowed.
    """
    scheme = uri.partition("://")[0].partition("+")[0]
    if uri != OFFLINE and ("://" not in uri or scheme not in SCHEMES):
        allowed = f"sqlite:///path/to/mlflow.db, http(s)://server, a {'/'.join(SCHEMES[3:])} URI, or {OFFLINE!r}"
        raise ConfigError("tracking.uri", redact(uri), allowed)


def redact(text: str) -> str:
    """``text`` with the user information of every URI in it replaced by ``***``."""
    return re.sub(r"(\w[\w+.-]*://)[^/@\s]+@", r"\1***@", text)


def sqlite_path(uri: str) -> Path | None:
    """File of a sqlite URI, or None for another kind of store."""
    return Path(uri.partition(":///")[2]) if uri.startswith("sqlite") else None


def configure() -> None:
    """Prepare this process for MLflow: no telemetry, no chatter, no retries behind our back."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


@functools.lru_cache(maxsize=8)
def client(uri: str) -> "MlflowClient":
    """A client of the store at ``uri``; the tables of a sqlite store are created if need be, by one process at a time.

    Raises:
        DamagedStore: the sqlite file is damaged; it is left as it is.
        Exception: whatever MLflow raises when a database cannot be opened. A server is not contacted here.
    """
    configure()
    import mlflow.tracking

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    database = sqlite_path(uri)
    if database is None:
        return mlflow.tracking.MlflowClient(uri)
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock"):
        if not database.exists():
            _create(database)
        try:
            opened = mlflow.tracking.MlflowClient(uri)
            opened.search_experiments(max_results=1)
        except Exception as error:
            if any(sign in str(error) for sign in DAMAGE):
                raise DamagedStore(database) from error
            raise
    return opened


def _create(database: Path) -> None:
    """Make all tables beside the final place first: MLflow cannot go on from a store whose creator was killed."""
    import mlflow.tracking

    fresh = database.with_name(f".{database.name}.new")
    for left in fresh.parent.glob(f"{fresh.name}*"):
        left.unlink()
    mlflow.tracking.MlflowClient(f"sqlite:///{fresh.absolute()}").search_experiments(max_results=1)
    os.replace(fresh, database)


def artifact_root(uri: str, outputs: Path) -> Path | None:
    """Where a store that is used without a server keeps artifacts: beside its sqlite file, else in ``outputs``."""
    if uri.startswith("http"):
        return None
    database = sqlite_path(uri)
    return (database.absolute().parent if database else outputs.absolute()) / "mlartifacts"


def ui_arguments(uri: str, port: int = 5000) -> list[str]:
    """Arguments of ``mlflow`` that serve the store at ``uri`` on loopback."""
    arguments = ["ui", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    root = artifact_root(uri, Path.cwd())
    return [*arguments, "--artifacts-destination", str(root)] if root else arguments


def ui_command(uri: str) -> str:
    """What to type to look at the store at ``uri``; for a server its address."""
    if uri.startswith("http"):
        return redact(uri)
    if uri == OFFLINE:
        return "report.py, to deliver this run to MLflow first"
    executable = Path(sys.executable).with_name("mlflow")
    relative = os.path.relpath(executable)
    command = relative if not relative.startswith("..") else str(executable)
    database = sqlite_path(uri)
    shown = redact(uri)
    if database is not None and not os.path.relpath(database).startswith(".."):
        shown = f"sqlite:///{os.path.relpath(database)}"
    return shlex.join([command, "ui", "--backend-store-uri", shown, "--host", "127.0.0.1", "--workers", "1"])


def run_page(uri: str, run_id: str) -> str:
    """Address of a run in MLflow's user interface: of the server at ``uri``, else where ``make ui`` serves first."""
    server = uri.rstrip("/") if uri.startswith("http") else f"http://127.0.0.1:{FIRST_PORT}"
    return re.sub(r"//[^/@]+@", "//", server) + f"/#/runs/{run_id}"

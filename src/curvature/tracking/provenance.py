"""Where a run came from: code, libraries, machine, job. Imports none of the libraries it names."""

import contextlib
import getpass
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curvature.rundir import write_atomically

PACKAGES = ("curvature", "torch", "pytorch-lightning", "mlflow", "timm", "numpy")
SLURM = {
    "slurm.job_id": "SLURM_JOB_ID",
    "slurm.array_job_id": "SLURM_ARRAY_JOB_ID",
    "slurm.array_task_id": "SLURM_ARRAY_TASK_ID",
    "slurm.restart_count": "SLURM_RESTART_COUNT",
    "slurm.partition": "SLURM_JOB_PARTITION",
    "slurm.nodes": "SLURM_JOB_NODELIST",
}
GIT_SECONDS = 10.0


def provenance() -> dict[str, str]:
    """Tags that say what code ran where.

    Returns:
        ``commit`` (40 hex digits), ``dirty`` (``true`` if the checkout differs from it, untracked files included),
        ``version.<package>``, ``python``, ``hostname``, ``device``, ``slurm.*`` within a job, and MLflow's own tags for
        user and program. What cannot be found out, e.g. the commit of an installed wheel, is left out.
    """
    tags = {"python": platform.python_version(), "hostname": socket.gethostname(), "device": device()}
    tags["mlflow.source.name"] = Path(sys.argv[0]).name or "python"
    with contextlib.suppress(OSError, KeyError):
        tags["mlflow.user"] = getpass.getuser()
    tags |= checkout(Path(__file__).parent) or checkout(Path.cwd())
    for package in PACKAGES:
        try:
            tags[f"version.{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return tags | {tag: os.environ[name] for tag, name in SLURM.items() if os.environ.get(name)}


def record(path: Path) -> Path:
    """Append the provenance of this start to the JSON list at ``path``; tags hold that of the last start only."""
    try:
        starts: list[Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        starts = []
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    write_atomically(path, json.dumps([*starts, {"started": started, "command": sys.argv} | provenance()], indent=1))
    return path


def device() -> str:
    """The GPUs if torch has been imported and sees some, else the processor, with their number."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{os.cpu_count()} x {processor()}"


def processor() -> str:
    """Name of the processor's model, or at least its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def checkout(directory: Path, ignored: Sequence[str] = ()) -> dict[str, str]:
    """``commit`` and ``dirty`` of the checkout around ``directory``, if it is one and keeps this directory's files.

    Args:
        directory: any directory inside.
        ignored: paths from the root of the checkout whose changes do not make it dirty.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(directory), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIT_SECONDS)
        return done.stdout.strip()

    try:
        if not git("ls-files", "--", "."):
            return {}
        changes = git("status", "--porcelain", "--", ":/", *(f":(top,exclude){path}" for path in ignored))
        return {"commit": git("rev-parse", "HEAD"), "dirty": str(bool(changes)).lower()}
    except (OSError, subprocess.SubprocessError):
        return {}

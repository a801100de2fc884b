"""How tests start, query and stop a real Slurm cluster."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "slurm" / "local-cluster" / "cluster.py"
UNAVAILABLE = 3


class SlurmCluster:
    """The cluster in ``directory`` and how to talk to it.

    Attributes:
        environment: what a process needs to use this cluster.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        ours = {"SLURM_CONF": str(directory / "slurm.conf"), "OMP_NUM_THREADS": "1"}
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")} | ours

    def __call__(self, *command: str | Path, timeout: float = 60) -> str:
        """Standard output of a command that must succeed."""
        done = subprocess.run(
            [str(word) for word in command], env=self.environment, capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def sbatch(self, *options: str | Path) -> str:
        """Job id."""
        return self("sbatch", "--parsable", *options)

    def accounting(self, job: str) -> dict[str, str]:
        """State by job (array tasks separately, steps left out) as sacct has it."""
        lines = self("sacct", "-X", "-n", "-P", "-j", job, "-o", "JobID,State").splitlines()
        return dict(line.split("|") for line in lines)

    def details(self, job: str) -> dict[str, str]:
        """What ``scontrol show job`` says."""
        words = self("scontrol", "-o", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def status(self) -> dict:
        return json.loads(self(sys.executable, TOOL, "status", "--directory", self.directory))

    def wait_until(self, condition: Callable[[], object], timeout: float = 30, what: str = "the condition") -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"waited {timeout} s for {what}\n{self('squeue')}"
            time.sleep(0.1)


def start_cluster(directory: Path) -> SlurmCluster:
    """Start a cluster; skips the test where Slurm cannot be had, unless this is CI."""
    in_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    install = [] if in_ci else ["--no-install"]
    command = [sys.executable, str(TOOL), "up", "--nodes", "2", "--cpus", "4", "--directory", str(directory), *install]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    if done.returncode == UNAVAILABLE and not in_ci:
        pytest.skip(done.stderr.strip())
    if done.returncode:
        subprocess.run([sys.executable, str(TOOL), "down", "--directory", str(directory)], check=False)
        pytest.fail(done.stderr)
    return SlurmCluster(directory)


def stop_cluster(cluster: SlurmCluster) -> None:
    cluster(sys.executable, TOOL, "down", "--directory", cluster.directory)

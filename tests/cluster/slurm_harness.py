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


class Demo:
    """``demo_app`` with its outputs in ``directory``."""

    def __init__(self, cluster: SlurmCluster, directory: Path) -> None:
        self.cluster = cluster
        self.directory = directory
        self.outputs = directory / "outputs"

    def command(self, *overrides: str) -> list[str]:
        app = Path(__file__).parent / "demo_app" / "app.py"
        fixed = [f"hydra.searchpath=[file://{ROOT / 'conf'}]", f"outputs={self.outputs}", "slurm.poll_seconds=1"]
        return [sys.executable, str(app), "-m", *fixed, *overrides]

    def run(self, *overrides: str, timeout: float = 100) -> subprocess.CompletedProcess[str]:
        process = self.start(*overrides)
        out, error = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(process.args, process.returncode, out, error)

    def start(self, *overrides: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*overrides),
            env=self.cluster.environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def submit(self, *overrides: str) -> list[str]:
        """Job ids; does not wait."""
        done = self.run("slurm.submit_only=true", *overrides)
        assert done.returncode == 0, done.stdout + done.stderr
        (index,) = self.outputs.glob("slurm/*/jobs.json")
        return [row["job"] for row in json.loads(index.read_text())]

    def arrays(self) -> list[str]:
        """Job ids as sbatch returned them."""
        rows = [row for index in self.outputs.glob("slurm/*/jobs.json") for row in json.loads(index.read_text())]
        return sorted({row["job"].partition("_")[0] for row in rows})

    def cancel(self) -> None:
        """Cancel its jobs and wait for their end."""
        for array in self.arrays():
            for options in ([], ["--full", "--signal=KILL"]):
                # A job that is gone is no error here.
                subprocess.run(["scancel", *options, array], env=self.cluster.environment, capture_output=True)
            shown = ["squeue", "-h", "-j", array]
            self.cluster.wait_until(
                lambda shown=shown: not subprocess.run(shown, env=self.cluster.environment, capture_output=True).stdout
            )

    def records(self) -> list[dict]:
        """``run.json`` of every run."""
        return [json.loads(path.read_text()) for path in sorted(self.outputs.glob("runs/demo/*/run.json"))]

    def steps(self) -> list[list[int]]:
        """Steps that each run has gone through, in the order in which it did."""
        paths = sorted(self.outputs.glob("runs/demo/*/steps.txt"))
        return [[int(line) for line in path.read_text().splitlines()] for path in paths]

    def directory_of(self, variant: str) -> Path:
        """Run directory of the run with ``variant=<variant>``."""
        paths = self.outputs.glob("runs/demo/*/run.json")
        (path,) = (path for path in paths if json.loads(path.read_text())["variant"] == variant)
        return path.parent

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.outputs.glob("slurm/*/*_log.*")))


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

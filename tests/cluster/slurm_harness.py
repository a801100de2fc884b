"""How tests start, query and stop a real Slurm cluster."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "slurm" / "local-cluster" / "cluster.py"
sys.path[:0] = [str(ROOT / "tests" / "tracking"), str(TOOL.parent)]

import processes  # noqa: E402
from tracking_support import rows  # noqa: E402

REAL = Path(__file__).parent / "real"
UNAVAILABLE = 3
PATIENCE_S = 240.0
"""Longest wait for anything: ample for a busy machine of two cores, and no test hangs."""


class SlurmCluster:
    """The cluster in ``directory`` and how to talk to it.

    Attributes:
        environment: what a process needs to use this cluster.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        path = f"{REAL}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep)
        ours = {"SLURM_CONF": str(directory / "slurm.conf"), "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        ours |= {"PYTHON": sys.executable, "COLUMNS": "160"}
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")} | ours

    def __call__(self, *command: str | Path, timeout: float = PATIENCE_S) -> str:
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

    def processes_of(self, job: str) -> dict[int, str]:
        """Process ids and names of all that belongs to a job: its slurmstepd, batch script, srun and tasks."""
        number = self.details(job)["JobId"]
        found = {}
        for daemon in processes.job_processes(str(self.directory), self.environment["SLURM_CONF"]):
            folder = Path(f"/proc/{daemon.pid}")
            try:
                in_job = f"SLURM_JOB_ID={number}".encode() in (folder / "environ").read_bytes().split(b"\0")
                if in_job or f"[{number}." in (folder / "cmdline").read_text():
                    found[daemon.pid] = (folder / "comm").read_text().strip()
            except OSError:
                continue
        return found

    def status(self) -> dict:
        return json.loads(self(sys.executable, TOOL, "status", "--directory", self.directory))

    def wait_until(self, condition: Callable[[], object], what: str = "the condition") -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"waited {PATIENCE_S:.0f} s for {what}\n{self('squeue')}"
            time.sleep(0.1)

    def kill(self, job: str, *names: str) -> list[int]:
        """Kill -9 the processes of a job whose names begin so (all if none is given); returns their ids."""
        pids = [pid for pid, name in self.processes_of(job).items() if name.startswith(names or "")]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return pids

    def task(self, job: str, rank: int = 0) -> int:
        """Process id of one task of a job, not of the helpers that it has started."""
        tasks = {}
        for pid in (pid for pid, name in self.processes_of(job).items() if name.startswith("python")):
            folder = Path(f"/proc/{pid}")
            if f"SLURM_PROCID={rank}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                tasks[pid] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        (pid,) = (pid for pid, parent in tasks.items() if parent not in tasks)
        return pid

    def notice_lost_steps(self, job: str) -> None:
        """Have SLURM look at what its nodes really run, as it does by itself every few minutes, until it restarts."""
        before = self.details(job)["Restarts"]

        def restarted() -> bool:
            self("scontrol", "reconfigure")
            time.sleep(2)
            return self.details(job)["Restarts"] != before

        self.wait_until(restarted, "SLURM to notice that the step is gone")

    def lose_node(self, name: str) -> None:
        """Kill the slurmd of a node."""
        os.kill(self.status()["daemons"][name]["pid"], signal.SIGKILL)

    def lose_controller(self) -> None:
        """Stop slurmctld as for an upgrade; ``up`` brings it back."""
        pid = self.status()["daemons"]["slurmctld"]["pid"]
        os.kill(pid, signal.SIGTERM)
        self.wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the controller to stop")


class Demo:
    """``demo_app`` with its outputs in ``directory``."""

    paper = "demo"

    def __init__(self, cluster: SlurmCluster, directory: Path) -> None:
        self.cluster = cluster
        self.directory = directory
        self.outputs = directory / "outputs"

    def command(self, *overrides: str) -> list[str]:
        app = Path(__file__).parent / "demo_app" / "app.py"
        fixed = [f"hydra.searchpath=[file://{ROOT / 'conf'}]", f"outputs={self.outputs}", "slurm.poll_seconds=1"]
        return [sys.executable, str(app), "-m", *fixed, *overrides]

    def run(self, *overrides: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*overrides)
        out, error = self.output(process)
        return subprocess.CompletedProcess(process.args, process.returncode, out, error)

    def output(self, process: subprocess.Popen[str]) -> tuple[str, str]:
        """Standard output and error of a launch, once it has ended."""
        try:
            return process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            out, error = process.communicate()
            queue = self.cluster("squeue")
            pytest.fail(f"not over after {PATIENCE_S:.0f} s\n{queue}\n{out}\n{error}\n{self.logs()}")

    def open(self) -> None:
        """Let everything go on that is held or will be."""
        self.outputs.mkdir(exist_ok=True)
        (self.outputs / "open").touch()

    def held(self) -> list[Path]:
        """Directories of the processes that have been held."""
        return sorted(path.parent for path in self.outputs.rglob("held*"))

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
        return [json.loads(path.read_text()) for path in sorted(self.outputs.glob(f"runs/{self.paper}/*/run.json"))]

    def steps(self) -> list[list[int]]:
        """Steps that each run has gone through, in the order in which it did."""
        paths = sorted(self.outputs.glob(f"runs/{self.paper}/*/steps.txt"))
        return [[int(line) for line in path.read_text().splitlines()] for path in paths]

    def directory_of(self, variant: str) -> Path:
        """Run directory of the run with ``variant=<variant>``."""
        paths = self.outputs.glob(f"runs/{self.paper}/*/run.json")
        (path,) = (path for path in paths if json.loads(path.read_text())["variant"] == variant)
        return path.parent

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.outputs.glob("slurm/*/*_log.*")))


class SamViT(Demo):
    """The sam_vit experiment at the size of a smoke test, without what it measures after training."""

    paper = "sam_vit"

    def command(self, *overrides: str) -> list[str]:
        return [sys.executable, str(ROOT / "run.py"), "-m", *self.experiment(), *self.launcher(), *overrides]

    def alone(self, *overrides: str) -> str:
        """Run it here, in one process, without SLURM; returns what it printed."""
        command = [sys.executable, str(ROOT / "run.py"), *self.experiment(), *overrides]
        done = subprocess.run(command, env=self.cluster.environment, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def experiment(self) -> list[str]:
        gate = "{_target_: gate.Gate, steps: [], opened: '${outputs}/open'}"
        without = ["callbacks.measures=null", "callbacks.step_time=null", f"+callbacks.gate={gate}"]
        size = ["model.drop_rate=0.1", "trainer.val_check_interval=7", "checkpoint.every_n_steps=20"]
        quick = ["tracking.flush_seconds=0.05", f"tracking.finish_seconds={PATIENCE_S}"]
        return ["experiment=sam_vit", "+debug=smoke", f"outputs={self.outputs}", *without, *size, *quick]

    def launcher(self) -> list[str]:
        return ["hydra/launcher=slurm", "slurm=cpu", "slurm.cpus_per_task=1", "slurm.poll_seconds=1"]

    def launch(self, variants: Sequence[str], *overrides: str) -> subprocess.Popen[str]:
        """One array, one task for each variant: the same run, but for its ``outputs=<directory>/<variant>``."""
        outputs = ",".join(str(self.directory / variant) for variant in variants)
        own = [f"hydra.sweep.dir={self.outputs}", f"outputs={outputs}"]
        return self.start("hydra/sweeper=basic", *overrides, *own)

    def directories(self, outputs: Path | None = None) -> list[Path]:
        """Run directories."""
        return sorted(path.parent for path in (outputs or self.outputs).glob("runs/sam_vit/*/run.json"))

    def wait_for(self, launch: subprocess.Popen[str], condition: Callable[[], object], what: str) -> None:
        """Wait for ``condition``; fails at once if the launch ends before."""

        def reached() -> object:
            if launch.poll() is not None:
                pytest.fail(f"over before {what}\n" + "\n".join([*launch.communicate(), self.logs()]))
            return condition()

        self.cluster.wait_until(reached, what)

    def job_of(self, variant: str) -> str:
        """Job id of the array task that runs ``variant``."""
        rows = [row for index in self.outputs.glob("slurm/*/jobs.json") for row in json.loads(index.read_text())]
        *_, job = (row["job"] for row in rows if f"outputs={self.directory / variant}" in row["overrides"])
        return job

    def open(self, variant: str = "outputs") -> None:
        (self.directory / variant).mkdir(exist_ok=True)
        (self.directory / variant / "open").touch()

    def holds(self, variant: str, step: int) -> bool:
        """Whether ``variant`` has been held before ``step``."""
        return bool(list((self.directory / variant).glob(f"runs/sam_vit/*/held-{step}")))

    def go(self, variant: str, step: int) -> None:
        """Let ``variant`` go on that is held before ``step``."""
        (directory,) = self.directories(self.directory / variant)
        (directory / f"held-{step}.go").touch()

    def repeated(self, variant: str, steps: int) -> int:
        """Training steps that had to be done again."""
        (directory,) = self.directories(self.directory / variant)
        return (directory / "begun").stat().st_size - steps


class Finished:
    """What a run has left in its directory ``path``, and what a tracking server's ``database`` holds of it."""

    def __init__(self, path: Path, database: Path) -> None:
        self.path = path
        self.record = json.loads((self.path / "run.json").read_text())
        self.database = database

    def run_ids(self) -> list[tuple[str, str]]:
        """(id, status) of every MLflow run of this fingerprint that is not deleted."""
        query = (
            "SELECT runs.run_uuid, status FROM runs JOIN tags USING (run_uuid) "
            "WHERE tags.key = 'fingerprint' AND tags.value = ? AND lifecycle_stage = 'active'"
        )
        return rows(self.database, query, self.record["fingerprint"])

    def in_mlflow(self) -> list[tuple[str, int, float]]:
        """(name, step, value) of every stored metric but timings; one stored twice appears twice."""
        query = "SELECT key, step, value FROM metrics WHERE run_uuid = ? AND key NOT LIKE 'time/%' ORDER BY key, step"
        return rows(self.database, query, self.record["mlflow_run_id"])

    def on_disk(self) -> list[tuple[str, int, float]]:
        """The same from ``metrics.jsonl``."""
        lines = [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]
        return sorted((r["key"], r["step"], r["value"]) for r in lines if not r["key"].startswith("time/"))

    def final(self) -> dict[str, float]:
        """Final metrics but timings."""
        return {name: value for name, value in self.record["metrics"].items() if not name.startswith("time/")}

    def assert_logged_once(self, steps: int) -> None:
        """One FINISHED MLflow run; its losses are those of steps 1 to ``steps``; nothing twice, here or there."""
        assert self.run_ids() == [(self.record["mlflow_run_id"], "FINISHED")]
        stored = self.in_mlflow()
        assert [step for key, step, _ in stored if key == "train/loss"] == list(range(1, steps + 1))
        assert len({(key, step) for key, step, _ in stored}) == len(stored)
        assert stored == self.on_disk()


def start_cluster(directory: Path, **settings: int) -> SlurmCluster:
    """Start a cluster; skips the test where Slurm cannot be had, unless this is CI.

    Args:
        directory: scratch directory.
        **settings: of slurm.conf, e.g. ``SlurmdTimeout``, the seconds after which a silent node is given up.
    """
    in_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    install = [] if in_ci else ["--no-install"]
    command = [sys.executable, str(TOOL), "up", "--nodes", "2", "--cpus", "4", "--directory", str(directory), *install]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    if done.returncode == UNAVAILABLE and not in_ci:
        pytest.skip(done.stderr.strip())
    if done.returncode:
        subprocess.run([sys.executable, str(TOOL), "down", "--directory", str(directory)], check=False)
        pytest.fail(done.stderr)
    cluster = SlurmCluster(directory)
    configuration = directory / "slurm.conf"
    for name, value in settings.items():
        configuration.write_text(re.sub(f"{name}=[0-9]+", f"{name}={value}", configuration.read_text()))
    if settings:
        cluster("scontrol", "reconfigure")
    return cluster


def stop_cluster(cluster: SlurmCluster) -> None:
    cluster(sys.executable, TOOL, "down", "--directory", cluster.directory)

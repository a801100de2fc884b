"""Twenty random faults over one sweep of sam_vit: every run still ends with the numbers of an undisturbed one.

Run it alone: ``pytest --soak tests/cluster/test_random_kills.py``; CURVATURE_SOAK=<file> keeps the table.
"""

import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from slurm_harness import PATIENCE_S, ROOT, Finished, SamViT, SlurmCluster

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]

KILLS = 20
RUNS = 4
STEPS = 200
SEED = 0
MEAN_PAUSE_S = 4.0
LOOK_S = 5.0
KILLED = {"kill -9 of the task": "python", "kill -9 of slurmstepd": "slurmstepd"}
SENT = {
    "scontrol requeue": ("scontrol", "requeue"),
    "signal USR2": ("scancel", "--signal=USR2"),
    "signal TERM": ("scancel", "--signal=TERM"),
}


def hit(application: SamViT, job: str, fault: str) -> bool:
    """False if the job was just on its way out of the queue."""
    try:
        if fault in KILLED:
            return bool(application.cluster.kill(job, KILLED[fault]))
        application.cluster(*SENT[fault], job)
    except (AssertionError, ProcessLookupError):
        return False
    return True


@contextmanager
def attentive(cluster: SlurmCluster) -> Iterator[None]:
    """SLURM looks at what its nodes really run every few seconds; by itself it does so every few minutes."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            cluster("scontrol", "reconfigure")

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()


def in_order_of_seeds(application: SamViT) -> list[Path]:
    return sorted(application.directories(), key=lambda path: json.loads((path / "run.json").read_text())["seed"])


def disturb(application: SamViT, process: subprocess.Popen[str]) -> list[tuple[float, str, str, int]]:
    """Seconds, job, fault and steps trained by all runs until then, for each of the faults."""
    chance, began, kills = random.Random(SEED), time.monotonic(), []
    while len(kills) < KILLS:
        assert process.poll() is None, f"the sweep was over after {len(kills)} faults"
        assert time.monotonic() < began + 2 * PATIENCE_S
        time.sleep(chance.expovariate(1 / MEAN_PAUSE_S))
        shown = application.cluster("squeue", "-h", "-t", "R", "-o", "%i", "-j", *application.arrays())
        fault = chance.choice([*KILLED, *SENT])
        running = sorted(shown.split())
        if running and hit(application, job := chance.choice(running), fault):
            steps = sum(path.stat().st_size for path in application.outputs.rglob("begun"))
            kills.append((time.monotonic() - began, job, fault, steps))
    return kills


def test_twenty_random_faults_change_nothing(slurm_cluster, tracking_server, tmp_path_factory):
    common = ("hydra/sweeper=basic", f"max_steps={STEPS}", f"tracking.uri={tracking_server.uri}")
    sweep = (*common, f"seed=range(0,{RUNS})", "slurm.array_parallelism=3")
    disturbed, undisturbed = (SamViT(slurm_cluster, tmp_path_factory.mktemp(name)) for name in ("hit", "calm"))
    process = disturbed.start(*sweep, "+callbacks.gate.pause_s=0.1", f"slurm.max_crashes={KILLS}")
    disturbed.wait_for(process, disturbed.directories, "the first run")
    with attentive(slurm_cluster):
        kills = disturb(disturbed, process)
        out, error = disturbed.output(process)
    assert process.returncode == 0, out + error + disturbed.logs()
    calm = undisturbed.run(*sweep)
    assert calm.returncode == 0, calm.stdout + calm.stderr

    runs = []
    for path, other in zip(in_order_of_seeds(disturbed), in_order_of_seeds(undisturbed), strict=True):
        finished, reference = Finished(path, tracking_server.database), Finished(other, tracking_server.database)
        finished.assert_logged_once(STEPS)
        assert finished.in_mlflow() == reference.in_mlflow()
        assert finished.final() == reference.final()
        runs.append((finished.record["seed"], finished.record["attempt"], (path / "begun").stat().st_size - STEPS))
    assert len(runs) == RUNS
    assert list(disturbed.outputs.rglob("*.tmp")) == []
    for path in disturbed.outputs.rglob("*.json"):
        json.loads(path.read_text())
    report = table(kills, runs)
    print(report)
    if "CURVATURE_SOAK" in os.environ:
        Path(os.environ["CURVATURE_SOAK"]).write_text(report)


def table(kills: list[tuple[float, str, str, int]], runs: list[tuple[int, int, int]]) -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    lines = [
        f"# {KILLS} random faults over one sweep",
        "",
        f"`pytest --soak tests/cluster/test_random_kills.py` at commit {commit.strip()}, random seed {SEED}: "
        f"{RUNS} runs of sam_vit with {STEPS} steps, three at a time on the two nodes of `slurm/local-cluster`. "
        "After the faults every run was FINISHED, its MLflow history and final metrics equal to those of an "
        "undisturbed run bit for bit, every step logged once, nothing half written.",
        "",
        "| fault | after s | array task | steps begun in all runs | what |",
        "|---|---|---|---|---|",
        *(
            f"| {number} | {seconds:.0f} | {job.partition('_')[2]} | {steps} | {fault} |"
            for number, (seconds, job, fault, steps) in enumerate(kills, 1)
        ),
        "",
        "| seed | starts that trained | steps repeated |",
        "|---|---|---|",
        *(f"| {seed} | {attempt} | {repeated} |" for seed, attempt, repeated in runs),
    ]
    return "\n".join(lines) + "\n"

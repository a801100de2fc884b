"""A policy-gradient run that is stopped and called again ends with the numbers of one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
OVERRIDES = [
    "experiment=policy_gradient",
    "optimizer=n_harpg",
    "max_steps=40",
    "data.trajectories=4",
    "data.evaluations=2",
    "module.records=40",
    "tracking=offline",
    "tracking.flush_seconds=0.02",
    "trainer.enable_progress_bar=false",
]


def start(outputs):
    command = [sys.executable, "run.py", *OVERRIDES, f"outputs={outputs}"]
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def record(outputs):
    (path,) = (outputs / "runs" / "policy_gradient").glob("*/run.json")
    return json.loads(path.read_text())


def test_interrupted_run_ends_with_the_same_numbers(tmp_path):
    straight = start(tmp_path / "straight")
    output, _ = straight.communicate(timeout=120)
    assert straight.returncode == 0, output
    stopped = start(tmp_path / "stopped")
    deadline = time.monotonic() + 90
    log = None
    while log is None or log.read_text().count('"return"') < 8:
        assert stopped.poll() is None, stopped.stdout.read()
        assert time.monotonic() < deadline
        log = next((tmp_path / "stopped" / "runs").rglob("metrics.jsonl"), None)
        time.sleep(0.005)
    stopped.send_signal(signal.SIGTERM)
    stopped.communicate(timeout=60)
    assert record(tmp_path / "stopped")["status"] == "KILLED"
    again = start(tmp_path / "stopped")
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0 and "resuming" in output, output
    assert record(tmp_path / "stopped")["metrics"] == record(tmp_path / "straight")["metrics"]

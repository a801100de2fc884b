"""A run that is interrupted anywhere, by any signal, ends with the very numbers of one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("CURVATURE_TEST_SEED") or time.time_ns() % 2**32)
"""Of the steps at which runs are interrupted; a failure prints it."""
OVERRIDES = [
    "experiment=sam_vit",
    "+debug=smoke",
    "max_steps=60",
    "trainer.val_check_interval=7",
    "trainer.log_every_n_steps=1",
    "checkpoint.every_n_steps=10",
    "model.drop_rate=0.1",
]


def start(outputs: Path, *extra: str) -> subprocess.Popen:
    command = [sys.executable, "run.py", *OVERRIDES, f"outputs={outputs}", *extra]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=120)
    return output


def run_directory(outputs: Path) -> Path:
    (directory,) = [path for path in (outputs / "runs" / "sam_vit").iterdir() if path.is_dir()]
    return directory


def history(outputs: Path) -> list[tuple[str, int, float]]:
    lines = (run_directory(outputs) / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [(r["key"], r["step"], r["value"]) for r in records if not r["key"].startswith("time/")]


def steps_logged(outputs: Path) -> int:
    files = list(outputs.glob("runs/sam_vit/*/metrics.jsonl"))
    return files[0].read_text().count('"train/loss"') if files else 0


def wait_for_step(outputs: Path, process: subprocess.Popen, step: int) -> None:
    deadline = time.monotonic() + 90
    while steps_logged(outputs) < step:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("undisturbed")
    process = start(outputs, "tracking.flush_seconds=0.02")
    output = finish(process)
    assert process.returncode == 0, output
    return history(outputs)


def random_steps(count: int) -> list[int]:
    """Steps to interrupt at, rising; other ones in every session unless CURVATURE_TEST_SEED is set."""
    draw = random.Random(SEED)
    return sorted(draw.sample(range(1, 46), count))


@pytest.mark.parametrize(
    ("number", "count"),
    [(signal.SIGTERM, 2), (signal.SIGINT, 2), (signal.SIGKILL, 3)],
    ids=["SIGTERM", "SIGINT", "SIGKILL"],
)
def test_interrupted_at_random_steps_ends_with_identical_metrics(tmp_path, undisturbed, number, count):
    steps = random_steps(count)
    print(f"CURVATURE_TEST_SEED={SEED}: {signal.Signals(number).name} at steps {steps}")
    for step in steps:
        process = start(tmp_path, "tracking.flush_seconds=0.02", "max_steps=60")
        wait_for_step(tmp_path, process, step)
        os.kill(process.pid, number)
        output = finish(process)
        assert process.returncode != 0, "the run was over before the signal arrived"
        status = json.loads((run_directory(tmp_path) / "run.json").read_text())["status"]
        assert status == ("RUNNING" if number == signal.SIGKILL else "KILLED"), output
    process = start(tmp_path)
    assert finish(process) and process.returncode == 0
    assert sorted(history(tmp_path)) == sorted(undisturbed)
    keys = [(key, step) for key, step, _ in history(tmp_path)]
    assert len(keys) == len(set(keys))


def test_damaged_last_checkpoint_falls_back_to_the_one_before(tmp_path, undisturbed):
    process = start(tmp_path, "tracking.flush_seconds=0.02")
    wait_for_step(tmp_path, process, 35)
    os.kill(process.pid, signal.SIGTERM)
    finish(process)
    last = run_directory(tmp_path) / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 0xFF
    last.write_bytes(content)
    process = start(tmp_path)
    output = finish(process)
    assert process.returncode == 0
    assert "is damaged; continuing from previous.ckpt" in output
    assert sorted(history(tmp_path)) == sorted(undisturbed)


def test_finished_run_is_recognised_and_force_starts_over(tmp_path):
    first = start(tmp_path, "max_steps=2")
    assert finish(first) and first.returncode == 0
    again = start(tmp_path, "max_steps=2")
    output = finish(again)
    assert "already finished" in output and "nothing was trained" in output
    forced = start(tmp_path, "max_steps=2", "force=true")
    assert "already finished" not in finish(forced) and forced.returncode == 0
    assert any("superseded" in path.name for path in (tmp_path / "runs" / "sam_vit").iterdir())


def test_second_process_with_the_same_fingerprint_does_not_train(tmp_path):
    first = start(tmp_path, "max_steps=2000")
    try:
        wait_for_step(tmp_path, first, 1)
        second = start(tmp_path, "max_steps=2000")
        output = finish(second)
        assert second.returncode == 1
        assert f"is being trained by process {first.pid} on " in output
    finally:
        first.kill()
        first.communicate()


def test_resumed_after_the_last_validation_in_float64(tmp_path):
    options = ("trainer.precision=64-true", "trainer.val_check_interval=40", "tracking.flush_seconds=0.02")
    options += ("callbacks.measures=null", "callbacks.step_time=null")
    reference = start(tmp_path / "reference", *options)
    output = finish(reference)
    assert reference.returncode == 0, output
    process = start(tmp_path / "resumed", *options)
    wait_for_step(tmp_path / "resumed", process, 43)
    os.kill(process.pid, signal.SIGTERM)
    finish(process)
    process = start(tmp_path / "resumed", *options)
    output = finish(process)
    assert process.returncode == 0, output
    first, second = (
        json.loads((run_directory(tmp_path / name) / "run.json").read_text()) for name in ("reference", "resumed")
    )
    assert second["attempt"] == 2
    assert "val/accuracy" in first["metrics"]
    metrics = [{k: v for k, v in run["metrics"].items() if not k.startswith("time/")} for run in (first, second)]
    assert metrics[0] == metrics[1]
    assert sorted(history(tmp_path / "reference")) == sorted(history(tmp_path / "resumed"))

"""kill -9 at random moments, of training and of the helper, ends with each metric in MLflow exactly once."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tracking_support import history, runs, wait_until

from curvature.tracking import deliver_all
from curvature.tracking.state import Intent
from curvature.tracking.wal import records

TRAINEE = Path(__file__).with_name("trainee.py")


def train(directory, uri, experiment, steps, pause=0.002):
    command = [sys.executable, str(TRAINEE), str(directory), uri, experiment, str(steps), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def completed(process):
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return json.loads(output)


def helper_of(process):
    found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True)
    pids = [int(line.split()[0]) for line in found.stdout.splitlines() if "curvature.tracking.courier" in line]
    return pids[0] if pids else None


def logged_steps(directory):
    return sum(record["key"] == "train/loss" for record in records(directory / "metrics.jsonl"))


def attempts(directory):
    intent = Intent.load(directory)
    return intent.attempt if intent else 0


def assert_exact(database, experiment, steps, names=("base-s0",), planned=None):
    """One run, FINISHED; every step of every metric once, in order, with the right value."""
    planned = planned or steps
    found = runs(database, experiment)
    assert [status for _, status in found] == ["FINISHED"] * len(names)
    for run_id, _ in found:
        assert history(database, run_id, "train/loss") == [(step, 1.0 / (step + 3)) for step in range(steps)]
        assert history(database, run_id, "val/accuracy") == [(step, step / planned) for step in range(4, steps, 5)]


def assert_log_in_order(directory, steps):
    logged = [record["step"] for record in records(directory / "metrics.jsonl") if record["key"] == "train/loss"]
    assert logged == list(range(steps))


@pytest.mark.parametrize("seed", [0, 1])
def test_training_killed_at_random_moments_resumes_without_gap_or_double(outputs, seed):
    chance = random.Random(seed)
    directory, uri = outputs / "runs" / "sam_vit" / "abc", f"sqlite:///{outputs}/mlflow.db"
    for attempt, target in enumerate(sorted(chance.sample(range(20, 550), 4)), start=1):
        process = train(directory, uri, "sam_vit", 600)
        wait_until(lambda attempt=attempt: attempts(directory) == attempt, 60)
        wait_until(lambda target=target: logged_steps(directory) >= target, 60)
        time.sleep(chance.random() * 0.3)
        process.kill()
        process.communicate()
    assert completed(train(directory, uri, "sam_vit", 600))["delivered"]
    assert_exact(outputs / "mlflow.db", "sam_vit", 600)
    assert_log_in_order(directory, 600)
    assert attempts(directory) == 5
    assert not list(directory.glob(".*.tmp"))


def test_training_may_be_killed_before_it_has_begun_to_log(outputs):
    directory, uri = outputs / "runs" / "sam_vit" / "abc", f"sqlite:///{outputs}/mlflow.db"
    for delay in (0.1, 0.3, 0.5, 0.8, 1.2):
        process = train(directory, uri, "sam_vit", 100)
        time.sleep(delay)
        process.kill()
        process.communicate()
    assert completed(train(directory, uri, "sam_vit", 100))["delivered"]
    assert_exact(outputs / "mlflow.db", "sam_vit", 100)


def test_the_helper_killed_at_random_moments_is_replaced_and_sends_nothing_twice(outputs, server):
    """Killing between the server's commit and the note of it is the case that sends a batch again."""
    chance = random.Random(2)
    directory = outputs / "runs" / "sam_vit" / "abc"
    process = train(directory, server.uri, "helper_killed", 100_000, pause=0.004)
    for _ in range(4):
        wait_until(lambda: helper_of(process) and (directory / "delivery.json").exists(), 30)
        time.sleep(chance.random() * 0.5)
        helper = helper_of(process)
        os.kill(helper, signal.SIGKILL)
        wait_until(lambda old=helper: helper_of(process) not in (None, old), 30)
        time.sleep(1.0)
    (directory / "enough").touch()
    assert completed(process)["delivered"]
    assert_exact(server.database, "helper_killed", logged_steps(directory), planned=100_000)


def test_a_killed_run_shows_as_killed_and_its_metrics_arrive_without_it(outputs):
    directory, database = outputs / "runs" / "sam_vit" / "abc", outputs / "mlflow.db"
    process = train(directory, f"sqlite:///{database}", "sam_vit", 100_000)
    wait_until(lambda: logged_steps(directory) > 200 and (directory / "delivery.json").exists(), 60)
    wait_until(lambda: "run_id" in (directory / "delivery.json").read_text(), 30)
    helper = helper_of(process)
    process.kill()
    process.communicate()
    wait_until(lambda: not Path(f"/proc/{helper}").exists(), 30)
    ((run_id, status),) = runs(database, "sam_vit")
    assert status == "KILLED"
    logged = logged_steps(directory)
    assert history(database, run_id, "train/loss") == [(step, 1.0 / (step + 3)) for step in range(logged)]


def test_training_and_helper_killed_together_are_delivered_by_the_next_who_looks(outputs):
    directory, database = outputs / "runs" / "sam_vit" / "abc", outputs / "mlflow.db"
    process = train(directory, f"sqlite:///{database}", "sam_vit", 100_000)
    wait_until(lambda: helper_of(process), 30)
    wait_until(lambda: logged_steps(directory) > 100, 60)
    helper = helper_of(process)
    os.kill(process.pid, signal.SIGSTOP)
    os.kill(helper, signal.SIGKILL)
    process.kill()
    process.communicate()
    wait_until(lambda: not Path(f"/proc/{helper}").exists(), 30)
    assert deliver_all(outputs, f"sqlite:///{database}") == []
    ((run_id, status),) = runs(database, "sam_vit")
    assert status == "KILLED"
    logged = logged_steps(directory)
    assert history(database, run_id, "train/loss") == [(step, 1.0 / (step + 3)) for step in range(logged)]
    assert deliver_all(outputs, f"sqlite:///{database}") == []


def test_processes_that_start_at_once_share_a_new_sqlite_store(outputs):
    uri = f"sqlite:///{outputs}/mlflow.db"
    names = ["a", "b", "c"]
    processes = [train(outputs / "runs" / "sam_vit" / name, uri, "sam_vit", 300) for name in names]
    assert all(completed(process)["delivered"] for process in processes)
    assert_exact(outputs / "mlflow.db", "sam_vit", 300, names)


OPEN_AT = """
import sys, time, mlflow.tracking
from curvature.tracking.store import client
time.sleep(max(0.0, float(sys.argv[2]) - time.time()))
client(sys.argv[1])
"""


def test_a_new_sqlite_store_can_be_opened_by_several_at_the_same_moment(tmp_path):
    moment = str(time.time() + 6)
    command = [sys.executable, "-c", OPEN_AT, f"sqlite:///{tmp_path}/mlflow.db", moment]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=60)[1] for process in processes] == [""] * 3
    assert [process.returncode for process in processes] == [0] * 3


def test_signals_of_the_terminal_and_of_slurm_do_not_stop_the_helper(outputs):
    directory, database = outputs / "runs" / "sam_vit" / "abc", outputs / "mlflow.db"
    process = train(directory, f"sqlite:///{database}", "sam_vit", 1000)
    wait_until(lambda: (directory / "delivery.json").exists(), 60)
    helper = helper_of(process)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGCONT):
        os.kill(helper, number)
    assert completed(process)["delivered"]
    assert_exact(database, "sam_vit", 1000)


OPEN = "import sys; from curvature.tracking import store; print(len(store.client(sys.argv[1]).search_experiments()))"


def test_a_store_whose_creator_was_killed_is_made_anew(tmp_path):
    database = tmp_path / "mlflow.db"
    command = [sys.executable, "-c", OPEN, f"sqlite:///{database}"]
    creator = subprocess.Popen(command)
    half = tmp_path / ".mlflow.db.new"
    wait_until(lambda: half.exists() and half.stat().st_size > 0, 120)
    creator.send_signal(signal.SIGKILL)
    creator.wait()
    assert half.exists() and not database.exists()
    again = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert again.stdout.strip() == "1", again.stderr
    assert database.exists() and not half.exists()

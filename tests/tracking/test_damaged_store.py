"""A damaged ``mlflow.db`` is left as it is: runs go on and keep their results, and a new store gets them later."""

import json
import sqlite3
import subprocess
import sys
import time

import pytest
from tracking_support import history, runs

from curvature.tracking import Tracker, default_uri, deliver_all
from curvature.tracking.query import StoreUnreachable, finished_runs
from curvature.tracking.wal import records

STEPS = 200


def track(outputs, name, timeout_s):
    tags = {"fingerprint": name, "arm": "base", "seed": "0"}
    directory = outputs / "runs" / "sam_vit" / name
    tracker = Tracker(directory, default_uri(outputs), "sam_vit", "base-s0", tags, flush_seconds=0.05)
    tracker.start()
    for step in range(STEPS):
        tracker.log_metrics({"train/loss": step / 7}, step)
    return tracker.finish("FINISHED", timeout_s=timeout_s)


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """Contents of a store with one run in it."""
    outputs = tmp_path_factory.mktemp("intact")
    assert track(outputs, "earlier", timeout_s=120)
    return (outputs / "mlflow.db").read_bytes()


def garbage(content):
    return b"no database " * (len(content) // 12)


def truncated(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize("damage", [garbage, truncated])
def test_a_run_keeps_its_results_and_a_new_store_gets_them(outputs, intact, damage, caplog):
    database, damaged = outputs / "mlflow.db", damage(intact)
    outputs.mkdir()
    database.write_bytes(damaged)
    begin = time.monotonic()
    assert track(outputs, "later", timeout_s=300) is False
    assert time.monotonic() - begin < 250, "nobody waits for a store that is damaged"
    assert f"{database} is damaged" in caplog.text
    directory = outputs / "runs" / "sam_vit" / "later"
    logged = [(record["step"], record["value"]) for record in records(directory / "metrics.jsonl")]
    assert logged == [(step, step / 7) for step in range(STEPS)]
    assert deliver_all(outputs) == [directory]
    with pytest.raises(StoreUnreachable, match=r"mlflow\.db is damaged"):
        finished_runs(default_uri(outputs), "sam_vit")
    assert database.read_bytes() == damaged

    database.rename(outputs / "damaged.db")
    deliver = "import sys; from curvature.tracking import deliver_all; sys.exit(len(deliver_all(sys.argv[1])))"
    subprocess.run([sys.executable, "-c", deliver, str(outputs)], check=True, timeout=300)
    ((run_id, status),) = runs(database, "sam_vit")
    assert status == "FINISHED"
    assert history(database, run_id, "train/loss") == [(step, step / 7) for step in range(STEPS)]


def test_the_command_line_finishes_and_says_what_is_wrong(command, tmp_path):
    database = tmp_path / "outputs" / "mlflow.db"
    database.parent.mkdir()
    database.write_bytes(garbage(b"x" * 20_000))
    small = ["experiment=sam_vit", "+debug=smoke", "callbacks.measures=null", "callbacks.step_time=null"]
    result = command("run.py", *small, "tracking.finish_seconds=300", timeout=250)
    assert result.returncode == 0, result.stderr
    assert "mlflow.db is damaged" in result.stderr + result.stdout
    assert "Traceback" not in result.stderr
    (record,) = (tmp_path / "outputs" / "runs" / "sam_vit").glob("*/run.json")
    found = json.loads(record.read_text())
    assert found["status"] == "FINISHED" and "test/accuracy" in found["metrics"]
    assert '"train/loss"' in record.with_name("metrics.jsonl").read_text()
    with sqlite3.connect(database) as connection, pytest.raises(sqlite3.DatabaseError):
        connection.execute("SELECT * FROM runs")

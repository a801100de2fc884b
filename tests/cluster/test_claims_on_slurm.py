"""The claims of sam_vit as a job array on two nodes, while the tracking server goes away for twenty seconds."""

import json
import time

import pytest
from slurm_harness import REAL, Finished, SamViT

STEPS = 40
OUTAGE_S = 20
ARGUMENTS = (f"experiments={REAL}", "scale=desk", f"max_steps={STEPS}", "callbacks.pace.seconds=0.1")


@pytest.fixture(scope="module")
def sweep(slurm_cluster, tracking_server, tmp_path_factory):
    """The application and what the first call printed."""
    application = SamViT(slurm_cluster, tmp_path_factory.mktemp("sweep"))
    arguments = (*ARGUMENTS, f"tracking.uri={tracking_server.uri}")
    process = application.start(*arguments)
    slurm_cluster.wait_until(lambda: application.begun("outputs") > STEPS, 120, "training")
    tracking_server.stop()
    time.sleep(OUTAGE_S)
    tracking_server.start()
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, out + error + application.logs()
    yield application, arguments, out
    application.cancel()


def test_eight_runs_finish_on_two_nodes_and_verdicts_are_printed(sweep, slurm_cluster):
    application, _, out = sweep
    assert "8 runs decide 2 claims, 8 of them remain to be run" in out
    assert "8 done, 0 failed" in out
    assert [record["status"] for record in application.records()] == ["FINISHED"] * 8
    assert {(r["arm"], r["seed"]) for r in application.records()} == {
        (arm, seed) for arm in ("vit-sam", "vit-base") for seed in range(4)
    }
    assert out.count("8 of 8 runs, seeds") == 2
    (array,) = application.arrays()
    shown = slurm_cluster("sacct", "-X", "-n", "-P", "-j", array, "-o", "State,NodeList").splitlines()
    assert len(shown) == 8
    assert set(shown) == {"COMPLETED|node1", "COMPLETED|node2"}


def test_a_repeat_submits_nothing_and_judges_the_same(sweep):
    application, arguments, out = sweep
    again = application.run(*arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "8 runs decide 2 claims, 0 of them remain to be run" in again.stdout
    assert "submitted" not in again.stdout
    assert len(application.arrays()) == 1
    assert again.stdout.partition("SAM on digits")[2] == out.partition("SAM on digits")[2] != ""


def test_the_outage_lost_and_doubled_nothing(sweep, tracking_server):
    application, _, _ = sweep
    for path in application.directories():
        Finished(path, tracking_server.database).assert_logged_once(STEPS)
    noticed = [log for log in application.outputs.glob("slurm/*/*_log.*") if "training goes on" in log.read_text()]
    assert noticed, "no run was logging during the outage"


def test_run_directories_agree_with_the_jobs(sweep):
    application, _, _ = sweep
    (index,) = application.outputs.glob("slurm/*/jobs.json")
    labels = {row["label"] for row in json.loads(index.read_text())}
    assert labels == {f"{record['arm']}-s{record['seed']}" for record in application.records()}
    assert list(application.outputs.rglob("*.tmp")) == []

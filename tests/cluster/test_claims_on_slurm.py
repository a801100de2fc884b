"""The claims of sam_vit as a job array on two nodes, while the tracking server goes away for twenty seconds."""

import json
import time
from pathlib import Path

import pytest
from slurm_harness import REAL, Finished, SamViT

STEPS = 40
BEFORE, DURING = 15, 25
"""Steps at which the first runs wait for the outage, and in it."""
OUTAGE_S = 20
SIZE = (f"max_steps={STEPS}", f"callbacks.gate.steps=[{BEFORE},{DURING}]")
# Two jobs fill a node, so four run at a time.
ARGUMENTS = (f"experiments={REAL}", "scale=desk", *SIZE, "slurm.cpus_per_task=2")


@pytest.fixture(scope="module")
def sweep(slurm_cluster, tracking_server, tmp_path_factory):
    """The application and what the first call printed."""
    application = SamViT(slurm_cluster, tmp_path_factory.mktemp("sweep"))
    arguments = (*ARGUMENTS, f"tracking.uri={tracking_server.uri}")
    process = application.start(*arguments)

    def held(step: int) -> list[Path]:
        return list(application.outputs.rglob(f"held-{step}"))

    application.wait_for(process, lambda: len(held(BEFORE)) == 4, "both nodes are full of runs that train")
    tracking_server.stop()
    stopped = time.monotonic()
    for path in held(BEFORE):
        path.with_name(f"{path.name}.go").touch()
    application.wait_for(process, lambda: "training goes on" in application.logs(), "the outage is noticed")
    application.open()
    time.sleep(max(0.0, stopped + OUTAGE_S - time.monotonic()))
    tracking_server.start()
    out, error = application.output(process)
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


def test_run_directories_agree_with_the_jobs(sweep):
    application, _, _ = sweep
    (index,) = application.outputs.glob("slurm/*/jobs.json")
    jobs = {row["label"]: row["job"] for row in json.loads(index.read_text())}
    assert jobs.keys() == {f"{record['arm']}-s{record['seed']}" for record in application.records()}
    for path in application.directories():
        record = json.loads((path / "run.json").read_text())
        job = jobs[f"{record['arm']}-s{record['seed']}"]
        assert {log.name for log in (path / "slurm").iterdir()} == {f"{job}_0_log.{end}" for end in ("out", "err")}
        assert f"{record['arm']}, seed {record['seed']}" in (path / "slurm" / f"{job}_0_log.out").read_text()
    assert list(application.outputs.rglob("*.tmp")) == []

"""Jobs that are told to stop, killed, preempted or lose their node, on a real cluster: they go on where they were."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_harness import TOOL, Demo, SlurmCluster, start_cluster, stop_cluster

STEPS = 80
FAULTS = ("none", "usr2", "usr2_twice", "requeue", "kill", "term")


def kill_task(cluster: SlurmCluster, job: str) -> None:
    (pid,) = (pid for pid, name in cluster.processes_of(job).items() if name.startswith("python"))
    os.kill(pid, signal.SIGKILL)


def steps_of(directory: Path) -> list[int]:
    path = directory / "steps.txt"
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module", autouse=True)
def time_limited(slurm_cluster, tmp_path_factory):
    """A run that meets its time limit again and again; it takes SLURM a minute, so it goes on in the background."""
    demo = Demo(slurm_cluster, tmp_path_factory.mktemp("limit"))
    # SLURM looks at time limits every 30 s: a warning 59 s ahead of a limit of 60 s comes at the first look.
    limits = ("slurm.timeout_min=1", "slurm.signal_delay_s=59", "slurm.max_num_timeout=1", "slurm.cpus_per_task=1")
    yield demo, demo.start("steps=100000", *limits)
    demo.cancel()


@pytest.fixture(scope="module", autouse=True)
def lost_node(tmp_path_factory):
    """Two runs on a node that dies: all processes of one die with it, the other's run on unseen. In the background."""
    cluster = start_cluster(tmp_path_factory.mktemp("lost"), slurmd_timeout_s=8)
    demo = Demo(cluster, tmp_path_factory.mktemp("node"))
    process = demo.start("variant=lost,orphan", "steps=200", "step_s=0.1")
    cluster.wait_until(lambda: len(demo.records()) == 2, what="both runs")
    directories = [demo.directory_of("lost"), demo.directory_of("orphan")]
    cluster.wait_until(lambda: all(len(steps_of(directory)) > 11 for directory in directories), what="a few steps")
    (array,) = demo.arrays()
    assert {cluster.details(f"{array}_{i}")["NodeList"] for i in (0, 1)} == {"node1"}
    pids = cluster.processes_of(f"{array}_0")
    assert len(pids) >= 5
    os.kill(cluster.status()["daemons"]["node1"]["pid"], signal.SIGKILL)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    yield demo, process
    stop_cluster(cluster)


@pytest.fixture(scope="module")
def disturbed(slurm_cluster, tmp_path_factory):
    """One sweep, each of its runs hit by another fault after a few steps; done when all runs have finished."""
    demo = Demo(slurm_cluster, tmp_path_factory.mktemp("disturbed"))
    process = demo.start(
        f"variant={','.join(FAULTS)}", f"steps={STEPS}", "step_s=0.1", "save_s=1", "slurm.cpus_per_task=1"
    )
    slurm_cluster.wait_until(lambda: len(demo.records()) == len(FAULTS), what="all runs to start")
    directories = {fault: demo.directory_of(fault) for fault in FAULTS}
    slurm_cluster.wait_until(lambda: all(len(steps_of(d)) > 11 for d in directories.values()), what="a few steps")
    (index,) = demo.outputs.glob("slurm/*/jobs.json")
    jobs = {fault: row["job"] for fault, row in zip(FAULTS, json.loads(index.read_text()), strict=True)}
    slurm_cluster("scancel", "--signal=USR2", jobs["usr2"], jobs["usr2_twice"])
    kill_task(slurm_cluster, jobs["kill"])
    slurm_cluster("scontrol", "requeue", jobs["requeue"])
    slurm_cluster("scancel", "--signal=TERM", jobs["term"])
    time.sleep(0.4)
    # In the middle of the save.
    slurm_cluster("scancel", "--signal=USR2", jobs["usr2_twice"])
    slurm_cluster("scancel", "--signal=TERM", jobs["usr2_twice"])
    out, error = process.communicate(timeout=90)
    assert process.returncode == 0, out + error + demo.logs()
    yield demo, out
    demo.cancel()


@pytest.mark.parametrize("fault", FAULTS)
def test_run_continues_where_it_was(disturbed, fault):
    demo, _ = disturbed
    directory = demo.directory_of(fault)
    record = json.loads((directory / "run.json").read_text())
    assert record["status"] == "FINISHED"
    starts = [int(line.split()[0]) for line in (directory / "attempts.txt").read_text().splitlines()]
    assert record["attempt"] == len(starts) == (1 if fault == "none" else 2)
    steps = steps_of(directory)
    if fault == "kill":
        # Nothing could be saved any more: it goes on from the last periodic checkpoint.
        assert starts[1] >= 10
        assert starts[1] % 5 == 0
        first, second = steps[: steps.index(starts[1], starts[1] + 1)], steps[-(STEPS - starts[1]) :]
        assert first == list(range(len(first)))
        assert second == list(range(starts[1], STEPS))
    else:
        assert steps == list(range(STEPS))
        assert fault == "none" or starts[1] > 11


def test_nothing_is_half_written(disturbed):
    demo, out = disturbed
    assert f"{len(FAULTS)} done, 0 failed" in out
    assert list(demo.outputs.rglob("*tmp*")) == []
    for path in demo.outputs.rglob("*.json"):
        json.loads(path.read_text())


def test_signal_reaches_every_process_of_a_job(demo, slurm_cluster):
    (job,) = demo.submit("steps=120", "slurm.nodes=2")
    follower = demo.outputs / "rank1"
    slurm_cluster.wait_until(lambda: len(steps_of(follower)) > 5 and demo.records(), what="both processes")
    slurm_cluster("scancel", "--signal=USR2", job)
    slurm_cluster.wait_until(lambda: demo.records()[0]["status"] == "FINISHED", 60, "the end")
    slurm_cluster.wait_until(lambda: len(steps_of(follower)) >= 120, what="the other process")
    assert demo.steps() == [list(range(120))]
    assert steps_of(follower) == list(range(120))
    assert len((follower / "attempts.txt").read_text().splitlines()) == 2


def test_plain_sbatch_template(slurm_cluster, tmp_path):
    app = Path(__file__).parent / "demo_app"
    shutil.copy(app / "app.py", tmp_path / "run.py")
    shutil.copytree(app / "conf", tmp_path / "conf")
    (tmp_path / "outputs").mkdir()
    template = TOOL.parents[1] / "run.sbatch"
    overrides = [f"hydra.searchpath=[file://{TOOL.parents[2] / 'conf'}]", "outputs=outputs", "steps=60"]
    environment = slurm_cluster.environment | {"PYTHON": sys.executable}
    command = ["sbatch", "--parsable", f"--chdir={tmp_path}", "--array=3-4", str(template), *overrides]
    array = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    def read(key):
        return sorted(str(json.loads(p.read_text())[key]) for p in (tmp_path / "outputs").glob("runs/demo/*/run.json"))

    slurm_cluster.wait_until(lambda: read("seed") == ["3", "4"], what="both runs")
    slurm_cluster("scancel", "--signal=TERM", f"{array}_3")
    slurm_cluster.wait_until(lambda: read("status") == ["FINISHED"] * 2, 60, "both to finish")
    assert read("attempt") == ["1", "2"]
    records = (tmp_path / "outputs").glob("runs/demo/*/run.json")
    assert all(steps_of(path.parent) == list(range(60)) for path in records)


def test_time_limit_requeues_until_the_agreed_number(time_limited):
    demo, process = time_limited
    out, _ = process.communicate(timeout=150)
    assert process.returncode == 1
    assert "it used up its time limit slurm.max_num_timeout + 1 times" in out, out + demo.logs()
    (record,) = demo.records()
    assert record["status"] == "KILLED"
    assert record["reason"].startswith("time limit reached 2 times (slurm.max_num_timeout=1)")
    assert record["attempt"] == 2
    (steps,) = demo.steps()
    assert steps == list(range(len(steps)))
    assert "Requeued job" in demo.logs()


def test_preempted_job_makes_room_and_comes_back(demo, slurm_cluster):
    (job,) = demo.submit("steps=150", "slurm.partition=preemptible")
    slurm_cluster.wait_until(lambda: demo.steps() and len(demo.steps()[0]) > 5, what="the first steps")
    urgent = slurm_cluster.sbatch("-p", "main", "-N2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 2")
    slurm_cluster.wait_until(lambda: slurm_cluster.accounting(urgent) == {urgent: "COMPLETED"}, 60, "the urgent job")
    assert demo.records()[0]["status"] == "KILLED"
    slurm_cluster.wait_until(lambda: demo.records()[0]["status"] == "FINISHED", 60, "the preempted job")
    assert demo.steps() == [list(range(150))]
    assert slurm_cluster.details(job)["Restarts"] == "1"


def test_lost_node(lost_node):
    demo, process = lost_node
    out, error = process.communicate(timeout=150)
    assert process.returncode == 0, out + error + demo.logs()
    assert [record["status"] for record in demo.records()] == ["FINISHED"] * 2
    assert steps_of(demo.directory_of("orphan")) == list(range(200))
    steps = steps_of(demo.directory_of("lost"))
    assert sorted(set(steps)) == list(range(200))
    assert len(steps) < 200 + 10

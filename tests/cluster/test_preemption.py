"""Jobs that are told to stop, killed or preempted on a real cluster: they go on where they were."""

import json
import shutil
from pathlib import Path

import pytest
from slurm_harness import TOOL, Demo

STEPS = 40
HELD = 22
FAULTS = ("none", "usr2", "usr2_twice", "requeue", "kill", "term")


def steps_of(directory: Path) -> list[int]:
    path = directory / "steps.txt"
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def disturbed(slurm_cluster, tmp_path_factory):
    """One sweep, each of its runs hit by another fault where it is held; done when all runs have finished."""
    demo = Demo(slurm_cluster, tmp_path_factory.mktemp("disturbed"))
    sizes = (f"steps={STEPS}", f"hold={HELD}", "save_s=1", "slurm.cpus_per_task=1")
    process = demo.start(f"variant={','.join(FAULTS)}", *sizes)
    slurm_cluster.wait_until(lambda: len(demo.held()) == len(FAULTS), "all runs to be held")
    (index,) = demo.outputs.glob("slurm/*/jobs.json")
    jobs = {fault: row["job"] for fault, row in zip(FAULTS, json.loads(index.read_text()), strict=True)}
    slurm_cluster("scancel", "--signal=USR2", jobs["usr2"], jobs["usr2_twice"])
    saving = demo.directory_of("usr2_twice") / "saving"
    slurm_cluster.wait_until(saving.exists, "the save")
    slurm_cluster("scancel", "--signal=USR2", jobs["usr2_twice"])
    slurm_cluster("scancel", "--signal=TERM", jobs["usr2_twice"])
    assert len(slurm_cluster.kill(jobs["kill"], "python")) == 1
    slurm_cluster("scontrol", "requeue", jobs["requeue"])
    slurm_cluster("scancel", "--signal=TERM", jobs["term"])
    stopped = [demo.directory_of(fault) / "saving" for fault in ("usr2", "requeue", "term")]
    slurm_cluster.wait_until(lambda: all(path.exists() for path in stopped), "the signals to arrive")
    demo.open()
    out, error = demo.output(process)
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
    # Nothing could be saved any more when the process was killed: it goes on from the last periodic checkpoint.
    again = {"none": [], "kill": [20]}.get(fault, [HELD])
    assert starts == [0, *again]
    assert record["attempt"] == len(starts)
    assert steps_of(directory) == [*range(HELD), *range((again or [HELD])[0], STEPS)]


def test_nothing_is_half_written(disturbed):
    demo, out = disturbed
    assert f"{len(FAULTS)} done, 0 failed" in out
    assert list(demo.outputs.rglob("*tmp*")) == []
    for path in demo.outputs.rglob("*.json"):
        json.loads(path.read_text())


def test_signal_reaches_every_process_of_a_job(demo, slurm_cluster):
    (job,) = demo.submit(f"steps={STEPS}", f"hold={HELD}", "slurm.nodes=2")
    follower = demo.outputs / "rank1"
    slurm_cluster.wait_until(lambda: len(demo.held()) == 2, "both processes to be held")
    slurm_cluster("scancel", "--signal=USR2", job)
    slurm_cluster.wait_until(lambda: demo.records()[0]["status"] == "FINISHED", "the end")
    slurm_cluster.wait_until(lambda: len(steps_of(follower)) >= STEPS, "the other process")
    assert demo.steps() == [list(range(STEPS))]
    assert steps_of(follower) == list(range(STEPS))
    assert len((follower / "attempts.txt").read_text().splitlines()) == 2


def test_plain_sbatch_template(slurm_cluster, tmp_path):
    app = Path(__file__).parent / "demo_app"
    shutil.copy(app / "app.py", tmp_path / "run.py")
    shutil.copytree(app / "conf", tmp_path / "conf")
    (tmp_path / "outputs").mkdir()
    template = TOOL.parents[1] / "run.sbatch"
    searched = f"hydra.searchpath=[file://{TOOL.parents[2] / 'conf'}]"
    overrides = [searched, "outputs=outputs", f"steps={STEPS}", f"hold={HELD}"]
    array = slurm_cluster.sbatch(f"--chdir={tmp_path}", "--array=3-4", template, *overrides)
    outputs = tmp_path / "outputs"

    def read(key):
        return sorted(str(json.loads(p.read_text())[key]) for p in outputs.glob("runs/demo/*/run.json"))

    slurm_cluster.wait_until(lambda: len(list(outputs.rglob("held"))) == 2, "both runs to be held")
    assert read("seed") == ["3", "4"]
    slurm_cluster("scancel", "--signal=TERM", f"{array}_3")
    slurm_cluster.wait_until(lambda: list(outputs.rglob("saving")), "the signal to arrive")
    (outputs / "open").touch()
    slurm_cluster.wait_until(lambda: read("status") == ["FINISHED"] * 2, "both to finish")
    assert read("attempt") == ["1", "2"]
    assert all(steps_of(path.parent) == list(range(STEPS)) for path in outputs.glob("runs/demo/*/run.json"))


def test_preempted_job_makes_room_and_comes_back(demo, slurm_cluster):
    (job,) = demo.submit(f"steps={STEPS}", f"hold={HELD}", "slurm.partition=preemptible")
    slurm_cluster.wait_until(demo.held, "the run to be held")
    urgent = slurm_cluster.sbatch("-p", "main", "-N2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 2")
    slurm_cluster.wait_until(lambda: slurm_cluster.accounting(urgent) == {urgent: "COMPLETED"}, "the urgent job")
    slurm_cluster.wait_until(lambda: demo.records()[0]["status"] == "FINISHED", "the preempted job")
    assert demo.steps() == [list(range(STEPS))]
    assert slurm_cluster.details(job)["Restarts"] == "1"

"""sam_vit under every fault that a cluster has: it ends with the very numbers of an undisturbed run.

A run is held at a step until its fault has come, so nothing depends on how fast the machine is.
"""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from slurm_harness import Finished, SamViT, start_cluster, stop_cluster

STEPS = 40
SAVED = 20
"""Step of the only periodic checkpoint."""
FAULTS = {5: "requeue", 11: "signal", 25: "kill task", 33: "kill step"}
LATE = 25


def of(application: SamViT, variant: str, server) -> Finished:
    (path,) = application.directories(application.directory / variant)
    return Finished(path, server.database)


def gates(*steps: int) -> str:
    return f"callbacks.gate.steps={list(steps)}"


@pytest.fixture(scope="module")
def common(tracking_server) -> tuple[str, ...]:
    return (f"max_steps={STEPS}", f"tracking.uri={tracking_server.uri}")


@pytest.fixture(scope="module", autouse=True)
def time_limited(slurm_cluster, common, tmp_path_factory):
    """A run that meets its time limit twice, once more than allowed. It takes SLURM minutes: in the background.

    SLURM looks at limits every 30 s; the second or third look brings the signal, and leaves minutes to save.
    """
    application = SamViT(slurm_cluster, tmp_path_factory.mktemp("limit"))
    limit = ("slurm.timeout_min=4", "slurm.signal_delay_s=195", "slurm.max_num_timeout=1")
    arguments = (*common, *limit, gates(10, LATE))
    yield application, arguments, application.launch(["limit"], *arguments)
    application.cancel()


@pytest.fixture(scope="module", autouse=True)
def on_a_lost_node(time_limited, common, tmp_path_factory):
    """A run on a node that SLURM loses; its processes live on unseen. In the background, with its cluster."""
    scratch, outputs = tmp_path_factory.mktemp("lostnode"), tmp_path_factory.mktemp("lost")
    clusters = []

    def lose():
        clusters.append(start_cluster(scratch, SlurmdTimeout=15))
        application = SamViT(clusters[0], outputs)
        process = application.launch(["lost"], *common, gates(LATE))
        application.wait_for(process, lambda: application.holds("lost", LATE), "the run is held")
        assert clusters[0].details(application.job_of("lost"))["NodeList"] == "node1"
        clusters[0].lose_node("node1")
        return application, process

    with ThreadPoolExecutor(1) as background:
        yield background.submit(lose)
    for cluster in clusters:
        stop_cluster(cluster)


@pytest.fixture(scope="module")
def disturbed(slurm_cluster, common, tmp_path_factory):
    """The application after one run has gone through all of ``FAULTS``, and another through none."""
    application = SamViT(slurm_cluster, tmp_path_factory.mktemp("faults"))
    # The last task of an array has the array's id: what is done to it must not be done to the other, which waits.
    process = application.launch(["none", "all"], *common, gates(*FAULTS))
    for step, fault in FAULTS.items():
        application.wait_for(process, lambda step=step: application.holds("all", step), f"the run is held at {step}")
        job = application.job_of("all")
        if fault == "requeue":
            slurm_cluster("scontrol", "requeue", job)
        elif fault == "signal":
            slurm_cluster("scancel", "--signal=USR2", job)
        elif fault == "kill task":
            os.kill(slurm_cluster.task(job), signal.SIGKILL)
        else:
            application.open("none")
            assert len(slurm_cluster.kill(job, "slurmstepd")) == 2
            # What they leave behind lives on; the restarted job waits for it.
            application.open("all")
            slurm_cluster.notice_lost_steps(job)
    out, error = application.output(process)
    assert process.returncode == 0, out + error + application.logs()
    yield application
    application.cancel()


@pytest.fixture(scope="module")
def undisturbed(disturbed, tracking_server) -> Finished:
    finished = of(disturbed, "none", tracking_server)
    finished.assert_logged_once(STEPS)
    assert finished.record["attempt"] == 1
    return finished


def assert_equal_bit_for_bit(finished: Finished, undisturbed: Finished) -> None:
    finished.assert_logged_once(STEPS)
    assert finished.in_mlflow() == undisturbed.in_mlflow()
    assert finished.final() == undisturbed.final()


def test_requeued_signalled_and_killed_run_equals_the_undisturbed_bit_for_bit(disturbed, undisturbed, tracking_server):
    finished = of(disturbed, "all", tracking_server)
    assert_equal_bit_for_bit(finished, undisturbed)
    # A run that was told to stop repeats nothing. After kill -9 it goes on from the last checkpoint.
    killed = 25 - SAVED + 1
    outcomes = {"its step lived on": (4, killed), "its step died": (5, killed + 33 - SAVED + 1)}
    assert (finished.record["attempt"], disturbed.repeated("all", STEPS)) in outcomes.values()


def test_run_of_a_lost_node_equals_the_undisturbed_bit_for_bit(on_a_lost_node, undisturbed, tracking_server):
    application, process = on_a_lost_node.result()
    cluster, job = application.cluster, application.job_of("lost")
    application.wait_for(process, lambda: "; waiting" in application.logs(), "the restarted job finds the other alive")
    assert cluster.details(job)["NodeList"] == "node2"
    # The restarted one has no run directory open yet; whoever holds the lock is the lost one.
    (holder,) = application.directory.glob("lost/runs/sam_vit/*.holder")
    os.kill(int(holder.read_text().split()[1]), signal.SIGKILL)
    out, error = application.output(process)
    assert process.returncode == 0, out + error + application.logs()
    finished = of(application, "lost", tracking_server)
    assert_equal_bit_for_bit(finished, undisturbed)
    assert (finished.record["attempt"], application.repeated("lost", STEPS)) == (2, LATE - SAVED + 1)


def test_time_limit_requeues_until_the_agreed_number(time_limited, undisturbed, tracking_server):
    application, arguments, process = time_limited
    out, error = application.output(process)
    assert process.returncode == 1, out + error
    assert "it used up its time limit slurm.max_num_timeout + 1 times" in out, out + application.logs()
    stopped = of(application, "limit", tracking_server)
    assert stopped.record["status"] == "KILLED"
    assert stopped.record["reason"].startswith("time limit reached 2 times (slurm.max_num_timeout=1)")
    assert stopped.record["attempt"] >= 2
    assert stopped.run_ids() == [(stopped.record["mlflow_run_id"], "KILLED")]
    # On a slow machine the signals come before the run has got to its gates.
    trained = [step for key, step, _ in stopped.in_mlflow() if key == "train/loss"]
    assert trained == list(range(1, len(trained) + 1))
    assert f"after step {len(trained)};" in application.logs()
    assert "Requeued job" in application.logs()

    again = application.launch(["limit"], *arguments, "slurm.max_num_timeout=9")
    out, error = application.output(again)
    assert again.returncode == 0, out + error + application.logs()
    assert_equal_bit_for_bit(of(application, "limit", tracking_server), undisturbed)
    assert application.repeated("limit", STEPS) == 0


def test_nothing_is_half_written(disturbed, on_a_lost_node, time_limited):
    for application in (disturbed, on_a_lost_node.result()[0], time_limited[0]):
        assert list(application.directory.rglob("*.tmp")) == []
        for path in application.directory.rglob("*.json"):
            json.loads(path.read_text())

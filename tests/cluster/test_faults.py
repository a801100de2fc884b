"""sam_vit under every fault that a cluster has: it ends with the very numbers of an undisturbed run.

Ten jobs at once with time limits of SLURM's own: more than two cores carry beside other tests, so run it alone with
``pytest --soak tests/cluster/test_faults.py``.
"""

import os
import signal

import pytest
from slurm_harness import Finished, SamViT, start_cluster, stop_cluster

pytestmark = pytest.mark.soak

STEPS = 150
EARLY = 30
FAULTS = ("requeue", "signal", "kill_task", "kill_step")
DISTRIBUTED = (
    # The masks of two processes could not be those of one.
    "model.drop_rate=0.0",
    "module.m=25",
    "data.batch_size=50",
    "trainer.precision=64-true",
    # The limit of the smoke test counts batches of each process.
    "trainer.limit_test_batches=null",
    "slurm.nodes=2",
    "trainer.num_nodes=2",
    "trainer.strategy=ddp",
)
TOLERANCE = 1e-9
"""Relative; in float64 two processes add up the same gradients in another order."""


@pytest.fixture(scope="module")
def started(slurm_cluster, tracking_server, tmp_path_factory):
    """All launches at once, so that they share the waiting."""
    application = SamViT(slurm_cluster, tmp_path_factory.mktemp("faults"))
    common = (f"max_steps={STEPS}", f"tracking.uri={tracking_server.uri}")
    processes = [
        application.launch(["none", *FAULTS], *common, "callbacks.pace.seconds=0.06"),
        application.launch(["two_nodes", "two_nodes_signal"], *common, "callbacks.pace.seconds=0.06", *DISTRIBUTED),
    ]
    yield application, common, processes
    application.cancel()


@pytest.fixture(scope="module", autouse=True)
def time_limited(slurm_cluster, tracking_server, tmp_path_factory):
    """The same run with a limit of one minute. SLURM looks at limits every 30 s; its first look brings the signal."""
    application = SamViT(slurm_cluster, tmp_path_factory.mktemp("limit"))
    options = ("callbacks.pace.seconds=0.2", "slurm.timeout_min=1", "slurm.signal_delay_s=59")
    common = (f"max_steps={STEPS}", f"tracking.uri={tracking_server.uri}")
    yield application, application.launch(["time_limit"], *common, *options)
    application.cancel()


@pytest.fixture(scope="module")
def lost_node(tracking_server, tmp_path_factory):
    """The same run on a cluster of its own, one of whose nodes dies with everything on it."""
    cluster = start_cluster(tmp_path_factory.mktemp("lostnode"), slurmd_timeout_s=8)
    application = SamViT(cluster, tmp_path_factory.mktemp("lost"))
    options = (f"max_steps={STEPS}", f"tracking.uri={tracking_server.uri}", "callbacks.pace.seconds=0.06")
    process = application.launch(["node"], *options)
    yield application, process
    stop_cluster(cluster)


@pytest.fixture(scope="module")
def ended(started, lost_node, slurm_cluster):
    """The application, after each run has met its fault and all have ended."""
    application, _, processes = started
    other, process = lost_node
    waiting = dict.fromkeys((*FAULTS, "two_nodes_signal"), application) | {"node": other}

    def all_are_hit() -> bool:
        for variant, owner in list(waiting.items()):
            if owner.begun(variant) > EARLY:
                hit(owner, variant)
                del waiting[variant]
        return not waiting

    slurm_cluster.wait_until(all_are_hit, 200, "training")
    for running in (*processes, process):
        out, error = running.communicate(timeout=240)
        assert running.returncode == 0, out + error + application.logs() + other.logs()
    yield application, other


def hit(application: SamViT, variant: str) -> None:
    cluster, job = application.cluster, application.job_of(variant)
    assert cluster.details(job)["JobState"] == "RUNNING"
    if variant == "requeue":
        cluster("scontrol", "requeue", job)
    elif variant.endswith("signal"):
        cluster("scancel", "--signal=USR2", job)
    else:
        wanted = {"kill_task": "python", "kill_step": "slurmstepd", "node": ""}[variant]
        doomed = [pid for pid, name in cluster.processes_of(job).items() if name.startswith(wanted)]
        if variant == "node":
            assert cluster.details(job)["NodeList"] == "node1"
            doomed.insert(0, cluster.status()["daemons"]["node1"]["pid"])
        assert len(doomed) >= {"kill_task": 1, "kill_step": 2, "node": 6}[variant]
        for pid in doomed:
            os.kill(pid, signal.SIGKILL)


def of(application: SamViT, variant: str, server) -> Finished:
    (path,) = application.directories(application.directory / variant)
    return Finished(path, server.database)


@pytest.fixture(scope="module")
def undisturbed(ended, tracking_server) -> Finished:
    finished = of(ended[0], "none", tracking_server)
    finished.assert_logged_once(STEPS)
    assert finished.record["attempt"] == 1
    return finished


@pytest.mark.parametrize("variant", [*FAULTS, "node"])
def test_the_disturbed_run_equals_the_undisturbed_bit_for_bit(ended, undisturbed, tracking_server, variant):
    application = ended[variant == "node"]
    finished = of(application, variant, tracking_server)
    finished.assert_logged_once(STEPS)
    # What a slurmstepd leaves behind may live on and finish; the restarted job then waits for it.
    assert finished.record["attempt"] >= (1 if variant == "kill_step" else 2)
    assert finished.in_mlflow() == undisturbed.in_mlflow()
    assert finished.final() == undisturbed.final()
    repeated = application.begun(variant) - STEPS
    if variant in ("requeue", "signal"):
        # It was saved at the batch at which it was told to stop: that one began twice and nothing else did.
        assert repeated <= finished.record["attempt"] - 1
    else:
        assert repeated <= 20 + 1


def test_the_time_limited_run_equals_the_undisturbed_bit_for_bit(time_limited, undisturbed, tracking_server):
    application, process = time_limited
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, out + error + application.logs()
    finished = of(application, "time_limit", tracking_server)
    finished.assert_logged_once(STEPS)
    assert finished.record["attempt"] >= 2
    assert "this job is timed-out" in application.logs()
    assert finished.in_mlflow() == undisturbed.in_mlflow()
    assert finished.final() == undisturbed.final()


@pytest.fixture(scope="module")
def alone(started, tracking_server) -> Finished:
    application, common, _ = started
    application.alone(*common, *DISTRIBUTED[:5], f"outputs={application.directory / 'alone'}")
    return of(application, "alone", tracking_server)


@pytest.mark.parametrize("variant", ["two_nodes", "two_nodes_signal"])
def test_two_nodes_give_the_metrics_of_one_process(alone, ended, tracking_server, variant):
    application, _ = ended
    finished = of(application, variant, tracking_server)
    finished.assert_logged_once(STEPS)
    assert finished.final().keys() == alone.final().keys()
    assert finished.final() == pytest.approx(alone.final(), rel=TOLERANCE)
    assert [row[:2] for row in finished.in_mlflow()] == [row[:2] for row in alone.in_mlflow()]
    # train/loss is the mean over the first process's share of each batch; what is evaluated is reduced over both.
    evaluated = [{row[:2]: row[2] for row in run.in_mlflow() if row[0].startswith("val/")} for run in (finished, alone)]
    assert evaluated[0] == pytest.approx(evaluated[1], rel=TOLERANCE)
    assert finished.record["attempt"] == (2 if variant == "two_nodes_signal" else 1)


def test_interrupted_on_two_nodes_equals_uninterrupted_bit_for_bit(ended, tracking_server):
    application, _ = ended
    runs = [of(application, variant, tracking_server) for variant in ("two_nodes", "two_nodes_signal")]
    assert runs[0].in_mlflow() == runs[1].in_mlflow()

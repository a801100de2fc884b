"""One run of sam_vit on two nodes: the numbers of one process, and no process waits for one that has stopped."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from slurm_harness import ROOT, Finished, SamViT

from curvature.rundir import FINISHED, RUNNING, RunDirectory

STEPS = 40
EFFECTIVE_BATCH = "effective batch 50 (2 processes x 25), learning rate 0.003 (not scaled with processes)"
DOUBLE = (
    # The masks of two processes could not be those of one.
    "model.drop_rate=0.0",
    "module.m=25",
    "data.batch_size=50",
    "trainer.precision=64-true",
    # The limit of the smoke test counts batches of each process.
    "trainer.limit_test_batches=null",
)
TOLERANCE = 1e-9
"""Relative; in float64 two processes add up the same gradients in another order."""


@pytest.fixture(scope="module")
def application(slurm_cluster, tmp_path_factory):
    application = SamViT(slurm_cluster, tmp_path_factory.mktemp("two"))
    yield application
    application.cancel()


@pytest.fixture(scope="module")
def common(tracking_server) -> tuple[str, ...]:
    return (f"max_steps={STEPS}", f"tracking.uri={tracking_server.uri}", *DOUBLE)


def on_two_nodes(common) -> tuple[str, ...]:
    return (*common, "slurm.nodes=2", "trainer.num_nodes=2", "trainer.strategy=ddp")


def of(application: SamViT, variant: str, server) -> Finished:
    (path,) = application.directories(application.directory / variant)
    return Finished(path, server.database)


@pytest.fixture(scope="module")
def alone(application, common):
    """What one process prints, which runs beside the jobs."""
    with ThreadPoolExecutor(1) as background:
        yield background.submit(application.alone, *common, f"outputs={application.directory / 'alone'}")


@pytest.fixture(scope="module")
def undisturbed(application, alone, common, tracking_server) -> Finished:
    process = application.launch(["undisturbed"], *on_two_nodes(common))
    out, error = application.output(process)
    assert process.returncode == 0, out + error + application.logs()
    finished = of(application, "undisturbed", tracking_server)
    finished.assert_logged_once(STEPS)
    return finished


def test_two_nodes_give_the_metrics_of_one_process(application, alone, undisturbed, tracking_server):
    assert "\ntraining       40 steps, global batch 50, learning rate 0.003\n" in alone.result()
    alone = of(application, "alone", tracking_server)
    assert undisturbed.final().keys() == alone.final().keys()
    assert undisturbed.final() == pytest.approx(alone.final(), rel=TOLERANCE)
    assert [row[:2] for row in undisturbed.in_mlflow()] == [row[:2] for row in alone.in_mlflow()]
    # train/loss is the mean over the first process's share of each batch; what is evaluated is reduced over both.
    runs = (undisturbed, alone)
    evaluated = [{row[:2]: row[2] for row in run.in_mlflow() if row[0].startswith("val/")} for run in runs]
    assert evaluated[0] == pytest.approx(evaluated[1], rel=TOLERANCE)


def test_plan_and_summary_state_effective_batch_and_learning_rate(application, undisturbed):
    printed = application.logs()
    assert f"\ntraining       {STEPS} steps, {EFFECTIVE_BATCH}\n" in printed
    assert printed.count("(2 processes x 25)") == 2


@pytest.fixture(scope="module")
def template(application, common, undisturbed, slurm_cluster):
    """The job of the plain sbatch template, told to stop at step 9, beside other jobs."""
    outputs = application.directory / "template"
    options = (f"--chdir={ROOT}", f"--output={outputs}.log", "--nodes=2", "--cpus-per-task=1")
    overrides = [*application.experiment(), *common, "trainer.num_nodes=2", "trainer.strategy=ddp"]
    own = (f"outputs={outputs}", "callbacks.gate.steps=[9]")

    def run():
        job = slurm_cluster.sbatch(*options, ROOT / "slurm" / "run.sbatch", *overrides, *own)
        slurm_cluster.wait_until(lambda: application.holds("template", 9), "the gate")
        slurm_cluster("scancel", "--signal=TERM", job)
        slurm_cluster.wait_until(lambda: slurm_cluster.accounting(job) == {job: "COMPLETED"}, "the end of the job")

    with ThreadPoolExecutor(1) as background:
        yield background.submit(run)


@pytest.mark.usefixtures("template")
def test_whoever_is_told_to_stop_or_dies_all_stop_and_go_on_together(
    application, common, undisturbed, tracking_server, slurm_cluster
):
    """Only the second process is told to stop, then only the first; then the first is killed."""
    held = (9, 17, 25)
    process = application.launch(["disturbed"], *on_two_nodes(common), f"callbacks.gate.steps={list(held)}")

    def wait(step: int) -> str:
        application.wait_for(process, lambda: application.holds("disturbed", step), f"step {step}")
        return application.job_of("disturbed")

    os.kill(slurm_cluster.task(wait(9), 1), signal.SIGUSR2)
    application.go("disturbed", 9)
    os.kill(slurm_cluster.task(wait(17), 0), signal.SIGUSR2)
    os.kill(slurm_cluster.task(wait(25), 0), signal.SIGKILL)
    out, error = application.output(process)
    assert process.returncode == 0, out + error + application.logs()
    finished = of(application, "disturbed", tracking_server)
    finished.assert_logged_once(STEPS)
    assert finished.in_mlflow() == undisturbed.in_mlflow()
    assert finished.final() == undisturbed.final()
    assert finished.record["attempt"] == 4
    # They agree on a stop every eight steps, and save there: only what came after step 24 was done twice.
    assert application.repeated("disturbed", STEPS) == 2


def test_plain_sbatch_template_saves_on_every_node(application, template, undisturbed, tracking_server):
    template.result()
    finished = of(application, "template", tracking_server)
    finished.assert_logged_once(STEPS)
    assert finished.in_mlflow() == undisturbed.in_mlflow()
    assert finished.record["attempt"] == 2
    assert application.repeated("template", STEPS) == 0


def test_no_process_waits_for_a_first_one_that_has_nothing_to_do(application, undisturbed, slurm_cluster):
    """A restarted job finds its run locked by what an earlier start has left, which then finishes the run."""
    job = application.job_of("undisturbed")
    directory = RunDirectory(application.directory / "undisturbed", "sam_vit", undisturbed.record["fingerprint"])
    before = directory.read()
    with directory.locked():
        directory.update(status=RUNNING)
        slurm_cluster("scontrol", "requeue", job)
        (log,) = application.outputs.glob(f"slurm/*/{job}_0_log.err")
        slurm_cluster.wait_until(lambda: "; waiting" in log.read_text(), "the restarted job to wait for the lock")
        directory.update(status=FINISHED)
    slurm_cluster.wait_until(lambda: slurm_cluster.details(job)["JobState"] == "COMPLETED", "the end of the job")
    assert slurm_cluster.details(job)["Restarts"] == "1"
    assert directory.read() == before

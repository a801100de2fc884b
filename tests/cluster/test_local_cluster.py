"""The throw-away cluster of slurm/local-cluster: it works, and it leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from slurm_harness import TOOL, UNAVAILABLE, Demo, start_cluster, stop_cluster

sys.path.insert(0, str(TOOL.parent))
import processes


@pytest.fixture(scope="module", autouse=True)
def without_controller(slurm_cluster, tmp_path_factory):
    """A run whose cluster loses its controller twice. That takes SLURM a while: in the background, on its own cluster.

    First srun could not start the task, then a saved run wants to go back into the queue.
    """
    scratch, outputs = tmp_path_factory.mktemp("away"), tmp_path_factory.mktemp("demo")
    arrived, go, clusters = outputs / "arrived", outputs / "go", []
    # What srun says if the controller is reconfigured in the moment in which it is asked.
    words = "srun: error: Unable to create step for job 7: Zero Bytes were transmitted or received"
    unlucky = f"touch {arrived}; until [ -e {go} ]; do sleep 0.1; done; echo {words} >&2; return 1"
    setup = f'"[ -e {go} ] || srun() {{ {unlucky}; }}"'

    def lose_twice():
        clusters.append(start_cluster(scratch, MessageTimeout=5))
        cluster, demo = clusters[0], Demo(clusters[0], outputs)
        process = demo.start("steps=8", "hold=5", f"slurm.setup=[{setup}]", "slurm.cpus_per_task=1")
        cluster.wait_until(arrived.exists, "the batch script to start")
        cluster.lose_controller()
        go.touch()
        cluster.wait_until(lambda: list(demo.outputs.glob("slurm/*/*.crashes")), "the start to fail")
        cluster(sys.executable, TOOL, "up", "--directory", cluster.directory)

        cluster.wait_until(demo.held, "the run to be held")
        (job,) = (row["job"] for row in json.loads(next(demo.outputs.glob("slurm/*/jobs.json")).read_text()))
        task = cluster.task(job)
        cluster.lose_controller()
        os.kill(task, signal.SIGUSR2)
        cluster.wait_until(lambda: "asking again" in demo.logs(), "the job to ask in vain")
        cluster(sys.executable, TOOL, "up", "--directory", cluster.directory)
        out, error = demo.output(process)
        return demo, process.returncode, out + error

    with ThreadPoolExecutor(1) as background:
        yield background.submit(lose_twice)
    for cluster in clusters:
        stop_cluster(cluster)


def test_nodes_are_idle(slurm_cluster):
    states = slurm_cluster("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T").splitlines()
    assert [line.split()[0] for line in states] == ["node1", "node2"]
    assert slurm_cluster.status()["running"]


def test_job_over_two_nodes_is_accounted_for(slurm_cluster, tmp_path):
    output = tmp_path / "out"
    wrapped = "srun -l sh -c 'echo $SLURMD_NODENAME $MASTER_ADDR'"
    job = slurm_cluster.sbatch("-N2", "--ntasks-per-node=1", f"--output={output}", "--wrap", wrapped)
    slurm_cluster.wait_until(lambda: slurm_cluster.accounting(job) == {job: "COMPLETED"}, what="accounting")
    assert sorted(output.read_text().splitlines()) == ["0: node1 127.0.0.1", "1: node2 127.0.0.1"]


def test_requeued_job_runs_again(slurm_cluster, tmp_path):
    output = tmp_path / "starts"
    wrapped = f'echo $SLURM_RESTART_COUNT >> {output}; [ -n "$SLURM_RESTART_COUNT" ] || sleep 100'
    job = slurm_cluster.sbatch("--output=/dev/null", "--wrap", wrapped)
    slurm_cluster.wait_until(output.exists, what="the first start")
    slurm_cluster("scontrol", "requeue", job)
    slurm_cluster.wait_until(lambda: slurm_cluster.accounting(job) == {job: "COMPLETED"}, what="the second start")
    assert output.read_text().splitlines() == ["", "1"]


def test_unknown_account_is_refused(slurm_cluster):
    done = subprocess.run(
        ["sbatch", "--account=nobody", "--wrap", "true"], env=slurm_cluster.environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Invalid account" in done.stderr


def test_daemon_that_cannot_start_is_named_with_its_log(own_cluster):
    cluster = own_cluster
    cluster.lose_controller()
    configuration = cluster.directory / "slurm.conf"
    original = configuration.read_text()
    configuration.write_text(original.replace("SelectType=select/cons_tres", "SelectType=select/nonsense"))
    command = [sys.executable, TOOL, "up", "--directory", str(cluster.directory)]
    done = subprocess.run(command, capture_output=True, text=True)
    configuration.write_text(original)
    assert done.returncode == 1
    assert "slurmctld" in done.stderr
    assert "select/nonsense" in done.stderr
    cluster(*command)


def test_up_repairs_and_down_leaves_nothing(own_cluster):
    cluster, directory = own_cluster, own_cluster.directory
    job = cluster.sbatch("--output=/dev/null", "--wrap", "sleep 1000")
    cluster.wait_until(lambda: cluster.details(job)["JobState"] == "RUNNING", what="the job to run")
    before = cluster.status()["daemons"]
    os.kill(before["node2"]["pid"], signal.SIGKILL)
    cluster.wait_until(lambda: not cluster.status()["running"], what="the node to die")

    cluster(sys.executable, TOOL, "up", "--directory", directory)
    after = cluster.status()["daemons"]
    assert {name for name in after if after[name] != before[name]} == {"node2"}
    assert cluster.details(job)["JobState"] == "RUNNING"

    of_jobs = processes.job_processes(str(directory), str(directory / "slurm.conf"))
    assert of_jobs
    # Without its controller the cluster cannot end its jobs itself.
    os.kill(after["slurmctld"]["pid"], signal.SIGKILL)
    for expected in ("stopped", "no cluster in"):
        assert cluster(sys.executable, TOOL, "down", "--directory", directory).startswith(expected)
    assert not directory.exists()
    assert not any(daemon.alive() for daemon in of_jobs)
    assert mentioned_in_processes(directory) == []


def mentioned_in_processes(directory: Path) -> list[str]:
    lines = subprocess.run(["ps", "-eo", "pid,stat,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in lines.splitlines() if str(directory) in line]


def test_jobs_wait_for_a_controller_that_is_away(without_controller):
    demo, code, printed = without_controller.result()
    assert code == 0, printed + demo.logs()
    assert demo.steps() == [list(range(8))]


def test_down_spares_a_stranger_with_a_recorded_pid(tmp_path):
    directory = tmp_path / "cluster"
    directory.mkdir()
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        recorded = {"munged": {"pid": stranger.pid, "started": 1}}
        state = {"directory": str(directory), "boot": processes.boot_id(), "nodes": 2, "ports": {}, "daemons": recorded}
        (directory / "state.json").write_text(json.dumps(state))
        done = subprocess.run([sys.executable, TOOL, "down", "--directory", directory], capture_output=True)
        assert done.returncode == 0
        assert stranger.poll() is None
        assert not directory.exists()
    finally:
        stranger.kill()
        stranger.wait()


def test_up_refuses_a_directory_that_is_not_its_own(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    command = [sys.executable, TOOL, "up", "--directory", tmp_path, "--no-install"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == UNAVAILABLE:
        pytest.skip(done.stderr)
    assert done.returncode == 1
    assert "not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    subprocess.run([sys.executable, TOOL, "down", "--directory", tmp_path], check=True)
    assert (tmp_path / "thesis.tex").exists()

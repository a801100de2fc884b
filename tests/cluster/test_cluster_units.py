"""Parsing, naming, checking and deciding: what needs no cluster."""

import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from curvature import console
from curvature.callbacks import interrupt
from curvature.cluster import environment, names, queue, requeue
from curvature.cluster.launch import warn_about_sqlite
from curvature.cluster.options import SlurmOptions, read_options
from curvature.cluster.outcome import JobFailed, last_line, outcome
from curvature.cluster.queue import JobState
from curvature.cluster.submission import SubmittedJob, explain_refusal
from curvature.errors import ConfigError, CurvatureError
from curvature.fingerprint import fingerprint
from curvature.rundir import RunDirectory, RunLocked

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ("12", ["12"]),
        ("12_3", ["12_3"]),
        ("12_[3]", ["12_3"]),
        ("12_[0-2]", ["12_0", "12_1", "12_2"]),
        ("12_[0-1,7,9-10%4]", ["12_0", "12_1", "12_7", "12_9", "12_10"]),
    ],
)
def test_array_expressions(job, expected):
    assert list(queue.expand(job)) == expected


def test_sacct_lines():
    text = (
        "7_[2-3%8]|PENDING|None assigned|00:00:00|Resources\n7_0|COMPLETED|node1|00:01:02|None\n"
        "7_1|CANCELLED by 1000|node2|00:00:01|Priority\n"
    )
    states = queue.parse(text + "7_0.batch|COMPLETED|node1|00:01:02|None\n\ngarbage\n")
    assert states == {
        "7_0": JobState("COMPLETED", "node1", "00:01:02"),
        "7_1": JobState("CANCELLED", "node2", "00:00:01"),
        "7_2": JobState("PENDING", "", "00:00:00", "Resources"),
        "7_3": JobState("PENDING", "", "00:00:00", "Resources"),
    }


def test_labels_say_what_distinguishes_the_jobs():
    cfg = OmegaConf.create({"arm": None, "seed": 0, "paper": "sam_vit"})
    common = ["experiment=sam_vit", "lr=0.1", "slurm.partition=gpu"]
    jobs = [[*common, f"optimizer={name}", f"rho={rho}"] for name, rho in (("sam", 0.1), ("sam", 0.2), ("adamw", 0.1))]
    assert names.labels(cfg, jobs) == ["sam-rho=0.1-s0", "sam-rho=0.2-s0", "adamw-rho=0.1-s0"]
    arms = [["arm=sam", "optimizer=sam", "seed=3"], ["+arm=base line", "seed=4"]]
    assert names.labels(cfg, arms) == ["sam-s3", "base_line-s4"]
    assert names.labels(cfg, [common]) == ["lr=0.1-s0"]
    assert names.clean("a b;$(rm)/'x'") == "a_b_rm_x"
    assert len(names.comment("p", ["label"] * 100)) == names.LONGEST_COMMENT


@pytest.mark.parametrize(
    ("profile", "tasks", "trainer"),
    [
        ("cpu", 1, (1, 1, "auto")),
        ("single_gpu", 1, (1, 1, "auto")),
        ("multi_gpu", 4, (4, 1, "ddp")),
        ("multi_node", 8, (4, 2, "ddp")),
    ],
)
def test_profiles_agree_with_the_trainer(tmp_path, profile, tasks, trainer):
    (tmp_path / "main.yaml").write_text("defaults: [_self_, trainer: default, slurm: cpu]\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        cfg = compose("main", overrides=[f"slurm={profile}", f"hydra.searchpath=[file://{CONF}]"])
    options = read_options(cfg)
    assert options.tasks == tasks
    assert (cfg.trainer.devices, cfg.trainer.num_nodes, cfg.trainer.strategy) == trainer
    assert options.sbatch_parameters()["time"] == options.timeout_min


def test_trainer_that_expects_other_processes_is_refused():
    cfg = OmegaConf.create({"slurm": {"nodes": 2}, "trainer": {"num_nodes": 1, "devices": 1}})
    with pytest.raises(ConfigError, match=r"trainer\.num_nodes=1 .*slurm\.nodes=2"):
        read_options(cfg)
    assert read_options(OmegaConf.create({"slurm": None})) == SlurmOptions()


def test_refusal_without_a_known_word_is_passed_on():
    error = explain_refusal(
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller\n", SlurmOptions()
    )
    assert str(error) == "sbatch refused the jobs: Unable to contact slurm controller"


@pytest.mark.parametrize(
    ("ends_in_s", "preempted", "expected"),
    [(100, "None", True), (200, "None", True), (3000, "None", False), (20, "2026-01-01T00:00:00", False)],
)
def test_time_out_is_told_from_preemption(ends_in_s, preempted, expected):
    now = 1_800_000_000.0
    end = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now + ends_in_s))
    assert requeue.is_timed_out({"EndTime": end, "PreemptTime": preempted}, signal_delay_s=120, now=now) is expected


def test_time_limit_unknown_counts_as_preemption():
    assert not requeue.is_timed_out({"EndTime": "Unknown", "PreemptTime": "None"}, 120)
    assert not requeue.is_timed_out({}, 120)


def test_giving_up_is_noted_in_the_record_of_the_run(tmp_path):
    run = {"outputs": str(tmp_path), "paper": "p", "seed": 1}
    directory = RunDirectory(tmp_path, "p", fingerprint(OmegaConf.create(run)))
    requeue.give_up(OmegaConf.create(run), 2)
    assert not directory.path.exists()
    directory.update(status="KILLED", reason="stopped by SIGUSR2 after step 7", attempt=3)
    requeue.give_up(OmegaConf.create(run | {"hydra": {"job": {"id": "5"}}}), 2)
    assert directory.read() == {
        "status": "KILLED",
        "attempt": 3,
        "reason": "time limit reached 3 times (slurm.max_num_timeout=2); the same command continues",
    }


@pytest.mark.parametrize(
    ("nodes", "devices", "expected"),
    [
        (1, 1, ", global batch 96, learning rate 0.003"),
        (2, 4, ", effective batch 96 (8 processes x 12), learning rate 0.003 (not scaled with processes)"),
    ],
)
def test_plan_states_effective_batch_and_learning_rate(nodes, devices, expected):
    cfg = {"lr": 3e-3, "data": {"batch_size": 96}, "trainer": {"num_nodes": nodes, "devices": devices}}
    assert console._batches(OmegaConf.create(cfg)) == expected


def test_outcomes_name_the_reason(tmp_path):
    job = SubmittedJob("5_0", "sam-s0", tmp_path)
    job.log.write_text(
        "Traceback (most recent call last):\n  File x\nmy.module.Broken: disk is full\nsrun: error: node1\n"
    )
    failed = outcome(job, JobState("FAILED", "node1", ""))
    assert isinstance(failed, JobFailed)
    assert str(failed).startswith("job 5_0 (sam-s0) ended as FAILED: Broken: disk is full\n  log: ")
    assert "raise slurm.signal_delay_s" in str(outcome(job, JobState("TIMEOUT", "node1", "")))
    job.result.write_bytes(b"half a pick")
    assert "cannot be read" in str(outcome(job, JobState("COMPLETED", "node1", "")))
    assert last_line("") == ""
    assert last_line("a plain line: with a colon") == "a plain line: with a colon"


def test_restarted_job_waits_for_the_lock_of_its_former_self(tmp_path, monkeypatch):
    script = (
        "import sys, time\nfrom curvature.rundir import RunDirectory\n"
        "with RunDirectory(sys.argv[1], 'p', 'f' * 64).locked():\n    print('locked', flush=True)\n    time.sleep(2)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "locked\n"

    def attempt():
        try:
            with RunDirectory(tmp_path, "p", "f" * 64).locked():
                return JobReturn(status=JobStatus.COMPLETED, _return_value=1)
        except RunLocked as error:
            return JobReturn(status=JobStatus.FAILED, _return_value=error)

    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    assert isinstance(requeue.patiently(attempt, poll_s=0.1)._return_value, RunLocked)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert isinstance(requeue.patiently(attempt, patience_s=0.3, poll_s=0.1)._return_value, RunLocked)
    interrupt.request_stop("SIGTERM")
    try:
        assert isinstance(requeue.patiently(attempt, poll_s=0.1)._return_value, RunLocked)
    finally:
        interrupt.clear()
    assert requeue.patiently(attempt, poll_s=0.1).return_value == 1
    holder.wait()


def test_only_a_job_of_submitit_listens():
    with pytest.raises(RuntimeError, match="submitit"):
        requeue.listen()


@pytest.mark.parametrize(
    ("uri", "jobs", "nodes", "warned"),
    [(None, 8, 1, True), ("sqlite:///x.db", 1, 2, True), (None, 1, 1, False), ("http://host:5000", 8, 2, False)],
)
def test_sqlite_on_many_nodes_is_warned_about(caplog, monkeypatch, uri, jobs, nodes, warned):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    cfg = OmegaConf.create({"tracking": {"uri": uri}})
    with caplog.at_level(logging.WARNING):
        warn_about_sqlite(cfg, SlurmOptions(nodes=nodes), jobs)
    assert ("mlflow server" in caplog.text) is warned


def test_lightning_does_not_requeue_and_explicit_plugins_are_kept(monkeypatch):
    for name in ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    assert environment.plugins(None) is None
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "sam_vit")
    (plugin,) = environment.plugins(None)
    assert plugin.auto_requeue is False
    assert environment.plugins(["mine"]) == ["mine"]
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")
    assert environment.plugins(None) is None
    monkeypatch.setenv("SLURM_JOB_NAME", "sam_vit")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with pytest.raises(CurvatureError, match="ntasks-per-node"):
        environment.plugins(None)


@pytest.mark.parametrize(
    ("restarts", "status", "expected"),
    [
        (None, "KILLED", False),
        ("0", "RUNNING", False),
        ("1", "KILLED", True),
        ("1", "FINISHED", False),
        ("2", None, True),
    ],
)
def test_a_restarted_job_starts_over_only_once(monkeypatch, restarts, status, expected):
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    if restarts is not None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    assert environment.has_started_over({"status": status}) is expected


def in_step(monkeypatch, restarts):
    names = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_RESTART_COUNT": restarts}
    for name, value in names.items():
        monkeypatch.setenv(name, value)


def test_a_follower_goes_on_once_the_first_process_of_this_very_start_trains(tmp_path, monkeypatch):
    directory = RunDirectory(tmp_path, "p", "f" * 64)
    in_step(monkeypatch, "0")
    directory.update(status="RUNNING", stretch=environment.stretch())
    assert environment.wait_for_first(directory, force=False)["status"] == "RUNNING"
    in_step(monkeypatch, "1")
    with pytest.raises(CurvatureError, match="has not begun to train"):
        environment.wait_for_first(directory, force=False, patience_s=0.2, poll_s=0.05)
    directory.update(status="FINISHED")
    assert environment.wait_for_first(directory, force=False, patience_s=0.2)["status"] == "FINISHED"
    with pytest.raises(CurvatureError, match="has not begun to train"):
        environment.wait_for_first(directory, force=True, patience_s=0.2, poll_s=0.05)
    timer = threading.Timer(0.3, lambda: directory.update(status="RUNNING", stretch=environment.stretch()))
    timer.start()
    assert environment.wait_for_first(directory, force=True, poll_s=0.05)["status"] == "RUNNING"
    timer.join()


def test_without_a_cluster_a_follower_is_started_by_the_first_process(tmp_path, monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert environment.stretch() is None
    assert environment.wait_for_first(RunDirectory(tmp_path, "p", "f" * 64), force=False) == {}


def test_start_of_the_command_line_stays_free_of_torch_and_submitit():
    code = (
        "import sys\nimport hydra_plugins.curvature_slurm.launcher, curvature.cluster.launch\n"
        "print([name for name in ('torch', 'submitit', 'mlflow', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

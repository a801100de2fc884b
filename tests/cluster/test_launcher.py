"""hydra/launcher=slurm on a real cluster: submitting, watching, refusing."""

import json
import os
import pickle
import pty
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from rich.console import Console
from slurm_harness import PATIENCE_S

from curvature.cluster.outcome import JobFailed
from curvature.cluster.submission import SubmittedJob
from curvature.cluster.watch import Watch


def test_sweep_is_one_array_and_a_repeat_submits_nothing(demo, slurm_cluster):
    done = demo.run("variant=a,b", "seed=0,1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 done, 0 failed" in done.stdout
    assert demo.steps() == [[0, 1, 2]] * 4

    (index,) = demo.outputs.glob("slurm/*/jobs.json")
    rows = json.loads(index.read_text())
    array = rows[0]["job"].partition("_")[0]
    assert [row["job"] for row in rows] == [f"{array}_{i}" for i in range(4)]
    assert [row["label"] for row in rows] == ["variant=a-s0", "variant=a-s1", "variant=b-s0", "variant=b-s1"]
    assert len(list(index.parent.glob("*_log.out"))) == 4
    shown = slurm_cluster("sacct", "-X", "-n", "-P", "-j", array, "-o", "JobName,Comment").splitlines()
    assert "demo-variant=b-s1|demo: variant=b-s1" in shown

    again = demo.run("variant=a,b", "seed=0,1,2")
    assert "4 of 6 runs have finished before" in again.stdout
    assert "submitted 2 job(s)" in again.stdout
    again = demo.run("variant=a,b", "seed=0,1,2")
    assert again.returncode == 0
    assert "submitted" not in again.stdout.replace("are not submitted", "")


def test_submit_only_returns_before_the_jobs_end(demo, slurm_cluster):
    (job,) = demo.submit("hold=2", "arm=later", "seed=7")
    details = slurm_cluster.details(job)
    assert details["JobState"] in ("PENDING", "RUNNING")
    assert details["JobName"] == "demo-later-s7"
    demo.open()
    slurm_cluster.wait_until(lambda: [r["status"] for r in demo.records()] == ["FINISHED"], what="the run to finish")


def test_failed_job_is_named_with_its_reason_and_its_log(demo, slurm_cluster):
    done = demo.run("fail=false,true", "seed=0,1")
    assert done.returncode != 0
    assert "2 done, 2 failed" in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("failed: ")]
    assert len(lines) == 2
    assert "(fail=True-s0) ended as FAILED: ValueError: this arm cannot work" in " ".join(lines)
    log = next(line for line in done.stdout.splitlines() if "log: " in line).partition("log: ")[2]
    assert "this arm cannot work" in Path(log).read_text()
    states = sorted(slurm_cluster.accounting(os.path.basename(log).partition("_")[0]).values())
    assert states == ["COMPLETED", "COMPLETED", "FAILED", "FAILED"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("slurm.partition=mian", "slurm.partition='mian' cannot work: did you mean main?"),
        ("slurm.account=nobody", "slurm.account='nobody' cannot work: sbatch says: Invalid account"),
        ("slurm.qos=urgent", "slurm.qos='urgent' cannot work: sbatch says: Invalid qos"),
        ("slurm.constraint=h100", "slurm.constraint='h100' cannot work: sbatch says: Invalid feature"),
        ("slurm.gpus_per_node=8", "slurm.gpus_per_node=8 cannot work: sbatch says: Invalid generic resource"),
        ("slurm.nodes=0", "slurm.nodes=0 cannot work: at least 1"),
        ("slurm.timeout_min=1", "slurm.signal_delay_s=120 cannot work: less than the time limit of 60 s"),
        ("+slurm.partitoin=main", "slurm.partitoin='main' cannot work: there is no such key; nearest: partition"),
        ("slurm.nodes=two", "slurm.nodes='two' cannot work: Value 'two' of type 'str' could not be converted"),
    ],
)
def test_refusal_is_one_line(demo, override, message):
    done = demo.run(override)
    assert done.returncode == 1
    assert done.stderr.strip().startswith(f"error: {message}")
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(demo.outputs.glob("slurm/*")) == []


def test_without_slurm_the_message_says_what_to_do(demo):
    environment = demo.cluster.environment | {"PATH": "/nonexistent"}
    done = subprocess.run(demo.command(), env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "make cluster" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


class Terminal:
    """The demo in a terminal of its own."""

    def __init__(self, demo, *overrides):
        self.text = ""
        self.process, self.descriptor = pty.fork()
        if self.process == 0:
            os.chdir(demo.directory)
            environment = demo.cluster.environment | {"COLUMNS": "120", "LINES": "40", "TERM": "xterm"}
            command = demo.command(*overrides)
            os.execve(command[0], command, environment)

    def expect(self, words):
        deadline = time.monotonic() + PATIENCE_S
        while words not in self.text:
            assert time.monotonic() < deadline, f"no {words!r} in {self.text[-2000:]}"
            if select.select([self.descriptor], [], [], 0.2)[0]:
                self.text += os.read(self.descriptor, 65536).decode(errors="replace")

    def interrupt(self):
        os.write(self.descriptor, b"\x03")

    def type(self, text):
        os.write(self.descriptor, text.encode())

    def exit_code(self):
        while True:
            try:
                if not os.read(self.descriptor, 65536):
                    break
            except OSError:
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


def test_live_table_and_cancel_on_ctrl_c(demo, slurm_cluster):
    terminal = Terminal(demo, "variant=a,b", "hold=2")
    terminal.expect("arm and seed")
    terminal.expect("0 pending, 2 running, 0 done, 0 failed")
    terminal.expect("variant=b-s0")
    slurm_cluster.wait_until(lambda: len(demo.held()) == 2, what="both runs")
    terminal.interrupt()
    terminal.expect("[c]ancel")
    terminal.type("c\n")
    assert terminal.exit_code() == 1
    # What was cancelled was saved first, and does not come back.
    slurm_cluster.wait_until(lambda: [r["status"] for r in demo.records()] == ["KILLED"] * 2, what="the save")
    (array,) = demo.arrays()
    slurm_cluster.wait_until(lambda: not slurm_cluster("squeue", "-h", "-j", array), what="the end of the jobs")
    assert all(state.startswith("CANCELLED") for state in slurm_cluster.accounting(array).values())


def test_ctrl_c_can_leave_the_jobs(demo, slurm_cluster):
    terminal = Terminal(demo, "hold=2")
    terminal.expect("1 running")
    terminal.interrupt()
    terminal.expect("[l]eave")
    terminal.type("l\n")
    assert terminal.exit_code() == 0
    assert slurm_cluster("squeue", "-h", "-j", *demo.arrays())
    demo.open()
    slurm_cluster.wait_until(lambda: [r["status"] for r in demo.records()] == ["FINISHED"], what="the run to finish")


def test_ctrl_c_without_a_terminal_leaves_the_jobs(demo, slurm_cluster):
    process = demo.start("hold=2")
    slurm_cluster.wait_until(demo.held, what="the start")
    process.send_signal(signal.SIGINT)
    demo.output(process)
    assert process.returncode == 0
    assert slurm_cluster("squeue", "-h", "-j", *demo.arrays())


def test_job_of_two_nodes_runs_a_task_on_each(demo, slurm_cluster):
    done = demo.run("slurm.nodes=2", "slurm.tasks_per_node=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 done" in done.stdout
    assert len(demo.records()) == 1
    assert all((demo.outputs / f"rank{rank}" / "steps.txt").exists() for rank in (1, 2, 3))


def test_cluster_without_accounting_is_watched_through_squeue(demo, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo", "bash", "date", "wc", "sleep"):
        (tools / name).symlink_to(shutil.which(name))
    demo.cluster.environment["PATH"], path = str(tools), demo.cluster.environment["PATH"]
    try:
        done = demo.run("variant=a,b", "fail=false,true")
    finally:
        demo.cluster.environment["PATH"] = path
    assert "2 done, 2 failed" in done.stdout, done.stdout + done.stderr


def test_job_that_squeue_has_forgotten_is_judged_by_its_result(slurm_cluster, tmp_path, monkeypatch):
    for name, value in slurm_cluster.environment.items():
        monkeypatch.setenv(name, value)
    good, bad = SubmittedJob("999999_0", "good", tmp_path), SubmittedJob("999999_1", "bad", tmp_path)
    good.result.write_bytes(pickle.dumps(("success", 42)))
    watch = Watch([good, bad], poll_seconds=1, console=Console(quiet=True))
    watch.queue.forgets = True
    results = watch.wait()
    assert results[0] == 42
    assert isinstance(results[1], JobFailed)

"""What the launcher costs with many jobs."""

import json
import sys
import time
from pathlib import Path

from rich.console import Console

from curvature.cluster.submission import SubmittedJob
from curvature.cluster.watch import Watch

HELD = "+slurm.additional_parameters.hold=true"
SECONDS_PER_JOB = 0.05


LAUNCH = """
import subprocess, sys, time
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from hydra._internal.callbacks import Callbacks

def task(cfg):
    return None

folder, count, *overrides = sys.argv[1:]
with initialize_config_dir(folder, version_base="1.3"):
    cfg = compose("config", overrides=overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks())
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=cfg)
    jobs = [["variant=b", f"seed={seed}"] for seed in range(int(count))]
    start = time.perf_counter()
    returns = launcher.launch(jobs, 0)
    launched = time.perf_counter() - start
plain = ["sbatch", "--parsable", "--hold", f"--array=0-{len(jobs) - 1}", "--output=/dev/null", "--wrap=true"]
start = time.perf_counter()
array = subprocess.run(plain, check=True, capture_output=True, text=True).stdout.strip()
sbatch = time.perf_counter() - start
subprocess.run(["scancel", array], check=True)
assert len({job.return_value.job_id for job in returns}) == len(jobs)
print((launched - sbatch) / len(jobs))
"""


def test_launching_200_jobs_costs_at_most_50_ms_each(demo):
    script = demo.directory / "launch.py"
    script.write_text(LAUNCH)
    app, *overrides = [word for word in demo.command("slurm.submit_only=true", HELD)[1:] if word != "-m"]
    folder = str(Path(app).parent / "conf")
    per_job = float(demo.cluster(sys.executable, script, folder, "200", *overrides).splitlines()[-1])
    print(f"{1000 * per_job:.1f} ms per job beyond sbatch")
    assert per_job <= SECONDS_PER_JOB


def test_polling_asks_once_for_all_jobs_and_grows_linearly(slurm_cluster, monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_CONF", slurm_cluster.environment["SLURM_CONF"])

    def poll_seconds(count):
        array = slurm_cluster.sbatch("--hold", f"--array=0-{count - 1}", "--output=/dev/null", "--wrap", "true")
        slurm_cluster("scontrol", "release", f"{array}_0")
        jobs = [SubmittedJob(f"{array}_{i}", f"s{i}", tmp_path) for i in range(count)]
        watch = Watch(jobs, poll_seconds=1, console=Console(quiet=True))
        slurm_cluster.wait_until(lambda: watch.poll() or watch.counts()["failed"] == 1, what="the first job")
        before, start = watch.queue.calls, time.process_time()
        for _ in range(5):
            watch.poll()
        assert watch.queue.calls == before + 5
        assert watch.counts()["pending"] >= count - 1
        slurm_cluster("scancel", array)
        return (time.process_time() - start) / 5

    small, large = poll_seconds(100), poll_seconds(800)
    print(f"{1000 * small:.1f} ms for 100 jobs, {1000 * large:.1f} ms for 800")
    # Quadratic growth would be a factor of 64.
    assert large < 24 * small + 0.05


def test_index_lists_every_job(demo):
    jobs = demo.submit(HELD, "seed=range(0,30)")
    (index,) = demo.outputs.glob("slurm/*/jobs.json")
    rows = json.loads(index.read_text())
    assert [row["job"] for row in rows] == jobs
    assert [row["label"] for row in rows] == [f"s{seed}" for seed in range(30)]
    assert all(f"seed={seed}" in row["overrides"] for seed, row in enumerate(rows))

"""What the launcher costs with many jobs of the real experiment."""

import json
import sys
import time

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from rich.console import Console
from slurm_harness import ROOT

from curvature.cluster.composer import Composer
from curvature.cluster.submission import SubmittedJob
from curvature.cluster.watch import Watch
from curvature.rundir import FINISHED, RunDirectory

HELD = "+slurm.additional_parameters.hold=true"
SECONDS_PER_JOB = 0.05
REAL_SWEEP = ["experiment=sam_vit", "hydra/launcher=slurm", "hydra/sweeper=basic", "slurm=cpu"]


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
    own = [text for text in overrides if not text.startswith("hydra/")]
    jobs = [[*own, f"lr={1e-3 * (1 + number)}", f"seed={number % 20}"] for number in range(int(count))]
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


@pytest.mark.parametrize("begun", [False, True], ids=["fresh", "some_seeds_finished"])
@pytest.mark.alone
def test_launching_200_jobs_of_sam_vit_costs_at_most_50_ms_each(demo, begun):
    script = demo.directory / "launch.py"
    script.write_text(LAUNCH)
    # Where runs of these seeds have finished, every job is checked for being one of them.
    for seed in range(20 * begun):
        RunDirectory(demo.outputs, "sam_vit", f"{seed:064}"[::-1]).update(status=FINISHED, seed=seed)
    overrides = [*REAL_SWEEP, "slurm.submit_only=true", HELD, f"outputs={demo.outputs}"]
    printed = demo.cluster(sys.executable, script, ROOT / "conf", "200", *overrides)
    per_job = float(printed.splitlines()[-1])
    print(f"{1000 * per_job:.1f} ms per job beyond sbatch")
    assert per_job <= SECONDS_PER_JOB


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer=adamw", "lr=1e-2", "data.train_size=200"],
        ["+debug=smoke", "max_steps=7", "trainer.val_check_interval=null", "arm='x y'"],
        ["callbacks.measures=null", "~callbacks.step_time", "+foo=3", "seed=5"],
        ["data.corruptions={shift: null}", "slurm.nodes=2", "trainer.num_nodes=2", "hydra.job.name=a"],
        ["seed=7"],
        [],
        ["slurm=multi_node", "seed=7", "module.m=32"],
    ],
)
def test_quick_composition_equals_that_of_hydra(overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        sweep = compose("config", overrides=REAL_SWEEP, return_hydra_config=True)
        loader = GlobalHydra.instance().config_loader()
        composer = Composer(loader, sweep)
        composer.compose(["experiment=sam_vit", "slurm=cpu", "seed=3", "lr=0.5"])
        for seed in ([], ["seed=1"], ["seed=2"]):
            line = ["experiment=sam_vit", "slurm=cpu", *overrides, *seed]
            full = loader.load_sweep_config(sweep, line)
            whole = OmegaConf.masked_copy(full, [str(key) for key in full if key != "hydra"])
            assert composer.compose(line) == whole
            assert OmegaConf.to_yaml(composer.compose(line), resolve=True) == OmegaConf.to_yaml(whole, resolve=True)


@pytest.mark.alone
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

"""A resumable run in a few lines, to drive the SLURM launcher without training anything."""

import json
import os
import sys
import time
from pathlib import Path

import hydra
from hold import hold
from omegaconf import DictConfig

from curvature.callbacks import interrupt
from curvature.cli import main
from curvature.fingerprint import fingerprint
from curvature.rundir import FINISHED, KILLED, RUNNING, RunDirectory, write_atomically


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def task(cfg: DictConfig) -> float:
    rank = int(os.environ.get("SLURM_PROCID", "0"))
    if rank:
        return count(cfg, Path(cfg.outputs) / f"rank{rank}")
    directory = RunDirectory(cfg.outputs, cfg.paper, fingerprint(cfg))
    with directory.locked(), interrupt.handled():
        record = directory.read()
        if record.get("status") != FINISHED:
            directory.update(status=RUNNING, attempt=record.get("attempt", 0) + 1, seed=cfg.seed, variant=cfg.variant)
            try:
                last = count(cfg, directory.path)
            except interrupt.Interrupted:
                directory.update(status=KILLED)
                raise
            directory.update(status=FINISHED, metrics={"last": last})
        return directory.read()["metrics"]["last"]


def count(cfg: DictConfig, directory: Path) -> float:
    directory.mkdir(parents=True, exist_ok=True)
    checkpoint = directory / "checkpoint.json"
    first = json.loads(checkpoint.read_text())["step"] if checkpoint.exists() else 0
    with (directory / "attempts.txt").open("a") as stream:
        print(first, *sys.argv[1:], file=stream)
    for step in range(first, cfg.steps):
        if step == cfg.hold:
            hold(directory / "held", Path(cfg.outputs) / "open")
        reason = interrupt.stop_requested()
        if reason is not None:
            (directory / "saving").touch()
            time.sleep(cfg.save_s)
            write_atomically(checkpoint, json.dumps({"step": step}))
            raise interrupt.Interrupted(reason, step)
        if step % 5 == 0:
            write_atomically(checkpoint, json.dumps({"step": step}))
        if cfg.fail:
            raise ValueError("this arm cannot work")
        with (directory / "steps.txt").open("a") as stream:
            print(step, file=stream)
        time.sleep(cfg.step_s)
    return float(cfg.seed * 100 + cfg.steps)


if __name__ == "__main__":
    sys.exit(main(task))

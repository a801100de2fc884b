"""Reproduce a paper's claims: ``python run.py experiment=sam_vit`` (one run) or with ``-m`` (all its claims)."""

import sys

import hydra
from omegaconf import DictConfig

from curvature.cli import main


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def task(cfg: DictConfig) -> float | None:
    from curvature.engine import run

    return run(cfg).metrics.get(cfg.objective)


if __name__ == "__main__":
    sys.exit(main(task))

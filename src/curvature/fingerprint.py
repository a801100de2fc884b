"""Content address of a run: equal fingerprints mean equal results on the same machine."""

import hashlib
import json
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

CANNOT_CHANGE_RESULT = frozenset(
    {
        "arm",
        "checkpoint",
        "claim",
        "cost",
        "data_root",
        "experiments",
        "force",
        "hydra",
        "outputs",
        "slurm",
        "threads",
        "tracking",
        "trainer.accelerator",
        "trainer.devices",
        "trainer.enable_progress_bar",
        "trainer.log_every_n_steps",
        "trainer.num_nodes",
        "trainer.strategy",
        "data.num_workers",
        "data.root",
        "data.cache_dir",
        "data.pin_memory",
    }
)
"""Dotted keys left out of the fingerprint. Everything else in the resolved config is part of it.

Of devices and nodes the number of processes counts, see :func:`canonical`.
"""


def canonical(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as plain containers, without :data:`CANNOT_CHANGE_RESULT`.

    Where there is more than one process it also holds ``processes``. The batch size of a config is the global one, but
    how it is divided enters the result: through SAM's perturbation if ``module.m`` is null, through statistics of batch
    normalisation, and through the order of sums.

    Args:
        cfg: a composed config; every interpolation must resolve. ``cfg`` itself is not changed.
    """
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    count = processes(cfg)
    return _without(plain, "") | ({"processes": count} if count > 1 else {})


def processes(cfg: DictConfig) -> int:
    """Number of processes among which the global batch is divided."""
    devices = OmegaConf.select(cfg, "trainer.devices", default=1)
    each = len(devices) if isinstance(devices, ListConfig) else devices
    return int(OmegaConf.select(cfg, "trainer.num_nodes", default=1)) * int(each)


def fingerprint(cfg: DictConfig) -> str:
    """sha256 (64 hex digits) of the canonical JSON of ``cfg``; key order and formatting do not matter."""
    text = json.dumps(canonical(cfg), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _without(node: dict[Any, Any], prefix: str) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in node.items():
        path = f"{prefix}{key}"
        if path in CANNOT_CHANGE_RESULT:
            continue
        kept[str(key)] = _without(value, f"{path}.") if isinstance(value, dict) else value
    return kept

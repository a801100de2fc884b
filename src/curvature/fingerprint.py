"""Content address of a run: equal fingerprints mean equal results on the same machine."""

import hashlib
import json
from typing import Any

from omegaconf import DictConfig, OmegaConf

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
        "report",
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

Devices and nodes are here because the batch size of a config is the global batch size.
"""


def canonical(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as plain containers, without :data:`CANNOT_CHANGE_RESULT`.

    Args:
        cfg: a composed config; every interpolation must resolve. ``cfg`` itself is not changed.
    """
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return _without(plain, "")


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

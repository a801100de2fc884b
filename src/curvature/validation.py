"""What every run's config must hold, checked before anything heavy is imported."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from curvature.errors import ConfigError

SCALES = ("smoke", "desk", "lab", "paper")
PRECISIONS = ("highest", "high", "medium")
PARTS = ("data", "module")


def validate(cfg: DictConfig) -> None:
    """Check the keys that the engine itself reads. Parts check their own arguments when they are built.

    Raises:
        ConfigError: naming the key, the value and what is allowed.
    """
    if not cfg.paper:
        from curvature.configs import group_options

        listed = "".join(f"\n  experiment={name}" for name in group_options("experiment"))
        raise ConfigError("experiment", None, f"choose an experiment:{listed}")
    try:
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(getattr(error, "full_key", None) or "config"), None, str(error).splitlines()[0]) from None
    for key in ("paper", "outputs", "experiments"):
        if not isinstance(cfg[key], str) or not cfg[key].strip():
            raise ConfigError(key, cfg[key], "a name" if key == "paper" else "a path")
    if cfg.scale not in SCALES:
        raise ConfigError("scale", cfg.scale, f"one of {', '.join(SCALES)}")
    _integer("seed", cfg.seed, least=0, most=2**32 - 1)
    _integer("max_steps", cfg.max_steps, least=1)
    _integer("checkpoint.every_n_steps", cfg.checkpoint.every_n_steps, least=1)
    if cfg.threads is not None:
        _integer("threads", cfg.threads, least=1)
    _devices(cfg.trainer.devices)
    _integer("trainer.num_nodes", cfg.trainer.num_nodes, least=1)
    _integer("trainer.log_every_n_steps", cfg.trainer.log_every_n_steps, least=1)
    _interval("trainer.val_check_interval", cfg.trainer.val_check_interval)
    for split in ("train", "val", "test"):
        _limit(f"trainer.limit_{split}_batches", cfg.trainer.get(f"limit_{split}_batches"))
    if cfg.trainer.get("check_val_every_n_epoch") is not None:
        _integer("trainer.check_val_every_n_epoch", cfg.trainer.check_val_every_n_epoch, least=1)
    if not isinstance(cfg.trainer.get("plugins"), DictConfig | ListConfig | None):
        raise ConfigError("trainer.plugins", cfg.trainer.plugins, "null, or plugins with a _target_")
    if not isinstance(cfg.cost, str | None):
        raise ConfigError("cost", cfg.cost, "null or a few words")
    if not isinstance(cfg.callbacks, DictConfig | None):
        raise ConfigError("callbacks", cfg.callbacks, "null, or configs with a _target_ by name")
    if cfg.matmul_precision not in (None, *PRECISIONS):
        raise ConfigError("matmul_precision", cfg.matmul_precision, f"null, or one of {', '.join(PRECISIONS)}")
    _number("lr", cfg.lr, above=0.0)
    _number("weight_decay", cfg.weight_decay, least=0.0)
    for part in PARTS:
        if cfg.get(part) is None or "_target_" not in cfg[part]:
            raise ConfigError(part, cfg.get(part), "a config with a _target_; see the group's files in conf/")
    outputs = Path(cfg.outputs)
    if outputs.exists() and not outputs.is_dir():
        raise ConfigError("outputs", cfg.outputs, "a directory, or a path where one can be made")
    if cfg.data_root is not None and not (isinstance(cfg.data_root, str) and Path(cfg.data_root).is_dir()):
        raise ConfigError("data_root", cfg.data_root, "an existing directory (also settable as CURVATURE_DATA)")


def check_limits(cfg: DictConfig, datamodule: Any) -> None:
    """Refuse shares of batches that leave none; Lightning would say so of test batches after training.

    Args:
        cfg: the whole config.
        datamodule: set up, with the loaders in question.

    Raises:
        ConfigError: ``trainer.limit_val_batches`` or ``trainer.limit_test_batches``.
    """
    import pytorch_lightning as pl

    for key, method in (("limit_val_batches", "val_dataloader"), ("limit_test_batches", "test_dataloader")):
        share = cfg.trainer.get(key)
        given = getattr(type(datamodule), method) is not getattr(pl.LightningDataModule, method)
        if not given or not isinstance(share, float) or not 0.0 < share < 1.0:
            continue
        loaders = getattr(datamodule, method)()
        fewest = min(len(loader) for loader in (loaders if isinstance(loaders, list) else [loaders]))
        if fewest and int(share * fewest) < 1:
            allowed = f"null, an integer, or a share of at least 1/{fewest}, since a loader has {fewest} batches"
            raise ConfigError(f"trainer.{key}", share, allowed)


def _devices(value: Any) -> None:
    """A count, or a list of device numbers: how many processes share the batch is part of what a run is."""
    if not isinstance(value, ListConfig):
        _integer("trainer.devices", value, least=1)
    elif not value or not all(isinstance(item, int) and item >= 0 for item in value) or len(set(value)) < len(value):
        raise ConfigError("trainer.devices", list(value), "an integer >= 1, or a list of different device numbers")


def _interval(key: str, value: Any) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if value is not None and not whole and not (isinstance(value, float) and 0.0 < value <= 1.0):
        raise ConfigError(key, value, "null, an integer >= 1 (steps), or a share of the run above 0 and at most 1")


def _limit(key: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (number and value >= 0 and (isinstance(value, int) or value <= 1)):
        raise ConfigError(key, value, "null, an integer >= 0 (batches), or a share from 0 to 1")


def _integer(key: str, value: Any, least: int, most: int | None = None) -> None:
    inside = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if not inside or (most is not None and value > most):
        bounds = f"an integer >= {least}" if most is None else f"an integer between {least} and {most}"
        raise ConfigError(key, value, bounds)


def _number(key: str, value: Any, least: float | None = None, above: float | None = None) -> None:
    numeric = isinstance(value, int | float) and not isinstance(value, bool) and float("-inf") < value < float("inf")
    if not numeric or (least is not None and value < least) or (above is not None and value <= above):
        bounds = f"a finite number >= {least}" if least is not None else f"a finite number > {above}"
        raise ConfigError(key, value, bounds)

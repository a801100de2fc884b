"""DomainBed's registry of hyper-parameters: defaults, and random values that depend on seeds and names alone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.random import RandomState

from curvature.data.seeds import seed_hash
from curvature.errors import ConfigError, near_matches

SMALL_IMAGES = ("ColoredMNIST", "RotatedMNIST")
ALGORITHMS = ("ERM", "IRM", "VREx", "CORAL", "Fish", "IGA", "Fishr", "HGP", "Hutchinson")
RANGES = ("domainbed", "as_released", "as_intended")

Draw = Callable[[RandomState], Any]


def _power(base: float, low: float, high: float) -> Draw:
    """base^U(low, high); the order of the bounds decides how the draw is mirrored."""
    return lambda random: base ** random.uniform(low, high)


def _whole(draw: Draw) -> Draw:
    return lambda random: int(draw(random))


def _choice(*values: Any) -> Draw:
    return lambda random: values[random.choice(len(values))]


def registry(algorithm: str, dataset: str, ranges: str = "domainbed") -> dict[str, tuple[Any, Draw]]:
    """Hyper-parameter -> (default, how to draw it), for one algorithm and DomainBed data set.

    HGP and Hutchinson have the ranges of the paper's code, whose bounds are written from high to low.

    Args:
        algorithm: one of :data:`ALGORITHMS`.
        dataset: DomainBed's name.
        ranges: ``domainbed``; ``as_released``, the paper's fork, whose batches are at least 16; or ``as_intended``, the
            same with the narrower learning rate (small images) and weight decay (others) that the fork ties to
            names which HGP and Hutchinson no longer have, so that they never come into force.

    Raises:
        ConfigError: an algorithm without entry, or unknown ranges.
    """
    if algorithm not in ALGORITHMS:
        hint = near_matches(algorithm, ALGORITHMS) or list(ALGORITHMS)
        raise ConfigError("hydra.sweeper.algorithms", algorithm, f"one of {', '.join(hint)}")
    if ranges not in RANGES:
        raise ConfigError("hydra.sweeper.hparams", ranges, f"one of {', '.join(RANGES)}")
    small = dataset in SMALL_IMAGES
    narrow = ranges == "as_intended" and algorithm in ("HGP", "Hutchinson")
    least = 3 if ranges == "domainbed" else 4
    common: dict[str, tuple[Any, Draw]] = {
        "lr": (1e-3, _power(10, -4.5, -3.5 if narrow else -2.5)) if small else (5e-5, _power(10, -5, -3.5)),
        "weight_decay": (0.0, lambda _: 0.0) if small else (0.0, _power(10, -6, -3 if narrow else -2)),
        "batch_size": (64, _whole(_power(2, least, 9)))
        if small
        else (32, _whole(_power(2, least, 5 if dataset == "DomainNet" else 5.5))),
        "resnet_dropout": (0.0, _choice(0.0, 0.1, 0.5)),
    }
    return common | _own(algorithm)


def _own(algorithm: str) -> dict[str, tuple[Any, Draw]]:
    annealed = _power(10, -1, 5), _whole(_power(10, 0, 4))
    entries: Mapping[str, dict[str, tuple[Any, Draw]]] = {
        "IRM": {"irm_lambda": (100.0, annealed[0]), "irm_penalty_anneal_iters": (500, annealed[1])},
        "VREx": {"vrex_lambda": (10.0, annealed[0]), "vrex_penalty_anneal_iters": (500, annealed[1])},
        "CORAL": {"mmd_gamma": (1.0, _power(10, -1, 1))},
        "Fish": {"meta_lr": (0.5, _choice(0.05, 0.1, 0.5))},
        "IGA": {"penalty": (1000.0, _power(10, 1, 5))},
        "Fishr": {
            "lambda": (1000.0, _power(10, 1, 4)),
            "penalty_anneal_iters": (1500, lambda random: int(random.uniform(0, 5000))),
            "ema": (0.95, lambda random: random.uniform(0.9, 0.99)),
        },
        "HGP": {"penalty_alpha": (1e-4, _power(10, -3, -5)), "penalty_beta": (5e-3, _power(10, -1, -3))},
        "Hutchinson": {"penalty_alpha": (1e-3, _power(10, 4, 1)), "penalty_beta": (5e-3, _power(10, 6, 2))},
    }
    return entries.get(algorithm, {})


def hparams(
    algorithm: str, dataset: str, hparams_seed: int = 0, trial_seed: int = 0, ranges: str = "domainbed"
) -> dict[str, Any]:
    """Hyper-parameters of one run: the defaults at ``hparams_seed`` 0, else draws.

    Each value is drawn from its own generator at seed_hash(seed_hash(hparams_seed, trial_seed), name), so algorithms
    share the draws of what they have in common.
    """
    entries = registry(algorithm, dataset, ranges)
    if hparams_seed == 0:
        return {name: default for name, (default, _) in entries.items()}
    master = seed_hash(hparams_seed, trial_seed)
    return {name: draw(np.random.RandomState(seed_hash(master, name))) for name, (_, draw) in entries.items()}


KEYS = {
    "lr": "lr",
    "weight_decay": "weight_decay",
    "batch_size": "data.batch_size",
    "resnet_dropout": "model.dropout",
    "irm_lambda": "method.weight",
    "irm_penalty_anneal_iters": "method.anneal_steps",
    "vrex_lambda": "method.weight",
    "vrex_penalty_anneal_iters": "method.anneal_steps",
    "mmd_gamma": "method.weight",
    "meta_lr": "method.meta_lr",
    "penalty": "method.weight",
    "lambda": "method.weight",
    "penalty_anneal_iters": "method.anneal_steps",
    "ema": "method.ema",
    "penalty_alpha": "method.alpha",
    "penalty_beta": "method.beta",
}
"""DomainBed's hyper-parameter -> our config key."""

PROTOCOL = ("l2=0.0", "penalty_weight=1.0", "anneal_steps=0", "rescale_loss=false", "reduction=mean")
FIXED: Mapping[str, Sequence[str]] = {
    "IRM": ("method.unbiased=true", "method.reset_optimizer=true"),
    "VREx": ("method.alpha=1.0", "method.reset_optimizer=true"),
    "IGA": ("method.reduction=sum", "method.detach_center=true"),
    "Fishr": ("method.weight_before=0.0", "method.reset_optimizer=true"),
    "HGP": ("method.detach_center=true",),
    "Hutchinson": ("method.detach_center=true", "method.diag_estimator=independent", "method.n_probes=300"),
}
"""What DomainBed, or the paper's fork of it, does and does not draw, as Hydra overrides."""


def overrides(
    algorithm: str,
    dataset: str,
    hparams_seed: int = 0,
    trial_seed: int = 0,
    ranges: str = "domainbed",
    dropout: bool = True,
) -> list[str]:
    """One run's method and hyper-parameters as Hydra overrides on an experiment of this paper.

    Args:
        algorithm, dataset, hparams_seed, trial_seed, ranges: as in :func:`hparams`.
        dropout: whether the network has ``model.dropout``, which small images never use.

    Example:
        >>> overrides("ERM", "PACS")[:2]
        ['method=erm', 'l2=0.0']
    """
    values = hparams(algorithm, dataset, hparams_seed, trial_seed, ranges)
    if not dropout or dataset in SMALL_IMAGES:
        del values["resnet_dropout"]
    drawn = [f"{KEYS[name]}={value!r}" for name, value in values.items()]
    return [f"method={algorithm.lower()}", *PROTOCOL, *FIXED.get(algorithm, ()), *drawn]

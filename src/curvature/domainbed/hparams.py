"""DomainBed's registry of hyper-parameters: defaults, and random values that depend on seeds and names alone."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.random import RandomState

from curvature.domainbed.seeds import seed_hash
from curvature.errors import ConfigError, near_matches

SMALL_IMAGES = ("ColoredMNIST", "RotatedMNIST")
ALGORITHMS = ("ERM", "IRM", "VREx", "CORAL", "Fish", "IGA", "Fishr", "HGP", "Hutchinson")

Draw = Callable[[RandomState], Any]


def _power(base: float, low: float, high: float) -> Draw:
    """base^U(low, high); the order of the bounds decides how the draw is mirrored."""
    return lambda random: base ** random.uniform(low, high)


def _whole(draw: Draw) -> Draw:
    return lambda random: int(draw(random))


def _choice(*values: Any) -> Draw:
    return lambda random: values[random.choice(len(values))]


def registry(algorithm: str, dataset: str) -> dict[str, tuple[Any, Draw]]:
    """Hyper-parameter -> (default, how to draw it), for one algorithm and DomainBed data set.

    HGP and Hutchinson have the ranges of the paper's code, whose bounds are written from high to low.

    Raises:
        ConfigError: an algorithm without entry.
    """
    if algorithm not in ALGORITHMS:
        hint = near_matches(algorithm, ALGORITHMS) or list(ALGORITHMS)
        raise ConfigError("algorithm", algorithm, f"one of {', '.join(hint)}")
    small = dataset in SMALL_IMAGES
    common: dict[str, tuple[Any, Draw]] = {
        "lr": (1e-3, _power(10, -4.5, -2.5)) if small else (5e-5, _power(10, -5, -3.5)),
        "weight_decay": (0.0, lambda _: 0.0) if small else (0.0, _power(10, -6, -2)),
        "batch_size": (64, _whole(_power(2, 3, 9)))
        if small
        else (32, _whole(_power(2, 3, 5 if dataset == "DomainNet" else 5.5))),
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
        "HGP": {"alpha": (1e-4, _power(10, -3, -5)), "beta": (5e-3, _power(10, -1, -3))},
        "Hutchinson": {"alpha": (1e-3, _power(10, 4, 1)), "beta": (5e-3, _power(10, 6, 2))},
    }
    return entries.get(algorithm, {})


def hparams(algorithm: str, dataset: str, hparams_seed: int = 0, trial_seed: int = 0) -> dict[str, Any]:
    """Hyper-parameters of one run: the defaults at ``hparams_seed`` 0, else draws.

    Each value is drawn from its own generator at seed_hash(seed_hash(hparams_seed, trial_seed), name), so algorithms
    share the draws of what they have in common.
    """
    entries = registry(algorithm, dataset)
    if hparams_seed == 0:
        return {name: default for name, (default, _) in entries.items()}
    master = seed_hash(hparams_seed, trial_seed)
    return {name: draw(np.random.RandomState(seed_hash(master, name))) for name, (_, draw) in entries.items()}


def overrides(algorithm: str, dataset: str, hparams_seed: int = 0, trial_seed: int = 0) -> list[str]:
    """The same as Hydra overrides for ``experiment=paper/hessian_alignment``, for an ordinary sweep.

    Example:
        >>> overrides("ERM", "PACS")[:2]
        ['method=erm', 'lr=5e-05']
    """
    values = hparams(algorithm, dataset, hparams_seed, trial_seed)
    keys = {
        "lr": "lr",
        "weight_decay": "weight_decay",
        "batch_size": "data.batch_size",
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
        "alpha": "method.alpha",
        "beta": "method.beta",
    }
    chosen = [f"method={algorithm.lower()}"]
    chosen += [f"{keys[name]}={value!r}" for name, value in values.items() if name in keys]
    if dataset not in SMALL_IMAGES:
        chosen.append(f"model.dropout={values['resnet_dropout']!r}")
    return chosen

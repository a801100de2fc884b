"""Seeds as DomainBed derives them, so that splits and hyper-parameters can be compared run for run."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


def seed_hash(*values: Any) -> int:
    """The md5 of the tuple's text, modulo 2^31.

    Example:
        >>> seed_hash(1, 1)
        1442673865
    """
    return int(hashlib.md5(str(values).encode(), usedforsecurity=False).hexdigest(), 16) % 2**31


def holdout(
    size: int, fraction: float, trial_seed: int, environment: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions kept and held out: the first ``int(size * fraction)`` of numpy's shuffle at seed_hash(trial, env).

    With ``fraction`` 0 all are kept, in order.
    """
    if fraction == 0:
        return np.arange(size), np.arange(0)
    keys = list(range(size))
    np.random.RandomState(seed_hash(trial_seed, environment)).shuffle(keys)
    count = int(size * fraction)
    return np.array(keys[count:]), np.array(keys[:count])

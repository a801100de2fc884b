"""Seeds made from seeds, so that two uses of one seed never share a sequence of random numbers; DomainBed's too.

What DomainBed derives is derived here as it does, so that splits and hyper-parameters can be compared run for run.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def derive(purpose: str, *numbers: int) -> int:
    """A seed in [0, 2**63) for one purpose; any change of ``purpose`` or of a number >= 0 gives an unrelated one."""
    words = [int.from_bytes(purpose.encode(), "big"), *numbers]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


def per_example(seed: int, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """One seed in [0, 2**63) per index: splitmix64 (Steele, Lea and Flood 2014) started at ``seed``."""
    with np.errstate(over="ignore"):
        state = np.uint64(seed) + (indices.astype(np.uint64) + np.uint64(1)) * _MIX[0]
        state = (state ^ (state >> np.uint64(30))) * _MIX[1]
        state = (state ^ (state >> np.uint64(27))) * _MIX[2]
        return ((state ^ (state >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


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

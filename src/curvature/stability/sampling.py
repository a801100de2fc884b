"""Which samples a step of SGD sees: the noise factor of a batch size, and the order as a function of (seed, step)."""

import numpy as np
import torch
from torch import Tensor

from curvature.errors import ConfigError

BLOCK = 1024


def check_batch_size(samples: int, batch_size: int, replacement: bool) -> None:
    """Raise ConfigError unless ``batch_size`` samples can be drawn from ``samples``."""
    most = None if replacement else samples
    if batch_size < 1 or (most is not None and batch_size > most):
        bounds = "at least 1" if most is None else f"between 1 and {most} (the samples, drawn without replacement)"
        raise ConfigError("batch_size", batch_size, bounds)


def noise_factor(samples: int, batch_size: int, replacement: bool = False) -> float:
    """Share ``p`` of the single-sample noise covariance that is left in a batch.

    ``p = 1/B`` with replacement, ``(n - B) / (B (n - 1))`` without: 1 for single samples, 0 for the full batch.

    Args:
        samples: number ``n`` of training samples.
        batch_size: number ``B`` of samples in a step.
        replacement: whether a batch may hold a sample twice.

    Raises:
        ConfigError: the batch cannot be drawn.
    """
    check_batch_size(samples, batch_size, replacement)
    if replacement:
        return 1.0 / batch_size
    if batch_size == samples:
        return 0.0
    return (samples - batch_size) / (batch_size * (samples - 1))


def batch_order(
    seed: int, first: int, steps: int, samples: int, batch_size: int = 1, replacement: bool = True
) -> Tensor:
    """Samples used by steps ``first`` to ``first + steps - 1``: a pure function of (seed, step).

    Batches of different steps are independent. Blocks of steps have their own counter-based generator, so that any
    step can be reached without drawing the ones before it.

    Args:
        seed: of the order; non-negative.
        first: first step, from 0.
        steps: number of steps.
        samples: number of training samples.
        batch_size: samples a step.
        replacement: whether a batch may hold a sample twice.

    Returns:
        Indices (steps, batch_size), int64.

    Raises:
        ConfigError: the batch cannot be drawn.
    """
    check_batch_size(samples, batch_size, replacement)
    blocks = range(first // BLOCK, (first + steps - 1) // BLOCK + 1) if steps else range(0)
    drawn = [_block(seed, block, samples, batch_size, replacement) for block in blocks]
    order = np.concatenate(drawn) if drawn else np.empty((0, batch_size), dtype=np.int64)
    offset = first % BLOCK
    return torch.from_numpy(order[offset : offset + steps])


def _block(seed: int, block: int, samples: int, batch_size: int, replacement: bool) -> np.ndarray:
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, block], dtype=np.uint64)))
    if replacement or batch_size == 1:
        return generator.integers(samples, size=(BLOCK, batch_size))
    keys = generator.random((BLOCK, samples))
    return np.argsort(keys, axis=1, kind="stable")[:, :batch_size]

"""The data of the paper's experiments, each a pure function of its seed, in float64."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from curvature.errors import ConfigError


@dataclass(frozen=True)
class Problem:
    """A regression problem.

    Attributes:
        inputs: training inputs (n, d).
        targets: training targets (n,).
        test_inputs: (t, d).
        test_targets: (t,).
        truth: what generated the targets: ``beta`` (d,) or ``directions`` (k, d); None for real data.
        binary: whether targets are -1 and 1, so that the sign of an output is a class.
    """

    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    truth: Tensor | None = None
    binary: bool = False

    @property
    def label_variance(self) -> float:
        """Variance of the training targets."""
        return float(self.targets.var(correction=0))


def sparse_regression(
    seed: int, dim: int = 1000, samples: int = 300, sparsity: int = 3, test_samples: int = 2000
) -> Problem:
    """``y = <beta, x>`` with ``sparsity`` leading ones in beta, x uniform on [-1, 1]^dim, no noise.

    Raises:
        ConfigError: more ones than coordinates, or an empty set.
    """
    _positive(dim=dim, samples=samples, sparsity=sparsity, test_samples=test_samples)
    if sparsity > dim:
        raise ConfigError("sparsity", sparsity, f"at most dim={dim}")
    generator = np.random.default_rng([seed, 0])
    inputs = torch.from_numpy(generator.uniform(-1, 1, size=(samples + test_samples, dim)))
    beta = torch.zeros(dim, dtype=torch.float64)
    beta[:sparsity] = 1
    return _split(inputs, inputs @ beta, samples, truth=beta)


def relu_teacher(seed: int, dim: int = 100, samples: int = 300, units: int = 10, test_samples: int = 2000) -> Problem:
    """``y = sum_j relu(v_j . x)``, v_j uniform on the unit sphere, x uniform on the sphere of radius sqrt(dim)."""
    _positive(dim=dim, samples=samples, units=units, test_samples=test_samples)
    generator = np.random.default_rng([seed, 1])
    directions = _on_sphere(generator.standard_normal((units, dim)), 1.0)
    inputs = _on_sphere(generator.standard_normal((samples + test_samples, dim)), math.sqrt(dim))
    targets = (inputs @ directions.T).clamp_min(0).sum(-1)
    return _split(inputs, targets, samples, truth=directions)


def binary_digits(seed: int, samples: int = 300) -> Problem:
    """Scikit-learn's 8x8 digits: 1 for the digits from 5 on, else -1.

    Images are centred on the training mean, then scaled to norm 8.

    Args:
        seed: of the split.
        samples: images to train on; the other ones of the 1797 are for testing.

    Raises:
        ConfigError: no image is left for training or testing.
    """
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    if not 1 <= samples < len(images):
        raise ConfigError("samples", samples, f"between 1 and {len(images) - 1}")
    order = np.random.default_rng([seed, 2]).permutation(len(images))
    inputs = images[order] / 16
    inputs = _on_sphere(inputs - inputs[:samples].mean(0), math.sqrt(images.shape[1]))
    targets = torch.from_numpy(np.where(digits[order] >= 5, 1.0, -1.0))
    return _split(inputs, targets, samples, binary=True)


def _split(inputs: Tensor, targets: Tensor, samples: int, **more: Tensor | bool) -> Problem:
    parts = inputs[:samples], targets[:samples], inputs[samples:], targets[samples:]
    return Problem(*(part.contiguous() for part in parts), **more)  # type: ignore[arg-type]


def _on_sphere(rows: np.ndarray, radius: float) -> Tensor:
    return torch.from_numpy(radius * rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ConfigError(name, value, "at least 1")

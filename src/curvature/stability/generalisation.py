"""Rademacher bounds that turn stability into generalisation, with all constants (derived; loose by design)."""

import math

import torch
from torch import Tensor

from curvature.stability.diagonal import DiagonalFamily
from curvature.stability.family import Family
from curvature.stability.problems import Problem
from curvature.stability.relu import ReLUFamily


def gap_bound(complexity: float, largest_error: float, samples: int, delta: float = 0.05) -> float:
    """Bound on |test - train| of the half-MSE over a class, with probability at least ``1 - delta``.

    Args:
        complexity: Rademacher complexity of the class of predictors.
        largest_error: ``sup |f(x) - y|`` over the class and the inputs.
        samples: training samples.
        delta: probability of failure.
    """
    deviation = largest_error**2 / 2 * math.sqrt(math.log(2 / delta) / (2 * samples))
    return 2 * largest_error * complexity + deviation


def stable_l1(rate: float, inputs: Tensor) -> float:
    """Largest ``||a * b||_1`` of a diagonal linear net whose trace is at most ``2 / rate``; inputs (n, d)."""
    return 1 / (rate * float(inputs.square().mean(-2).amin()))


def stable_path_norm(rate: float, dim: int) -> float:
    """Largest path norm of a two-layer ReLU net whose population trace is at most ``2 / rate``."""
    return 2 / (math.sqrt(dim) * rate)


def diagonal_gap_bound(l1: float, truth_l1: float, samples: int, dim: int, delta: float = 0.05) -> float:
    """:func:`gap_bound` for linear predictors of l1 norm at most ``l1`` on inputs in [-1, 1]^dim."""
    complexity = l1 * math.sqrt(2 * math.log(2 * dim) / samples)
    return gap_bound(complexity, l1 + truth_l1, samples, delta)


def relu_gap_bound(path_norm: float, truth_path_norm: float, samples: int, dim: int, delta: float = 0.05) -> float:
    """:func:`gap_bound` for ReLU nets of path norm at most ``path_norm`` on the sphere of radius sqrt(dim)."""
    radius = math.sqrt(dim)
    complexity = 2 * path_norm * radius / math.sqrt(samples)
    return gap_bound(complexity, radius * (path_norm + truth_path_norm), samples, delta)


def stable_gap_bound(family: Family, problem: Problem, rate: float) -> float | None:
    """Bound on the generalisation gap of all minima that single-sample SGD at ``rate`` can be stable at.

    None where none is derived: other nets than diagonal linear and two-layer ReLU nets, and data without a known truth.
    For ReLU nets the population trace stands in for the one on the training set.
    """
    if problem.truth is None:
        return None
    samples, dim = problem.inputs.shape
    if isinstance(family, DiagonalFamily):
        return diagonal_gap_bound(stable_l1(rate, problem.inputs), float(problem.truth.abs().sum()), samples, dim)
    if isinstance(family, ReLUFamily):
        truth = float(torch.linalg.vector_norm(problem.truth, dim=-1).sum())
        return relu_gap_bound(stable_path_norm(rate, dim), truth, samples, dim)
    return None

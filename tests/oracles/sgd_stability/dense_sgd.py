"""Slow references for tiny problems: dense operators on P x P second moments, and every possible batch."""

import itertools

import numpy as np


def random_gradients(seed: int, samples: int | None = None, parameters: int | None = None) -> np.ndarray:
    generator = np.random.default_rng([seed, 77])
    n = samples or int(generator.integers(4, 9))
    width = parameters or int(generator.integers(3, 13))
    kind = seed % 3
    rows = generator.standard_normal((n, width))
    if kind == 1:
        rows *= generator.exponential(size=(n, 1))
    if kind == 2:
        rows *= generator.exponential(size=width)
    return rows


def all_batches(samples: int, batch_size: int, replacement: bool) -> list[tuple[int, ...]]:
    if replacement:
        return list(itertools.product(range(samples), repeat=batch_size))
    return list(itertools.combinations(range(samples), batch_size))


def dense_map(gradients: np.ndarray, eta: float, batch_size: int, replacement: bool) -> np.ndarray:
    """Mean of A x A over all batches, A = I - (eta/B) sum g g^T restricted to the span of the gradients."""
    _, singular, right = np.linalg.svd(gradients, full_matrices=False)
    inside = gradients @ right[singular > 1e-10 * singular[0]].T
    dimension = inside.shape[1]
    total, batches = np.zeros((dimension**2, dimension**2)), all_batches(len(inside), batch_size, replacement)
    for batch in batches:
        rows = inside[list(batch)]
        step = np.eye(dimension) - eta / batch_size * rows.T @ rows
        total += np.kron(step, step)
    return total / len(batches)


def dense_growth(gradients: np.ndarray, eta: float, batch_size: int, replacement: bool) -> float:
    return float(np.linalg.eigvalsh(dense_map(gradients, eta, batch_size, replacement))[-1])


def dense_threshold(gradients: np.ndarray, batch_size: int, replacement: bool) -> float:
    """Largest eta at which :func:`dense_growth` is at most 1, by bisection (the map is convex in eta)."""
    low, high = 0.0, 1.0
    while dense_growth(gradients, high, batch_size, replacement) <= 1:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if dense_growth(gradients, middle, batch_size, replacement) <= 1:
            low = middle
        else:
            high = middle
    return low

"""Order of samples, data sets, eligibility and generalisation bounds."""

import math

import numpy as np
import pytest
import torch

from curvature.errors import ConfigError
from curvature.stability import Conduct, batch_order, ineligible, noise_factor
from curvature.stability.generalisation import (
    diagonal_gap_bound,
    gap_bound,
    relu_gap_bound,
    stable_l1,
    stable_path_norm,
)
from curvature.stability.problems import binary_digits, relu_teacher, sparse_regression


@pytest.mark.parametrize(("batch_size", "replacement"), [(1, True), (4, True), (4, False)])
def test_order_is_a_function_of_seed_and_step_however_it_is_cut(batch_size, replacement):
    whole = batch_order(7, 0, 5000, 30, batch_size, replacement)
    assert whole.shape == (5000, batch_size) and whole.dtype == torch.int64
    for first, steps in ((0, 1), (1020, 10), (1024, 1024), (4999, 1), (100, 0)):
        part = batch_order(7, first, steps, 30, batch_size, replacement)
        assert torch.equal(part, whole[first : first + steps])
    assert not torch.equal(whole, batch_order(8, 0, 5000, 30, batch_size, replacement))


def test_order_is_uniform_and_steps_are_independent():
    order = batch_order(0, 0, 90_000, 30)[:, 0].numpy()
    counts = np.bincount(order, minlength=30)
    assert np.square(counts - 3000).sum() / 3000 < 58
    pairs = np.bincount(30 * order[:-1] + order[1:], minlength=900)
    assert np.square(pairs - 100).sum() / 100 < 1040


def test_batches_without_replacement_hold_no_sample_twice():
    order = batch_order(0, 0, 2000, 6, 4, replacement=False)
    assert all(len(set(row)) == 4 for row in order.tolist())
    assert len({tuple(sorted(row)) for row in order.tolist()}) == 15
    order = batch_order(0, 0, 2000, 6, 4, replacement=True)
    assert any(len(set(row)) < 4 for row in order.tolist())


def test_noise_factor_is_that_of_the_batch_mean():
    values = np.array([1.0, 2.0, 4.0, 9.0])
    variance = values.var()
    for size in (1, 2, 3, 4):
        for replacement in (False, True):
            order = batch_order(3, 0, 20_000, 4, size, replacement).numpy()
            measured = values[order].mean(1).var() / variance
            assert measured == pytest.approx(noise_factor(4, size, replacement), abs=0.02)


def test_sparse_regression_is_the_stated_law():
    problem = sparse_regression(0)
    assert problem.inputs.shape == (300, 1000) and problem.test_inputs.shape == (2000, 1000)
    assert problem.inputs.dtype == torch.float64
    torch.testing.assert_close(problem.inputs[:, :3].sum(1), problem.targets)
    assert problem.inputs.abs().max() <= 1
    assert float(problem.inputs.var()) == pytest.approx(1 / 3, abs=0.005)
    again, other = sparse_regression(0), sparse_regression(1)
    assert torch.equal(problem.inputs, again.inputs) and not torch.equal(problem.inputs, other.inputs)
    assert problem.label_variance == pytest.approx(1.0, abs=0.2)


def test_teacher_is_the_stated_law():
    problem = relu_teacher(0)
    torch.testing.assert_close(problem.inputs.norm(dim=1), torch.full((300,), 10.0, dtype=torch.float64))
    torch.testing.assert_close(problem.truth.norm(dim=1), torch.ones(10, dtype=torch.float64))
    assert float(problem.test_targets.mean()) == pytest.approx(10 / math.sqrt(2 * math.pi), abs=0.15)
    assert not problem.binary


def test_digits_are_balanced_scaled_and_split():
    problem = binary_digits(0)
    assert problem.inputs.shape == (300, 64) and problem.test_inputs.shape == (1497, 64)
    torch.testing.assert_close(problem.inputs.norm(dim=1), torch.full((300,), 8.0, dtype=torch.float64))
    assert set(problem.targets.tolist()) == {-1.0, 1.0}
    assert abs(float(problem.targets.mean())) < 0.2 and problem.binary
    assert not torch.equal(binary_digits(0).inputs, binary_digits(1).inputs)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sparse_regression(0, dim=2), "sparsity=3"),
        (lambda: sparse_regression(0, samples=0), "samples=0"),
        (lambda: relu_teacher(0, units=0), "units=0"),
        (lambda: binary_digits(0, samples=1797), "samples=1797"),
    ],
)
def test_impossible_data_is_named(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def conduct(**changes) -> Conduct:
    return Conduct(**({"loss": 1e-9, "label_variance": 1.0, "steps": 1000, "last_clipped": 100} | changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"last_clipped": -1}, None),
        ({"last_clipped": 799}, None),
        ({"last_clipped": 800}, "clipped"),
        ({"loss": 1e-6}, "not converged"),
        ({"loss": 1e-3, "label_variance": 1e4}, None),
        ({"loss": float("nan")}, "not converged"),
        ({"diverged": True}, "diverged"),
        ({"constant_rate": False}, "learning rate decayed"),
    ],
)
def test_eligibility(changes, reason):
    assert ineligible(conduct(**changes)) == reason


def test_generalisation_bounds_shrink_with_the_learning_rate_and_the_samples():
    inputs = torch.full((10, 4), 0.5, dtype=torch.float64)
    assert stable_l1(0.1, inputs) == pytest.approx(40)
    assert stable_path_norm(0.01, 100) == pytest.approx(20)
    assert gap_bound(0.5, 2.0, 100, delta=2 / math.e) == pytest.approx(2 + 2 / math.sqrt(200))
    assert diagonal_gap_bound(4, 3, 300, 1000) > diagonal_gap_bound(2, 3, 300, 1000)
    assert diagonal_gap_bound(4, 3, 300, 1000) > diagonal_gap_bound(4, 3, 3000, 1000)
    assert relu_gap_bound(20, 10, 300, 100) > relu_gap_bound(10, 10, 300, 100)

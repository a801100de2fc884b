"""What a sweep comes to: ratios over bounds, eligible lanes only, and facts without training."""

import math

import numpy as np
import pytest
import torch

from curvature.stability import Conduct, LinearisedSGD
from curvature.stability.descent import ChunkedDescent
from curvature.stability.exact import linear_metrics, scaling_metrics, witness_metrics
from curvature.stability.problems import relu_teacher
from curvature.stability.references import reference_losses
from curvature.stability.summary import REASONS, Lane, lane_metrics, sweep_metrics

GRADIENTS = np.diag([1.0, 2.0, 3.0])


def lane(position: float, rate: float, gradients=GRADIENTS, test_loss: float = 1.0, **conduct) -> Lane:
    how = Conduct(**({"loss": 1e-12, "label_variance": 1.0, "steps": 100} | conduct))
    values = {"test/loss": test_loss}
    return Lane(f"lr_{position:g}", position, rate, how, LinearisedSGD.from_gradients(gradients), values)


def test_ratios_are_metric_over_bound():
    metrics = lane_metrics(lane(0.1, 0.1), batch_size=1)
    trace, largest = 14 / 3, 9 / 3
    assert metrics["sharpness/trace"] == pytest.approx(trace)
    assert metrics["stability/trace"] == metrics["stability/trace_full"] == pytest.approx(0.1 * trace / 2)
    assert metrics["stability/lambda_max"] == pytest.approx(0.1 * largest / 2)
    assert metrics["stability/rate"] == pytest.approx(0.1 * 9 / 2)
    assert metrics["stability/growth"] == pytest.approx(1 - 2 * 0.1 / 3 + 0.01 / 3)
    assert metrics["stability/eligible"] == 1 and "stability/ineligible" not in metrics
    descent = lane_metrics(lane(0.1, 0.1), batch_size=3, replacement=False)
    assert descent["stability/trace"] == 0 and descent["stability/trace_full"] == pytest.approx(0.1 * trace / 2)
    assert descent["stability/rate"] == descent["stability/lambda_max"]


def test_a_violating_run_shows_and_one_that_proves_nothing_does_not():
    good, violating = lane(0.1, 0.1), lane(0.9, 0.9)
    others = [
        lane(1.0, 9.0, last_clipped=99),
        lane(1.1, 9.0, constant_rate=False),
        lane(1.2, 9.0, loss=1.0),
        lane(1.3, 9.0, diverged=True),
    ]

    def summary(*lanes):
        return sweep_metrics(lanes, [lane_metrics(one, 1) for one in lanes])

    assert summary(good)["stability/trace_max"] < 1
    assert summary(good, violating)["stability/trace_max"] > 1
    assert summary(good, violating)["stability/trace_min"] == summary(good)["stability/trace_max"]
    ineligible = summary(*others)
    assert ineligible["stability/eligible_lanes"] == 0
    assert not any(name.startswith("stability/trace") for name in ineligible)
    assert summary(good, *others)["stability/trace_max"] == summary(good)["stability/trace_max"]
    for one, reason in zip(others, ("clipped", "learning rate decayed", "not converged", "diverged")):
        metrics = lane_metrics(one, 1)
        assert metrics["stability/eligible"] == 0 and metrics["stability/growth"] > 1
        assert REASONS[int(metrics["stability/ineligible"]) - 1] == reason


def test_trends_are_over_lanes_that_did_not_diverge():
    lanes = [
        lane(0.2, 0.2, test_loss=3.0),
        lane(0.1, 0.1, test_loss=8.0),
        lane(0.3, 0.3, test_loss=1.0),
        lane(0.4, 0.4, test_loss=99.0, diverged=True),
    ]
    metrics = sweep_metrics(lanes, [lane_metrics(one, 1) for one in lanes])
    assert metrics["sweep/spearman/test/loss"] == -1
    assert metrics["sweep/ratio/test/loss"] == 8
    assert metrics["sweep/last/test/loss"] == 1
    assert "sweep/spearman/sharpness/trace" not in metrics
    assert sweep_metrics(lanes[3:], [lane_metrics(lanes[3], 1)]) == {"stability/eligible_lanes": 0}


@pytest.mark.parametrize("seed", range(20))
def test_linear_facts_hold(seed):
    facts = linear_metrics(seed)
    for name in ("trace", "frobenius", "lambda_max", "trace_general", "non_uniformity_contraction"):
        assert 0 < facts[f"linear/{name}"] <= 1 + 1e-9
    assert facts["linear/gd_threshold_error"] < 1e-10
    assert facts["linear/loss_identity_error"] < 1e-12


def test_scaling_facts_hold():
    facts = scaling_metrics(0)
    for dim in (16, 64, 256):
        assert facts[f"scaling/relu/trace/d{dim}"] == pytest.approx(1, abs=0.02)
        assert facts[f"scaling/relu/balance/d{dim}"] >= 1
    assert max(v for name, v in facts.items() if name.startswith("scaling/diagonal")) < 1e-10


def test_witness_beats_the_truth_in_all_but_the_trace():
    facts = witness_metrics(0)
    assert facts["witness/train_error"] < 1e-10 and facts["witness/test_loss"] > 0.3
    assert facts["witness/trace_ratio"] > 4
    assert facts["witness/lambda_max_ratio"] < 0.5 and facts["witness/frobenius_ratio"] < 1
    assert facts["witness/gd_excluded_above"] > 2 * facts["witness/gd_truth_kept_below"]
    assert facts["witness/excluded_above"] < 0.3 * facts["witness/truth_kept_below"]
    assert math.isclose(facts["witness/excluded_above"], 2 / facts["witness/trace"], rel_tol=0.05)


def test_references_are_the_mean_and_a_fitted_line():
    problem = relu_teacher(0, dim=4, samples=50, units=3, test_samples=200)
    found = reference_losses(problem)
    mean = problem.targets.mean()
    assert found["constant"] == pytest.approx(float((problem.test_targets - mean).square().mean()) / 2)
    columns = [torch.cat([x, torch.ones(len(x), 1).double()], 1) for x in (problem.inputs, problem.test_inputs)]
    fit = torch.linalg.lstsq(columns[0], problem.targets[:, None]).solution
    expected = ((columns[1] @ fit)[:, 0] - problem.test_targets).square().mean() / 2
    assert found["least_squares"] == pytest.approx(float(expected), rel=1e-9)


def test_chunked_descent_is_an_optimiser():
    parameter = torch.zeros(2)

    def advance():
        parameter.add_(1)
        return parameter.sum()

    optimizer = ChunkedDescent([parameter], advance)
    assert optimizer.step() == 2 and optimizer.step() == 4
    optimizer.load_state_dict(optimizer.state_dict())

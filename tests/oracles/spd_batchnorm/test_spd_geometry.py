"""Closed forms of the four metrics on positive definite matrices: oracles O1 to O7."""

import itertools
import math

import pytest
import torch
from spd_random import orthogonal, spd, symmetric

from curvature.geometry.spd import (
    affine_invariant,
    bures_wasserstein,
    bures_wasserstein_distance,
    log_cholesky,
    log_euclidean,
    matrix_power,
    matrix_sqrt,
)
from curvature.geometry.spd.bures_wasserstein import squared_distance, transport_from_identity, transport_to_identity

METRICS = [bures_wasserstein, affine_invariant, log_euclidean, log_cholesky]
IDS = ["bw", "aim", "lem", "lcm"]
EYE = torch.eye(4, dtype=torch.float64)


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_o1_scaled_identities_and_commuting_points():
    eye = torch.eye(3, dtype=torch.float64)
    assert float(bures_wasserstein_distance(eye, 2 * eye)) == pytest.approx(0.7174389352, abs=1e-10)
    assert float(bures_wasserstein_distance(eye, 2 * eye)) ** 2 == pytest.approx(3 * (1 - math.sqrt(2)) ** 2, 1e-12)
    U = orthogonal(3, 1)
    a, b = torch.tensor([0.2, 1.0, 3.0]).double(), torch.tensor([2.0, 0.7, 1.1]).double()
    P, Q = (U * a) @ U.T, (U * b) @ U.T
    close(bures_wasserstein_distance(P, Q), torch.linalg.matrix_norm(matrix_sqrt(P) - matrix_sqrt(Q)))


def test_o2_metric_parameter():
    P, Q, M = spd(5, 4, seed=1), spd(5, 4, seed=2), spd(4, seed=3)
    A = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    close(bures_wasserstein_distance(P, Q, EYE), bures_wasserstein_distance(P, Q), 1e-12)
    moved = bures_wasserstein_distance(A @ P @ A.T, A @ Q @ A.T, A @ M @ A.T)
    close(moved, bures_wasserstein_distance(P, Q, M))
    inverse = torch.linalg.inv(M)
    product = torch.linalg.eigvals(P @ inverse @ Q @ inverse).real.sqrt().sum(-1)
    trace = torch.einsum("bij,ji->b", P + Q, inverse) - 2 * product
    close(squared_distance(P, Q, M), trace)


def test_o3_metric_at_the_parameter_is_a_quarter_of_the_affine_invariant_one():
    P, S, T = spd(5, 4, seed=1), symmetric(5, 4, seed=2), symmetric(5, 4, seed=3)
    close(bures_wasserstein.inner(P, S, T, M=P), affine_invariant.inner(P, S, T) / 4, 1e-12)
    close(bures_wasserstein.inner(EYE, S, S), (S**2).sum((-2, -1)) / 4, 1e-12)


def gram(metric, P):
    n = P.shape[-1]
    basis = []
    for i in range(n):
        for j in range(i, n):
            S = torch.zeros(n, n, dtype=torch.float64)
            S[i, j] = S[j, i] = 1.0 if i == j else 1 / math.sqrt(2)
            basis.append(S)
    stack = torch.stack(basis)
    return metric.inner(P, stack[:, None].expand(-1, len(stack), n, n), stack[None].expand(len(stack), -1, n, n))


def test_o4_condition_of_the_metric_is_linear_for_bw_and_quadratic_for_aim():
    P = spd(4, low=1e-2, high=1.0, seed=5)
    kappa = torch.linalg.cond(P)
    close(torch.linalg.cond(gram(bures_wasserstein, P)), kappa, 1e-9)
    close(torch.linalg.cond(gram(affine_invariant, P)), kappa**2, 1e-9)


@pytest.mark.parametrize("metric", METRICS, ids=IDS)
def test_o5_exponential_logarithm_geodesic_and_distance_agree(metric):
    P, Q = spd(5, 4, seed=1), spd(5, 4, seed=2)
    V = metric.log(P, Q)
    close(metric.exp(P, V), Q)
    close(metric.inner(P, V, V).sqrt(), metric.distance(P, Q))
    close(metric.geodesic(P, Q, 0.0), P)
    close(metric.geodesic(P, Q, 1.0), Q)
    for t in (0.25, 0.5, 0.9):
        close(metric.distance(P, metric.geodesic(P, Q, t)), t * metric.distance(P, Q))
        close(metric.exp(P, t * V), metric.geodesic(P, Q, t))
    middle = metric.barycentre(torch.stack([P, Q], 1))
    close(middle, metric.geodesic(P, Q, 0.5))


@pytest.mark.parametrize("metric", METRICS, ids=IDS)
def test_o5_transport_is_an_isometry_with_inverse(metric):
    U = orthogonal(4, 3)
    P, Q = ((U * torch.tensor(v).double()) @ U.T for v in ([0.3, 1.0, 2.0, 2.0], [1.0, 0.5, 0.5, 3.0]))
    V, W = symmetric(6, 4, seed=4), symmetric(6, 4, seed=5)
    moved, other = metric.parallel_transport(P, Q, V), metric.parallel_transport(P, Q, W)
    close(metric.inner(Q, moved, other), metric.inner(P, V, W))
    close(metric.parallel_transport(Q, P, moved), V)
    assert float((moved - V).abs().max()) > 1e-2


@pytest.mark.parametrize("metric", METRICS[1:], ids=IDS[1:])
def test_transport_carries_the_velocity_of_a_geodesic_into_its_end(metric):
    P, Q = spd(4, seed=1), spd(4, seed=2)
    close(metric.parallel_transport(P, Q, metric.log(P, Q)), -metric.log(Q, P))


def test_bures_wasserstein_transport_to_and_from_the_identity():
    B, V = spd(4, seed=3), symmetric(6, 4, seed=4)
    there = transport_to_identity(B, V)
    close(transport_from_identity(B, there), V)
    close(bures_wasserstein.inner(EYE, there, there), bures_wasserstein.inner(B, V, V))
    values, vectors = torch.linalg.eigh(B)
    factors = ((values[:, None] + values[None, :]) / 2).sqrt()
    close(transport_from_identity(B, V), vectors @ (factors * (vectors.T @ V @ vectors)) @ vectors.T)
    velocity = bures_wasserstein.log(EYE, B)
    close(transport_from_identity(B, velocity), -bures_wasserstein.log(B, EYE))


def test_transport_between_points_that_do_not_commute_is_refused():
    with pytest.raises(ValueError, match="commute"):
        bures_wasserstein.parallel_transport(spd(4, seed=1), spd(4, seed=2), symmetric(4, seed=3))


def test_operators_under_a_metric_parameter_agree_with_each_other():
    P, Q, M = spd(4, seed=1), spd(4, seed=2), spd(4, seed=3)
    V = bures_wasserstein.log(P, Q, M)
    close(bures_wasserstein.exp(P, V, M), Q)
    close(bures_wasserstein.inner(P, V, V, M), squared_distance(P, Q, M))
    close(bures_wasserstein.exp(P, 0.3 * V, M), bures_wasserstein.geodesic(P, Q, 0.3, M))


def test_o6_power_deformation_tends_to_the_log_euclidean_distance_with_error_of_order_theta():
    P, Q = spd(4, seed=1), spd(4, seed=2)
    limit = log_euclidean.distance(P, Q) ** 2 / 4
    errors = [float((squared_distance(P, Q, theta=t) - limit).abs()) for t in (0.02, 0.01, 0.005)]
    assert errors[2] < 1e-2
    for larger, smaller in itertools.pairwise(errors):
        assert larger / smaller == pytest.approx(2.0, abs=0.05)
    with pytest.raises(ValueError, match="theta"):
        squared_distance(P, Q, theta=0.0)


def test_o7_barycentre_is_stationary_and_the_objective_never_increases():
    X = spd(30, 6, low=1e-3, high=1.0, seed=7)
    B = bures_wasserstein.barycentre(X)
    assert float(bures_wasserstein.log(B, X).mean(0).abs().max()) < 1e-12
    objective = [
        float(squared_distance(bures_wasserstein.barycentre(X, steps=k), X).mean()) for k in (0, 1, 2, 3, 5, 10, 20)
    ]
    assert all(later <= earlier + 1e-14 for earlier, later in itertools.pairwise(objective))
    assert objective[0] > objective[1] + 1e-4
    step = bures_wasserstein.barycentre(X, steps=1)
    start = X.mean(0)
    close(step, bures_wasserstein.exp(start, bures_wasserstein.log(start, X).mean(0)))


def test_o7_one_step_is_exact_where_all_points_commute():
    U = orthogonal(5, 8)
    values = torch.rand(20, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(9)) + 0.01
    X = (U * values.unsqueeze(-2)) @ U.T
    exact = (U * values.sqrt().mean(0) ** 2) @ U.T
    close(bures_wasserstein.barycentre(X, steps=1), exact, 1e-13)


@pytest.mark.parametrize(("low", "errors"), [(0.1, (7e-4, 2e-6, 1e-14)), (1e-6, (0.16, 0.036, 6e-4))])
def test_o7_error_of_few_steps(low, errors):
    X = spd(30, 10, low=low, high=1.0, seed=11)
    exact = bures_wasserstein.barycentre(X)
    for steps, expected in zip((1, 3, 10), errors):
        error = torch.linalg.matrix_norm(bures_wasserstein.barycentre(X, steps=steps) - exact)
        relative = float(error / torch.linalg.matrix_norm(exact))
        spread = 5 if steps == 10 else 2
        assert relative < expected if expected < 1e-12 else expected / spread < relative < spread * expected


def test_o7_variance_after_one_step_on_ill_conditioned_matrices():
    X = spd(30, 10, low=1e-6, high=1.0, seed=11)
    after_one, at_the_mean = (
        float(squared_distance(bures_wasserstein.barycentre(X, steps=k), X).mean()) for k in (1, None)
    )
    assert after_one / at_the_mean - 1 == pytest.approx(0.004, rel=0.5)


@pytest.mark.parametrize("metric", METRICS[1:3], ids=IDS[1:3])
def test_converged_means_are_stationary(metric):
    X = spd(10, 5, low=0.05, high=2.0, seed=12)
    assert float(metric.log(metric.barycentre(X), X).mean(0).abs().max()) < 1e-11


def test_power_and_its_inverse():
    P = spd(5, 4, low=1e-2, seed=1)
    for exponent in (0.25, 0.5, 2.0, -0.5, 3.0, 1.5):
        power = matrix_power(P, exponent)
        close(torch.linalg.eigvalsh(power).log(), (exponent * torch.linalg.eigvalsh(P).log()).sort(-1).values, 1e-6)
    close(matrix_power(matrix_power(P, 0.25), 4.0), P, 1e-12)

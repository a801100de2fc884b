"""Derivatives of spectral functions and of the metrics' operations, at generic and at degenerate points (O12)."""

import warnings

import pytest
import torch
from spd_random import spd, symmetric
from torch.autograd import gradcheck

from curvature.geometry.spd import affine_invariant, bures_wasserstein, log_cholesky, log_euclidean, matrix_sqrt
from curvature.geometry.spd.lyapunov import inverse_root, lyapunov
from curvature.geometry.spd.spectral import Absolute, Exp, InverseSqrt, Log, Power, Rectify, Sqrt, spectral

EYE = torch.eye(4, dtype=torch.float64)
POINTS = {
    "generic": spd(2, 4, seed=1),
    "identity": EYE,
    "repeated": torch.diag(torch.tensor([0.5, 0.5, 2.0, 2.0]).double()),
}
FUNCTIONS = [Sqrt(), InverseSqrt(), Log(), Exp(), Power(0.3), Power(-1.5), Power(1.7)]


def leaf(tensor):
    return tensor.clone().requires_grad_()


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS.keys())
@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_functions_pass_gradcheck(function, point):
    assert gradcheck(lambda x: spectral(x, function)[0], leaf(point), atol=1e-7, rtol=1e-6)


def test_several_functions_share_one_decomposition_and_their_gradients_add(monkeypatch):
    calls = []
    real = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda x: calls.append(1) or real(x))
    x = leaf(POINTS["generic"])
    root, inverse = spectral(x, Sqrt(), InverseSqrt())
    (root.sum() + 2 * inverse.sum()).backward()
    assert len(calls) == 1
    separate = leaf(POINTS["generic"])
    (spectral(separate, Sqrt())[0].sum() + 2 * spectral(separate, InverseSqrt())[0].sum()).backward()
    torch.testing.assert_close(x.grad, separate.grad, rtol=1e-12, atol=1e-12)


def test_o12_square_root_at_the_identity_halves_the_gradient_off_the_diagonal_too():
    x, g = leaf(EYE), torch.arange(16.0, dtype=torch.float64).reshape(4, 4)
    matrix_sqrt(x).backward(g)
    torch.testing.assert_close(x.grad, (g + g.T) / 4, rtol=0, atol=1e-15)


@pytest.mark.parametrize("function", [Sqrt(), Log(), Power(0.5), Power(-0.7), Exp()], ids=str)
def test_divided_differences_are_accurate_for_close_eigenvalues(function):
    for gap in (1e-3, 1e-6, 1e-7, 1e-8, 1e-12, 0.0):
        values = torch.tensor([0.8, 0.8 * (1 + gap)], dtype=torch.float64)
        middle = leaf(values.mean())
        (slope,) = torch.autograd.grad(function(middle), middle)
        found = function.divided_differences(values)[0, 1]
        assert float(found) == pytest.approx(float(slope), rel=max(gap**2, 1e-12))


def test_power_agrees_with_the_square_root_over_fourteen_decades():
    values = torch.logspace(-14, 0, 15, dtype=torch.float64)
    expected, found = Sqrt().divided_differences(values), Power(0.5).divided_differences(values)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_rectify_and_absolute_value_on_both_sides_of_their_kink():
    x = symmetric(4, seed=3) + torch.diag(torch.tensor([-2.0, -1.0, 1.0, 2.0]).double())
    assert float(torch.linalg.eigvalsh(x)[0]) < -0.5 < 0.5 < float(torch.linalg.eigvalsh(x)[-1])
    assert gradcheck(lambda y: spectral(y, Absolute())[0], leaf(x))
    assert gradcheck(lambda y: spectral(y, Rectify(0.3))[0], leaf(x))
    assert gradcheck(lambda y: spectral(y, Rectify(-0.5, 0.5))[0], leaf(x))
    close_pair = torch.diag(torch.tensor([1.0, 1.0, 0.1, 0.1]).double())
    assert gradcheck(lambda y: spectral(y, Rectify(0.5))[0], leaf(close_pair))
    clamped = leaf(close_pair)
    spectral(clamped, Rectify(0.5))[0].sum().backward()
    assert float(clamped.grad[0, 1]) == 1.0 and float(clamped.grad[2, 3]) == 0.0


@pytest.mark.parametrize("operator", [lyapunov, inverse_root], ids=["lyapunov", "inverse_root"])
@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS.keys())
def test_lyapunov_operators_pass_gradcheck(operator, point):
    right = symmetric(2, 4, seed=4)
    assert gradcheck(operator, (leaf(point), leaf(right)), atol=1e-7, rtol=1e-6)


def test_inverse_root_applied_four_times_over_solves_the_lyapunov_equation():
    P, S = spd(4, seed=1), symmetric(3, 4, seed=2)
    torch.testing.assert_close(2 * inverse_root(P, inverse_root(P, S)), lyapunov(P, S), rtol=1e-12, atol=1e-12)
    Z = lyapunov(P, S)
    torch.testing.assert_close(P @ Z + Z @ P, S, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "metric", [bures_wasserstein, affine_invariant, log_euclidean, log_cholesky], ids=["bw", "aim", "lem", "lcm"]
)
def test_operations_of_the_metrics_pass_gradcheck(metric):
    P, Q, V = leaf(spd(3, seed=1)), leaf(spd(3, seed=2)), leaf(symmetric(3, seed=3, scale=0.3))

    def s(x):
        return (x + x.mT) / 2

    options = {"atol": 1e-6, "rtol": 1e-5}
    assert gradcheck(lambda p, q: metric.distance(s(p), s(q)), (P, Q), **options)
    assert gradcheck(lambda p, q: metric.log(s(p), s(q)), (P, Q), **options)
    assert gradcheck(lambda p, v: metric.exp(s(p), s(v)), (P, V), **options)
    assert gradcheck(lambda p, q: metric.geodesic(s(p), s(q), 0.3), (P, Q), **options)
    X = leaf(spd(4, 3, seed=5))
    steps = {} if metric in (log_euclidean, log_cholesky) else {"steps": 2}
    assert gradcheck(lambda x: metric.barycentre(s(x), **steps), X, **options)
    if metric is not bures_wasserstein:
        assert gradcheck(lambda p, q, v: metric.parallel_transport(s(p), s(q), s(v)), (P, Q, V), **options)


def test_gradient_of_the_squared_distance_in_closed_form():
    P, Q, M = leaf(spd(4, seed=1)), spd(4, seed=2), spd(4, seed=3)
    bures_wasserstein.squared_distance(P, Q).backward()
    p = P.detach()
    root, inverse = matrix_sqrt(p), torch.linalg.inv(matrix_sqrt(p))
    expected = EYE - inverse @ matrix_sqrt(root @ Q @ root) @ inverse
    torch.testing.assert_close(P.grad, expected, rtol=1e-11, atol=1e-11)
    assert gradcheck(lambda m: bures_wasserstein.squared_distance(p, Q, (m + m.mT) / 2), leaf(M))
    same = leaf(p)
    bures_wasserstein.distance(same, same).backward()
    assert bool(torch.isfinite(same.grad).all())


def test_float32_beyond_condition_1e5_is_warned_of():
    bad, good = torch.diag(torch.tensor([1.0, 1e-6])), torch.diag(torch.tensor([1.0, 1e-4]))
    with pytest.warns(RuntimeWarning, match="float64"):
        matrix_sqrt(bad)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        matrix_sqrt(good)
        matrix_sqrt(bad.double())

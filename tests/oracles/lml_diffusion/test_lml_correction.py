"""Closed-form facts of the correction: dense solve, invariances, limits, and float32 in the released order."""

import math
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curvature.benchmark import peak_bytes
from curvature.errors import ConfigError
from curvature.samplers import levenberg_marquardt_correction as lml
from curvature.samplers import released_correction, scale_free_correction
from curvature.samplers.correction import matched_noise

F64 = torch.float64


def pair(batch=4, dim=16, seed=0, dtype=F64):
    generator = torch.Generator().manual_seed(seed)
    g, p = torch.randn(2, batch, dim, generator=generator, dtype=F64)
    return g.to(dtype), p.to(dtype)


def dense(g, p, lamb, kappa):
    v = kappa * p + (1 - kappa) * g
    matrix = lamb * torch.eye(g.shape[1], dtype=F64) + v[:, :, None] * v[:, None, :]
    solved = torch.linalg.solve(matrix, g)
    return solved * g.norm(dim=1, keepdim=True) / solved.norm(dim=1, keepdim=True)


def test_worked_value():
    out = lml(torch.tensor([[3.0, 4.0]], dtype=F64), torch.tensor([[0.0, 5.0]], dtype=F64), 25.0, 0.5)
    expected = torch.tensor([[3.8737511097883965, 3.1613371125859326]], dtype=F64)
    torch.testing.assert_close(out, expected, rtol=1e-14, atol=0)


@settings(max_examples=60, deadline=None)
@given(
    dim=st.integers(2, 64),
    log_lamb=st.floats(-2, 4),
    kappa=st.floats(0.0, 0.99),
    seed=st.integers(0, 10_000),
)
def test_equals_dense_solve(dim, log_lamb, kappa, seed):
    g, p = pair(3, dim, seed)
    out = lml(g, p, 10**log_lamb, kappa)
    torch.testing.assert_close(out, dense(g, p, 10**log_lamb, kappa), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("lamb", [1e-12, 1e-3, 1.0, 1e12])
@pytest.mark.parametrize("kappa", [1e-8, 0.3, 0.9])
def test_keeps_length_never_turns_back_stays_in_the_plane(lamb, kappa):
    g, p = pair()
    out = lml(g, p, lamb, kappa)
    torch.testing.assert_close(out.norm(dim=1), g.norm(dim=1), rtol=1e-12, atol=0)
    assert ((out * g).sum(1) >= 0).all()
    basis = torch.linalg.qr(torch.stack([g, p], -1)).Q
    inside = torch.einsum("bdk,bek,be->bd", basis, basis, out)
    torch.testing.assert_close(inside, out, rtol=0, atol=1e-12)


def test_identity_without_memory_without_kappa_or_with_a_parallel_update():
    g, p = pair()
    assert lml(g, None, 1.0, 0.5) is g
    for lamb in (0.0, 1e-12, 1.0, 1e12):
        assert lml(g, p, lamb, 0.0) is g
        torch.testing.assert_close(lml(g, -0.7 * g, lamb, 0.4), g, rtol=1e-12, atol=1e-12)
    one = torch.tensor([[2.0], [-3.0]], dtype=F64)
    torch.testing.assert_close(lml(one, one.flip(0), 0.1, 0.4), one, rtol=1e-12, atol=0)


def test_degenerate_inputs():
    g, p = pair()
    assert (lml(torch.zeros_like(g), p, 1.0, 0.3) == 0).all()
    assert lml(g[:0], p[:0], 1.0, 0.3).shape == (0, 16)
    torch.testing.assert_close(lml(g, torch.zeros_like(g), 0.0, 0.3), g)
    torch.testing.assert_close(scale_free_correction(torch.zeros_like(g), p, 0.3), torch.zeros_like(g))
    for lamb in (1e-12, 1.0, 1e12):
        for scale in (1e-15, 1e15):
            out = lml((scale * g).float(), (scale * p).float(), lamb, 0.3)
            assert out.isfinite().all()


def test_without_damping_it_is_the_projection():
    g, p = pair()
    v = 0.3 * p + 0.7 * g
    rest = g - v * ((g * v).sum(1) / (v * v).sum(1))[:, None]
    expected = rest * (g.norm(dim=1) / rest.norm(dim=1))[:, None]
    torch.testing.assert_close(lml(g, p, 0.0, 0.3), expected, rtol=1e-10, atol=1e-10)


def test_large_damping_decays_as_its_inverse():
    g, p = pair()
    distances = torch.stack([(lml(g, p, lamb, 0.4) - g).norm(dim=1) for lamb in (1e6, 1e7, 1e8)])
    torch.testing.assert_close(distances[:-1] / distances[1:], torch.full((2, 4), 10.0, dtype=F64), rtol=1e-4, atol=0)
    length = g.norm(dim=1)
    along = (p * g).sum(1) / length
    a, b = 0.4 * along + 0.6 * length, 0.4 * (p - along[:, None] * g / length[:, None]).norm(dim=1)
    torch.testing.assert_close(distances[-1], length * a.abs() * b / 1e8, rtol=1e-4, atol=0)


def test_angle_bound_is_attained_where_b_squared_is_the_damping():
    g, p = pair(1, 8)
    length = g.norm()
    along = (p * g).sum() / length
    kappa = 0.35
    a, b = kappa * along + (1 - kappa) * length, kappa * (p - along * g / length).norm()
    for factor in (0.1, 0.5, 1.0, 2.0, 10.0):
        lamb = float(factor * b**2)
        out = lml(g, p, lamb, kappa)
        cosine = (out * g).sum() / length**2
        tangent = (1 - cosine**2).sqrt() / cosine
        bound = float(a.abs()) / (2 * math.sqrt(lamb))
        assert float(tangent) == pytest.approx(float(a * b / (lamb + b**2)).__abs__(), rel=1e-9)
        assert float(tangent) <= bound * (1 + 1e-9)
        if factor == 1.0:
            assert float(tangent) == pytest.approx(bound, rel=1e-9)


def test_condition_number_of_the_damped_matrix():
    g, p = pair(1, 12)
    v = (0.3 * p + 0.7 * g)[0]
    for lamb in (0.01, 1.0, 100.0):
        matrix = lamb * torch.eye(12, dtype=F64) + torch.outer(v, v)
        assert float(torch.linalg.cond(matrix)) == pytest.approx(1 + float(v @ v) / lamb, rel=1e-9)


def test_homogeneity_rotations_permutations_and_shapes():
    g, p = pair(5, 24)
    out = lml(g, p, 2.0, 0.3)
    torch.testing.assert_close(lml(7 * g, 7 * p, 49 * 2.0, 0.3), 7 * out, rtol=1e-12, atol=1e-12)
    q = torch.linalg.qr(torch.randn(24, 24, dtype=F64, generator=torch.Generator().manual_seed(1))).Q
    torch.testing.assert_close(lml(g @ q, p @ q, 2.0, 0.3), out @ q, rtol=1e-12, atol=1e-12)
    order = torch.tensor([4, 2, 0, 1, 3])
    torch.testing.assert_close(lml(g[order], p[order], 2.0, 0.3), out[order], rtol=1e-13, atol=0)
    for shape in ((5, 24), (5, 4, 6), (5, 1, 4, 6), (5, 2, 3, 2, 2)):
        torch.testing.assert_close(lml(g.view(shape), p.view(shape), 2.0, 0.3), out.view(shape), rtol=1e-13, atol=0)
    strided = lml(g.t().contiguous().t(), p, 2.0, 0.3)
    torch.testing.assert_close(strided, out, rtol=1e-13, atol=0)


def test_differentiable_where_q_is_positive():
    g, p = pair(2, 5)
    g.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: lml(x, p, 1.3, 0.4), (g,))


def test_scale_free_form_is_the_limit():
    g, p = pair(1, 32)
    s = float((g * g).sum())
    out = scale_free_correction(g, p, 0.2)
    limit = lml(g, p, 1e-9 * s, 0.2 * 1e-9)
    torch.testing.assert_close(limit, out, rtol=0, atol=1e-7)
    for scale in (1e-3, 1e3):
        torch.testing.assert_close(scale_free_correction(scale * g, scale * p, 0.2), scale * out, rtol=1e-12, atol=0)
    along = (g * p).sum() / s
    q = (p - along * g).norm()
    cosine = float((out * g).sum()) / s
    assert math.sqrt(1 - cosine**2) / cosine == pytest.approx(0.2 * float(q) / math.sqrt(s), rel=1e-9)


@pytest.mark.parametrize(("lamb", "kappa"), [(-1.0, 0.1), (float("nan"), 0.1), (1.0, 1.0), (1.0, -0.1)])
def test_out_of_range_is_refused(lamb, kappa):
    g, p = pair()
    with pytest.raises(ConfigError):
        lml(g, p, lamb, kappa)


def relative(found, exact):
    return ((found.double() - exact).norm(dim=1) / exact.norm(dim=1)).median().item()


def test_float32_error_of_both_orders_of_operations():
    g, p = pair(64, 3072, dtype=torch.float32)
    lamb = 1e-7 * 3072
    kappa = 0.1e-7
    exact = lml(g.double(), p.double(), lamb, kappa)
    errors = ((lml(g, p, lamb, kappa).double() - exact).norm(dim=1) / exact.norm(dim=1)).max().item()
    assert errors <= 1e-6
    assert 0.1 < relative(released_correction(g, p, lamb, kappa), exact) < 0.6


@pytest.mark.parametrize(("ratio", "measured"), [(3e-7, 0.11), (1e-6, 0.035), (1e-5, 3.6e-3), (1e-4, 3.6e-4)])
@pytest.mark.parametrize("dim", [64, 3072])
def test_released_order_without_kappa_is_rounding_noise(ratio, measured, dim):
    g, _ = pair(256, dim, dtype=torch.float32)
    squares = (g.double() ** 2).sum(1).mean().item()
    change = relative(released_correction(g, None, ratio * squares, 0.0), g.double())
    assert measured / 2 < change < measured * 2
    exact = g.double()
    assert relative(released_correction(exact, None, ratio * squares, 0.0), exact) < 1e-7


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    g, p = pair(4, 16384, dtype=dtype)
    out = lml(g, p, 0.1, 0.001)
    exact = lml(g.double(), p.double(), 0.1, 0.001)
    assert out.dtype == dtype
    assert relative(out, exact) < 2 * torch.finfo(dtype).eps
    assert scale_free_correction(g, p, 0.1).dtype == dtype


@pytest.mark.parametrize(("lamb", "kappa", "beta"), [(2.0, 0.3, None), (0.0, 0.0, 0.25)])
def test_control_turns_by_the_same_angle_elsewhere(lamb, kappa, beta):
    g, p = pair(6, 512)
    turned = lml(g, p, lamb, kappa) if beta is None else scale_free_correction(g, p, beta)
    noise = matched_noise(g, p, torch.Generator().manual_seed(3), lamb, kappa, beta)
    torch.testing.assert_close(noise.norm(dim=1), g.norm(dim=1), rtol=1e-6, atol=0)
    torch.testing.assert_close((noise * g).sum(1), (turned * g).sum(1), rtol=1e-9, atol=1e-9)
    across = lambda x: torch.nn.functional.normalize(x - g * ((x * g).sum(1) / (g * g).sum(1))[:, None])  # noqa: E731
    assert ((across(noise) * across(turned)).sum(1).abs() < 0.25).all()
    level = matched_noise(g, None, torch.Generator().manual_seed(3), level=0.1)
    torch.testing.assert_close(
        (level - g).norm(dim=1) / g.norm(dim=1), torch.full((6,), 0.1, dtype=F64), rtol=0.01, atol=0
    )


@pytest.mark.alone
def test_cost_is_linear_in_the_dimension():
    def seconds(g, p, rounds):
        start = time.perf_counter()
        for _ in range(rounds):
            lml(g, p, 1.0, 0.3)
        return (time.perf_counter() - start) / rounds

    sizes = (10_000, 100_000, 1_000_000)
    inputs = {size: pair(1, size, dtype=torch.float32) for size in sizes}
    samples = [[seconds(*inputs[size], max(1, 300_000 // size)) for size in sizes] for _ in range(9)]
    medians = torch.tensor(samples, dtype=F64).median(0).values.log()
    logs = torch.tensor(sizes, dtype=F64).log()
    slope = ((logs - logs.mean()) * (medians - medians.mean())).sum() / ((logs - logs.mean()) ** 2).sum()
    assert float(slope) <= 1.2


def test_no_allocation_grows_faster_than_the_input():
    from torch.profiler import ProfilerActivity, profile

    batch, size = 2, 20_000
    g, p = pair(batch, size, dtype=torch.float32)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        lml(g, p, 1.0, 0.3)
    largest = max(event.cpu_memory_usage for event in record.events())
    assert 0 < largest < 8 * size * batch * 4


def test_one_buffer_of_the_size_of_the_input_is_all_it_takes():
    g, p = pair(2, 100_000, dtype=torch.float32)
    for correct in (lambda: lml(g, p, 1.0, 0.3), lambda: scale_free_correction(g, p, 0.1)):
        assert peak_bytes(correct) < 1.01 * g.numel() * 4


@pytest.mark.parametrize(("batch", "dim"), [(3, 8191), (3, 8192), (2, 20_001), (1, 2_000_000)])
def test_float32_error_on_rows_of_any_length(batch, dim):
    g, p = pair(batch, dim, dtype=torch.float32)
    for lamb, kappa in ((1.0, 0.3), (0.1 * dim, 0.5), (1e-7 * dim, 1e-8)):
        exact = lml(g.double(), p.double(), lamb, kappa)
        found = lml(g, p, lamb, kappa).double()
        assert ((found - exact).norm(dim=1) / exact.norm(dim=1)).max() <= 1e-6
        torch.testing.assert_close(found.norm(dim=1), g.double().norm(dim=1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("sine", [0.5, 0.1, 0.02])
def test_float32_error_where_updates_are_almost_parallel(sine):
    g, other = pair(8, 3072, dtype=torch.float32)
    p = math.sqrt(1 - sine**2) * g + sine * other
    exact = scale_free_correction(g.double(), p.double(), 0.4)
    errors = (scale_free_correction(g, p, 0.4).double() - exact).norm(dim=1) / exact.norm(dim=1)
    assert errors.max() <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(("lamb", "kappa"), [(0.0, 0.3), (1e-9, 1e-3), (1.0, 0.5), (1e12, 0.9)])
def test_numbers_on_the_host_and_as_tensors_give_the_same(dtype, lamb, kappa):
    g, p = pair(5, 40, dtype=dtype)
    p[0], p[1], g[2] = -2 * g[0], 0.0, 0.0
    recorded = lml(g.clone().requires_grad_(), p, lamb, kappa)
    assert recorded.requires_grad
    torch.testing.assert_close(lml(g, p, lamb, kappa), recorded.detach(), rtol=0, atol=20 * torch.finfo(dtype).eps)
    turned = scale_free_correction(g.clone().requires_grad_(), p, 0.2).detach()
    torch.testing.assert_close(scale_free_correction(g, p, 0.2), turned, rtol=0, atol=20 * torch.finfo(dtype).eps)

"""Closed-form facts of geodesics, transport and angles on the Grassmann manifold (float64)."""

import pytest
import torch

from curvature.geometry import grassmann

SHAPES = [(4, 12, 3), (2, 7, 1), (3, 6, 3), (2, 5, 4)]


@pytest.fixture(params=SHAPES, ids=str)
def pair(request):
    generator = torch.Generator().manual_seed(0)
    shape = request.param
    point = grassmann.random_point(*shape, dtype=torch.float64, generator=generator)
    tangent = grassmann.project(point, torch.randn(shape, dtype=torch.float64, generator=generator))
    return point, 0.4 * tangent / torch.linalg.matrix_norm(tangent, ord=2, dim=(-2, -1))[..., None, None]


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


def projector(basis):
    return basis @ basis.mT


def test_projection_is_horizontal(pair):
    point, tangent = pair
    close(point.mT @ tangent, torch.zeros_like(point.mT @ tangent))


def test_exp_is_orthonormal_and_moves_by_the_singular_values(pair):
    point, tangent = pair
    moved = grassmann.exp(point, tangent, 0.9)
    close(moved.mT @ moved, torch.eye(point.shape[-1], dtype=torch.float64).expand_as(moved.mT @ moved))
    k = point.shape[-1]
    close(grassmann.principal_angles(point, moved), 0.9 * torch.linalg.svdvals(tangent).flip(-1)[..., :k], 1e-9)
    close(grassmann.speeds(tangent), torch.linalg.svdvals(tangent).flip(-1), 1e-7)


def test_zero_tangent_and_zero_step_return_the_point_exactly(pair):
    point, tangent = pair
    assert torch.equal(grassmann.exp(point, torch.zeros_like(tangent)), point)
    close(grassmann.exp(point, tangent, 0.0), point, 1e-14)


def test_rank_deficient_tangent(pair):
    point, tangent = pair
    tangent = tangent.clone()
    tangent[..., 0] = 0.0
    moved = grassmann.exp(point, tangent)
    assert moved.isfinite().all()
    close(moved.mT @ moved, torch.eye(point.shape[-1], dtype=torch.float64).expand_as(moved.mT @ moved))


def test_equals_matrix_exponential_for_point_and_transport(pair):
    point, tangent = pair
    rotation = torch.linalg.matrix_exp(0.7 * (tangent @ point.mT - point @ tangent.mT))
    close(grassmann.exp(point, tangent, 0.7), rotation @ point)
    generator = torch.Generator().manual_seed(1)
    other = grassmann.project(point, torch.randn(point.shape, dtype=torch.float64, generator=generator))
    carried = grassmann.transport(point, tangent, other, 0.7)
    close(carried, rotation @ other)
    close((carried * carried).sum((-2, -1)), (other * other).sum((-2, -1)))


def test_two_legs_equal_one_when_the_tangent_is_transported(pair):
    point, tangent = pair
    halfway = grassmann.exp(point, tangent, 0.3)
    carried = grassmann.transport(point, tangent, tangent, 0.3)
    close(grassmann.exp(halfway, carried, 0.5), grassmann.exp(point, tangent, 0.8))


def test_projection_transport_scales_each_singular_value_by_its_cosine(pair):
    point, tangent = pair
    moved = grassmann.exp(point, tangent, 0.8)
    exact = grassmann.transport(point, tangent, tangent, 0.8)
    projected = grassmann.project(moved, tangent)
    speeds = torch.linalg.svdvals(tangent)
    close(torch.linalg.svdvals(projected), (speeds * torch.cos(0.8 * speeds)).sort(descending=True).values)
    close(projector(moved) @ projected, torch.zeros_like(projected))
    close(torch.linalg.svdvals(exact), speeds)


def test_basis_invariance(pair):
    point, tangent = pair
    rotation, _ = torch.linalg.qr(torch.randn(point.shape[-1], point.shape[-1], dtype=torch.float64))
    close(projector(grassmann.exp(point @ rotation, tangent @ rotation)), projector(grassmann.exp(point, tangent)))


def test_one_dimensional_subspaces_move_on_the_sphere():
    generator = torch.Generator().manual_seed(3)
    point = grassmann.random_point(5, 9, 1, dtype=torch.float64, generator=generator)
    gradient = grassmann.project(point, torch.randn(5, 9, 1, dtype=torch.float64, generator=generator))
    norm = torch.linalg.vector_norm(gradient, dim=-2, keepdim=True)
    expected = point * torch.cos(0.1 * norm) - gradient / norm * torch.sin(0.1 * norm)
    close(grassmann.exp(point, -gradient, 0.1), expected)


@pytest.mark.parametrize("retract", [lambda m: grassmann.reorthonormalise(m)[0], grassmann.polar], ids=["qr", "polar"])
@pytest.mark.parametrize("k", [2, 3])
def test_retractions_agree_with_the_geodesic_to_third_order(k, retract):
    generator = torch.Generator().manual_seed(2)
    point = grassmann.random_point(10, k, dtype=torch.float64, generator=generator)
    tangent = grassmann.project(point, torch.randn(10, k, dtype=torch.float64, generator=generator))

    def error(eta):
        retracted = retract(point - eta * tangent)
        return (projector(retracted) - projector(grassmann.exp(point, tangent, -eta))).norm()

    assert error(0.02) / error(0.01) == pytest.approx(8.0, rel=0.05)


def test_reorthonormalisation_never_flips_a_column():
    generator = torch.Generator().manual_seed(4)
    point = grassmann.random_point(200, 16, 5, dtype=torch.float64, generator=generator)
    drifted = point + 1e-3 * torch.randn(point.shape, dtype=torch.float64, generator=generator)
    repaired, _ = grassmann.reorthonormalise(drifted)
    assert ((repaired * point).sum(-2) > 0.9).all()


def test_restoring_a_drifted_basis_equals_sign_fixed_qr():
    generator = torch.Generator().manual_seed(7)
    point = grassmann.random_point(30, 16, 5, dtype=torch.float64, generator=generator)
    drifted = point + 1e-2 * torch.randn(point.shape, dtype=torch.float64, generator=generator)
    restored = grassmann.restore(drifted)
    close(restored, grassmann.reorthonormalise(drifted)[0])
    close(restored.mT @ restored, torch.eye(5, dtype=torch.float64).expand(30, 5, 5))


def test_qr_and_polar_retractions_span_the_same_subspace(pair):
    point, tangent = pair
    matrix = point - 0.3 * tangent
    nearest = grassmann.polar(matrix)
    close(projector(nearest), projector(grassmann.reorthonormalise(matrix)[0]))
    close(nearest.mT @ matrix, (nearest.mT @ matrix).mT)


def test_projection_in_place_equals_projection(pair):
    point, tangent = pair
    ambient = tangent + point
    expected = grassmann.project(point, ambient)
    for stored in (ambient.clone(), grassmann.column_major(ambient)):
        close(grassmann.project_(point, stored), expected)
        close(stored, expected)


def test_principal_angles_are_accurate_at_both_ends():
    angles = torch.tensor([1e-9, 1e-4, 0.8, torch.pi / 2 - 1e-9], dtype=torch.float64)
    first = torch.eye(8, 4, dtype=torch.float64)
    second = torch.zeros(8, 4, dtype=torch.float64)
    second[range(4), range(4)] = torch.cos(angles)
    second[range(4, 8), range(4)] = torch.sin(angles)
    torch.testing.assert_close(grassmann.principal_angles(first, second), angles, rtol=1e-7, atol=1e-15)


def test_float32_stays_finite_and_nearly_orthonormal():
    point = grassmann.random_point(50, 64, 8, generator=torch.Generator().manual_seed(5))
    tangent = grassmann.project(point, torch.randn(50, 64, 8, generator=torch.Generator().manual_seed(6)))
    moved = grassmann.exp(point, tangent, 0.1)
    assert (moved.mT @ moved - torch.eye(8)).abs().max() < 1e-5

"""The Grassmann manifold Gr(n, k) with subspaces stored as orthonormal bases, batched over leading dimensions.

A point is S of shape (..., n, k) with S^T S = I; S and S O, O in O(k), are the same point. Tangent vectors are
horizontal: S^T T = 0. Geodesics and transport decompose k x k matrices only, never an n x k one. Products run fastest
on bases that keep each column contiguous in memory (as :func:`column_major` does); results are laid out like that.

Edelman, Arias and Smith, The geometry of algorithms with orthogonality constraints (1998), section 2.5.
"""

import torch
from torch import Tensor


def project(point: Tensor, ambient: Tensor) -> Tensor:
    """Horizontal part D - S (S^T D) of ``ambient`` at ``point``; both (..., n, k)."""
    return ambient - _times(point, point.mT @ ambient)


def project_(point: Tensor, ambient: Tensor) -> Tensor:
    """:func:`project` in place of ``ambient``; both (C, n, k)."""
    ambient.mT.baddbmm_(ambient.mT @ point, point.mT, alpha=-1.0)
    return ambient


def column_major(point: Tensor) -> Tensor:
    """The same (..., n, k) values with each of the k columns contiguous in memory."""
    return point.mT.contiguous().mT


def exp(point: Tensor, tangent: Tensor, step: float | Tensor = 1.0) -> Tensor:
    """Point reached after ``step`` along the geodesic from ``point`` in the direction ``tangent``.

    With T^T T = V diag(s^2) V^T this is S V cos(step s) V^T + T V [step sinc(step s)] V^T: exact at zero and at
    rank-deficient tangents. In float32 the result is orthonormal up to rounding; see :func:`reorthonormalise`.

    Args:
        point: (..., n, k), orthonormal columns.
        tangent: (..., n, k), horizontal at ``point``.
        step: scalar.
    """
    vectors, speeds = _singular(tangent)
    angles = step * speeds
    cosines = _sandwich(vectors, torch.cos(angles))
    sines = _sandwich(vectors, step * _sinc(angles))
    moved = _times(point, cosines)
    if moved.dim() == 3:
        # Without a second (C, n, k) of its own: memory is what a step costs.
        moved.mT.baddbmm_(sines.mT, tangent.mT)
        return moved
    return moved + _times(tangent, sines)


def transport(point: Tensor, tangent: Tensor, moved: Tensor, step: float | Tensor = 1.0) -> Tensor:
    """Exact parallel transport of ``moved`` along the geodesic of :func:`exp`; it preserves inner products.

    Args:
        point, tangent, step: as in :func:`exp`.
        moved: (..., n, k), horizontal at ``point``.

    Returns:
        (..., n, k), horizontal at ``exp(point, tangent, step)`` and in the basis that it returns.
    """
    vectors, speeds = _singular(tangent)
    angles = step * speeds
    overlap = tangent.mT @ moved
    # With U = T V / s: tau(X) = X - (S V sin + U (1 - cos)) U^T X, written without dividing by s.
    along_point = _sandwich(vectors, step * _sinc(angles)) @ overlap
    half = _sinc(angles / 2)
    along_tangent = _sandwich(vectors, 0.5 * step**2 * half**2) @ overlap
    return moved - _times(point, along_point) - _times(tangent, along_tangent)


def speeds(tangent: Tensor) -> Tensor:
    """Singular values (..., k) of ``tangent`` (..., n, k), ascending: by how much :func:`exp` turns in unit time."""
    return _singular(tangent)[1]


def principal_angles(first: Tensor, second: Tensor) -> Tensor:
    """Principal angles between two subspaces, ascending, in radians.

    Args:
        first, second: (..., n, k) orthonormal bases.

    Returns:
        (..., k). Small angles are taken from their sine and large ones from their cosine, so both are accurate.
    """
    overlap = first.mT @ second
    cosines = torch.linalg.svdvals(overlap).clamp(max=1.0)
    sines = torch.linalg.svdvals(second - first @ overlap).flip(-1).clamp(max=1.0)
    return torch.where(sines**2 < 0.5, torch.asin(sines), torch.acos(cosines))


def reorthonormalise(point: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal basis of the column span of ``point`` (..., n, k) by QR, with signs fixed: columns do not flip.

    Returns:
        Q (..., n, k) and the (..., k) signs that were applied: with them Q R has a positive diagonal R, hence Q is the
        nearest to a slightly drifted ``point`` and buffers stored in its basis stay valid as they are.
    """
    basis, upper = torch.linalg.qr(point)
    signs = torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(point.dtype)
    return basis * signs.unsqueeze(-2), signs


def restore(point: Tensor) -> Tensor:
    """Orthonormal basis of a slightly drifted ``point`` (..., n, k): S R^-1 with R^T R = S^T S.

    In exact arithmetic this is the Q of :func:`reorthonormalise` at the cost of two products. R is close to the
    identity, so columns neither flip nor mix. NaN if the columns have become linearly dependent.
    """
    lower, _ = torch.linalg.cholesky_ex(point.mT @ point)
    eye = torch.eye(point.shape[-1], dtype=point.dtype, device=point.device)
    return _times(point, torch.linalg.solve_triangular(lower, eye, upper=False).mT)


def polar(matrix: Tensor) -> Tensor:
    """Orthonormal basis nearest to ``matrix`` (..., n, k) of full rank: its polar factor Y (Y^T Y)^(-1/2)."""
    vectors, values = _singular(matrix)
    return _times(matrix, _sandwich(vectors, 1.0 / values))


def random_point(
    *shape: int,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Haar-uniform subspaces: Q of the QR of standard normal matrices of ``shape`` (..., n, k)."""
    return reorthonormalise(torch.randn(*shape, dtype=dtype, device=device, generator=generator))[0]


def _singular(tangent: Tensor) -> tuple[Tensor, Tensor]:
    """Right singular vectors (..., k, k) and singular values (..., k) from the Gram matrix."""
    squares, vectors = torch.linalg.eigh(tangent.mT @ tangent)
    return vectors, squares.clamp_min(0.0).sqrt()


def _times(basis: Tensor, small: Tensor) -> Tensor:
    """basis @ small with the columns of the result contiguous."""
    return (small.mT @ basis.mT).mT


def _sandwich(vectors: Tensor, values: Tensor) -> Tensor:
    return (vectors * values.unsqueeze(-2)) @ vectors.mT


def _sinc(angles: Tensor) -> Tensor:
    return torch.sinc(angles / torch.pi)

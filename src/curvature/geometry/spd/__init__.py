"""Symmetric positive definite matrices under four metrics, one module each, with functions of the same names.

``bures_wasserstein`` (and its generalisation by a metric parameter M), ``affine_invariant``, ``log_euclidean`` and
``log_cholesky`` offer ``inner``, ``distance``, ``exp``, ``log``, ``geodesic``, ``parallel_transport`` and
``barycentre``. Everything is differentiable, acts on (..., n, n) and expects float64: square roots of ill-conditioned
float32 matrices are noise.
"""

from curvature.geometry.spd import affine_invariant, bures_wasserstein, log_cholesky, log_euclidean
from curvature.geometry.spd.bures_wasserstein import distance as bures_wasserstein_distance
from curvature.geometry.spd.spectral import matrix_exp, matrix_log, matrix_power, matrix_sqrt, rectify, spectral, sym

__all__ = [
    "affine_invariant",
    "bures_wasserstein",
    "bures_wasserstein_distance",
    "log_cholesky",
    "log_euclidean",
    "matrix_exp",
    "matrix_log",
    "matrix_power",
    "matrix_sqrt",
    "rectify",
    "spectral",
    "sym",
]

"""Dynamical stability of SGD: exact linear analysis, sharpness of small nets in closed form, many descents at once.

The half-MSE ``1/(2n) sum_i (f(x_i) - y_i)^2`` is the loss throughout; the Gauss-Newton matrix is
``G = (1/n) sum_i g_i g_i^T`` with ``g_i`` the gradient of the *output* at sample i.
Wu & Su, ICML 2023 (arXiv 2305.17490).
"""

from curvature.stability.eligibility import Conduct, ineligible
from curvature.stability.linearised import LinearisedSGD, Tightness, critical_learning_rate, growth_factor
from curvature.stability.replicas import Recipe, Replicas, spread
from curvature.stability.sampling import batch_order, noise_factor
from curvature.stability.spectrum import Sharpness, gram, sharpness

__all__ = [
    "Conduct",
    "LinearisedSGD",
    "Recipe",
    "Replicas",
    "Sharpness",
    "Tightness",
    "batch_order",
    "critical_learning_rate",
    "gram",
    "growth_factor",
    "ineligible",
    "noise_factor",
    "sharpness",
    "spread",
]

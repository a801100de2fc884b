"""Agreement with pyriemann and POT, where they compute the same."""

import numpy as np
import pytest
import torch
from spd_random import spd, symmetric

from curvature.geometry.spd import affine_invariant, bures_wasserstein, log_cholesky, log_euclidean

X = spd(12, 5, low=0.05, high=3.0, seed=1)
P, Q, V = X[0], X[1], symmetric(5, seed=2, scale=0.05)


def close(found, expected):
    torch.testing.assert_close(found, torch.as_tensor(np.asarray(expected)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("metric", "suffix"),
    [
        (bures_wasserstein, "wasserstein"),
        (affine_invariant, "riemann"),
        (log_euclidean, "logeuclid"),
        (log_cholesky, "logchol"),
    ],
)
def test_pyriemann(metric, suffix):
    geometry = pytest.importorskip("pyriemann.geometry")
    p, q, v = P.numpy(), Q.numpy(), V.numpy()
    close(metric.distance(P, Q), getattr(geometry.distance, f"distance_{suffix}")(p, q))
    close(metric.geodesic(P, Q, 0.3), getattr(geometry.geodesic, f"geodesic_{suffix}")(p, q, 0.3))
    options = {"tol": 1e-13, "maxiter": 500} if suffix in ("wasserstein", "riemann") else {}
    close(metric.barycentre(X), getattr(geometry.mean, f"mean_{suffix}")(X.numpy(), **options))
    tangent = geometry.tangentspace
    whole = {"C12": True} if suffix == "riemann" else {}
    close(metric.log(P, Q), getattr(tangent, f"log_map_{suffix}")(q, p, **whole))
    close(metric.exp(P, V), getattr(tangent, f"exp_map_{suffix}")(v, p, **({"Cm12": True} if whole else {})))


def test_pot():
    gaussian = pytest.importorskip("ot").gaussian
    zero = np.zeros(5)
    close(bures_wasserstein.distance(P, Q), gaussian.bures_wasserstein_distance(zero, zero, P.numpy(), Q.numpy()))
    _, mean = gaussian.bures_wasserstein_barycenter(np.zeros((12, 5)), X.numpy(), eps=1e-14, num_iter=500)
    close(bures_wasserstein.barycentre(X), mean)


def test_spd_learn():
    functional = pytest.importorskip("spd_learn.functional")
    close(bures_wasserstein.distance(P[None], Q[None]), functional.bures_wasserstein_distance(P[None], Q[None]))
    close(bures_wasserstein.geodesic(P, Q, 0.3), functional.bures_wasserstein_geodesic(P, Q, 0.3))
    close(bures_wasserstein.barycentre(X), functional.bures_wasserstein_mean(X, max_iter=500, tol=1e-15))

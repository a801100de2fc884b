"""Facts of the gauge paper from exact scores: functions of a seed to metrics."""

import torch
from torch import Tensor

from curvature.samplers.distances import gaussian_w2, median_bandwidth, mmd, sliced_w2
from curvature.samplers.gauge import (
    Flow,
    GaugedScore,
    asymmetry,
    dimension_by_slope,
    dimension_by_threshold,
    gradient_part,
    reverse_flow,
)
from curvature.samplers.manifolds import antisymmetric, manifold
from curvature.samplers.score_nets import fit_score
from curvature.samplers.targets import GaussianMixture, ring

START = 20.0


def split_facts(seed: int, points: int = 4000) -> dict[str, float]:
    """The split of a field into a gradient and a gauge part (G1), with closed forms and by projection.

    Returns:
        ``gauge/residual``: largest ``|div r + r . s|`` over ``||r|| ||s||``; ``gauge/residual_symmetric``: its median
        for a symmetric A, which is no gauge; ``split/orthogonality``: largest ``|r . s|`` over the mean of
        ``||r|| ||s||``;
        ``split/projection_error``: distance of the gradient part of ``s + r``, found by projection, to s, relative to
        r; ``split/idempotence``: change of that part under a second projection, relative to it;
        ``split/dsm_excess_z``: error of ``E||s + r - target||^2 - E||s - target||^2 = E||r||^2`` in the denoising loss,
        in standard errors.
    """
    generator = torch.Generator().manual_seed(seed)
    target, t = ring(8, 1.0, 0.3), 0.2
    field = GaugedScore(target, antisymmetric(2), 1.0)
    clean = target.sample(points, generator)
    noise = torch.randn(points, 2, generator=generator, dtype=torch.float64)
    x = clean + t * noise
    s, r = field.score(x, t), field.remainder(x, t)
    product = (r * s).sum(1)
    plain = GaugedScore(target, torch.tensor([[1.0, 0.5], [0.5, 0.0]], dtype=torch.float64), 1.0)
    centres = 1.3 * torch.cartesian_prod(*[torch.linspace(-1, 1, 9, dtype=torch.float64)] * 2)
    gradient = gradient_part(target, field.field(x, t), x, centres, 0.35)
    again = gradient_part(target, gradient, x, centres, 0.35)
    excess = (s + r + noise / t).square().sum(1) - (s + noise / t).square().sum(1) - r.square().sum(1)
    return {
        "gauge/residual": float((field.gauge_residual(x, t).abs() / (r.norm(dim=1) * s.norm(dim=1))).max()),
        "gauge/residual_symmetric": float((plain.gauge_residual(x, t).abs() / s.square().sum(1)).median()),
        "split/orthogonality": float(product.abs().max() / (r.norm(dim=1) * s.norm(dim=1)).mean()),
        "split/projection_error": float((gradient - s).norm() / r.norm()),
        "split/idempotence": float((again - gradient).norm() / gradient.norm()),
        "split/dsm_excess_z": _standard_errors(excess),
    }


def exactness_facts(seed: int, points: int = 1000, end: float = 0.1, steps: int = 400) -> dict[str, float]:
    """Densities and samples of flows with and without gauge part, and of a wrong gradient field (G2, G3, G4).

    Returns:
        For c = 0, 1, 5, with the label ``c_<c>``: ``density/<c>`` (largest error of the log-density), ``mmd/<c>``,
        ``sliced_w2/<c>`` to the exact law, ``asymmetry/<c>`` (median of ``||J - J^T|| / ||J||``); with the label
        ``wrong`` the same for the exact gradient field of a ring of radius 1.2; ``mmd/floor`` and ``sliced_w2/floor``
        for independent draws from the law.
    """
    generator = torch.Generator().manual_seed(seed)
    target, rotation = ring(48, 1.0, 0.05), antisymmetric(2)
    law = target.noised(1.0, end)
    noise = target.noised(1.0, START).sample(points, generator)
    width = median_bandwidth(law)
    fields = {f"c_{c}": GaugedScore(target, rotation, float(c)) for c in (0, 1, 5)}
    fields["wrong"] = GaugedScore(ring(48, 1.2, 0.05), rotation, 0.0)
    draws = law.sample(points, generator)
    metrics = {"mmd/floor": mmd(draws, law, width), "sliced_w2/floor": sliced_w2(draws, law)}
    for name, field in fields.items():
        flow = reverse_flow(field, noise, START, end, steps)
        metrics |= {
            f"density/{name}": float((flow.log_density - law.log_prob(flow.samples)).abs().max()),
            f"mmd/{name}": mmd(flow.samples, law, width),
            f"sliced_w2/{name}": sliced_w2(flow.samples, law),
            f"asymmetry/{name}": float(asymmetry(field, flow.samples, end).median()),
        }
    return metrics


def dimension_facts(
    seed: int,
    name: str,
    strength: float = 10.0,
    ambient: int = 0,
    points: int = 60,
    end: float = 0.12,
    steps: int = 400,
) -> dict[str, float]:
    """Singular values of the flow's Jacobian on a curved target, with (``gauge``) and without (``plain``) r (G5, G6).

    Returns:
        For both labels: ``slope_id/<label>`` and ``threshold_id/<label>`` (share of points where the estimator gives
        the intrinsic dimension), ``slope/<label>/<i>`` (median ``d log sv / d log t`` of the i-th largest singular
        value), ``spread/<label>`` (median ratio of the largest to the smallest singular value on the manifold),
        ``sliced_w2/<label>`` to the exact law and ``density/<label>``.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = manifold(name, ambient)
    law = chosen.target.noised(1.0, end)
    noise = chosen.target.noised(1.0, START).sample(points, generator)
    metrics: dict[str, float] = {}
    for label, c in (("plain", 0.0), ("gauge", strength)):
        flow = reverse_flow(GaugedScore(chosen.target, chosen.rotation, c), noise, START, end, steps)
        metrics |= _dimension(flow, chosen.dim, label) | {
            f"sliced_w2/{label}": sliced_w2(flow.samples, law),
            f"density/{label}": float((flow.log_density - law.log_prob(flow.samples)).abs().max()),
        }
    return metrics


def trained_facts(
    seed: int,
    name: str,
    ambient: int = 0,
    points: int = 100,
    end: float = 0.12,
    steps: int = 100,
    training: int = 3000,
) -> dict[str, float]:
    """Networks instead of exact scores: a free field and a conservative one, trained alike on a curved target (G7).

    Args:
        seed: of training and of the points.
        name, ambient: of the manifold.
        points: that are carried along the flow; as many from the law are used for residuals.
        end: time at which the flow ends.
        steps: of the flow.
        training: optimiser steps.

    Returns:
        With the labels ``free`` and ``conservative`` the metrics of :func:`dimension_facts`, but ``density/<label>``
        as a median, and ``asymmetry/<label>``; ``remainder/<label>``: ``E||r||^2 / E||s||^2`` for r = model - s at
        ``end``; ``residual/<label>``: root mean square of ``div r + r . s`` over that of ``||s||^2``, likewise.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = manifold(name, ambient)
    law = chosen.target.noised(1.0, end)
    noise = chosen.target.noised(1.0, START).sample(points, generator)
    there = law.sample(points, generator)
    score, hessian = chosen.target.score(there, 1.0, end), chosen.target.hessian(there, 1.0, end)
    squared = score.square().sum(1)
    metrics: dict[str, float] = {}
    for label in ("free", "conservative"):
        field = fit_score(chosen.target, label == "conservative", seed, START, end, training)
        flow = reverse_flow(field, noise, START, end, steps)
        value, jacobian = field.field_and_jacobian(there, end)
        divergence = (jacobian - hessian).diagonal(dim1=1, dim2=2).sum(-1)
        residual = divergence + ((value - score) * score).sum(1)
        error = (flow.log_density - law.log_prob(flow.samples)).abs()
        metrics |= _dimension(flow, chosen.dim, label) | {
            f"sliced_w2/{label}": sliced_w2(flow.samples, law),
            f"density/{label}": float(error.median()),
            f"asymmetry/{label}": float(asymmetry(field, there, end).median()),
            f"remainder/{label}": float((value - score).square().sum(1).mean() / squared.mean()),
            f"residual/{label}": float((residual.square().mean() / squared.square().mean()).sqrt()),
        }
    return metrics


def gaussian_facts(seed: int) -> dict[str, float]:
    """A point mass widened to a Gaussian, for which any exact flow has ``Y Sigma_T Y^T = Sigma_0``.

    Returns:
        ``gaussian/covariance_error`` and ``gaussian/singular_value_change``: largest relative change of singular
        values between c = 0 and c = 3, both zero but for the error of integration.
    """
    target = GaussianMixture(torch.zeros(1, 3, dtype=torch.float64), torch.full((3,), 0.25, dtype=torch.float64))
    noise = target.noised(1.0, 5.0).sample(10, torch.Generator().manual_seed(seed))
    flows = [reverse_flow(GaugedScore(target, antisymmetric(3), c), noise, 5.0, 0.1, 600) for c in (0.0, 3.0)]
    wanted = (0.25 + 0.1**2) / (0.25 + 5.0**2) * torch.eye(3, dtype=torch.float64)
    carried = flows[1].jacobian @ flows[1].jacobian.mT
    values = [torch.linalg.svdvals(flow.jacobian) for flow in flows]
    return {
        "gaussian/covariance_error": float((carried - wanted).norm(dim=(1, 2)).max() / wanted.norm()),
        "gaussian/singular_value_change": float((values[1] / values[0] - 1).abs().max()),
        "gaussian/w2": gaussian_w2(target.mean, wanted, target.mean, carried.mean(0)),
    }


def _dimension(flow: Flow, dim: int, label: str) -> dict[str, float]:
    values = torch.linalg.svdvals(flow.jacobian)
    metrics = {
        f"slope_id/{label}": float((dimension_by_slope(flow) == dim).double().mean()),
        f"threshold_id/{label}": float((dimension_by_threshold(flow) == dim).double().mean()),
        f"spread/{label}": float((values[:, 0] / values[:, dim - 1]).median()),
    }
    medians = flow.slopes.median(0).values.tolist()
    return metrics | {f"slope/{label}/{index + 1}": value for index, value in enumerate(medians)}


def _standard_errors(values: Tensor) -> float:
    return float(values.mean().abs() / (values.std() / len(values) ** 0.5))

"""How far domains are aligned, in each of the quantities that methods penalise."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from curvature.alignment.coral import covariance
from curvature.alignment.distance import hessian_gram, spectral_distance
from curvature.alignment.domain import Domain
from curvature.alignment.fishr import gradient_variance
from curvature.alignment.head import head_hessian_trace
from curvature.alignment.iga import network_gradient
from curvature.alignment.irm import scale_derivative
from curvature.models.mlp import HeadedNetwork


def hessian_distances(domains: Sequence[Domain]) -> dict[str, float]:
    """``hessian_distance``, the mean of ||H_e - H_f||_F over pairs, and ``hessian_distance_relative`` to ||Hbar||_F.

    A single domain has no distances.
    """
    if len(domains) < 2:
        return {}
    with torch.no_grad():
        gram = hessian_gram([_double(domain) for domain in domains])
        squares = gram.diagonal().unsqueeze(0) + gram.diagonal().unsqueeze(1) - 2 * gram
        pairs = torch.triu_indices(len(domains), len(domains), 1, device=gram.device)
        distance = squares[pairs[0], pairs[1]].clamp(min=0).sqrt().mean()
        return {
            "hessian_distance": float(distance),
            "hessian_distance_relative": float(distance / gram.mean().sqrt()),
        }


def alignment_measures(domains: Sequence[Domain], network: HeadedNetwork) -> dict[str, float]:
    """Distances, averaged over pairs of domains, and sizes, averaged over domains.

    ``<quantity>_distance``: gradient, diagonal, product (H_e g_e), loss, covariance (of features), variance (of
    per-sample head gradients), network_gradient (by all parameters) and hessian, all Euclidean norms;
    ``hessian_distance_relative`` is divided by ||Hbar||_F, ``hessian_distance_spectral`` is the spectral norm.
    ``scale_derivative`` is IRM's |<theta, g_e>| and ``network_gradient_product`` the sum of g_i . g_j that Fish raises.
    Sizes, which are all that a single domain has: ``trace``, ``gradient_norm``, ``feature_norm`` and
    ``feature_covariance_norm``; small ones reveal collapse.
    """
    measures = hessian_distances(domains)
    gradients = torch.stack([network_gradient(domain, network) for domain in domains])
    with torch.no_grad():
        wide = [_double(domain) for domain in domains]
        quantities = {
            "gradient": [d.gradient for d in wide],
            "diagonal": [d.diagonal for d in wide],
            "product": [d.hvp(d.gradient) for d in wide],
            "loss": [d.loss for d in wide],
            "covariance": [covariance(d) for d in wide],
            "variance": [gradient_variance(d) for d in wide],
            "network_gradient": list(gradients),
        }
        if len(domains) > 1:
            measures |= {f"{name}_distance": _mean_distance(values) for name, values in quantities.items()}
            spectral = [spectral_distance(a, b) for a, b in combinations(wide, 2)]
            measures["hessian_distance_spectral"] = _mean(spectral)
        product = gradients.sum(0).square().sum() - gradients.square().sum()
        measures["network_gradient_product"] = float(product)
        measures["scale_derivative"] = _mean([scale_derivative(d.logits, d.labels).abs() for d in wide])
        measures["trace"] = _mean([head_hessian_trace(d.features, d.logits) for d in wide])
        measures["gradient_norm"] = _mean([d.gradient.norm() for d in wide])
        measures["feature_norm"] = _mean([d.features.norm(dim=1).mean() for d in wide])
        measures["feature_covariance_norm"] = _mean([c.norm() for c in quantities["covariance"]])
    return measures


def _double(domain: Domain) -> Domain:
    labels = domain.labels.double() if domain.labels.is_floating_point() else domain.labels
    return Domain(domain.features.double(), domain.logits.double(), labels)


def _mean(values: Sequence[Tensor]) -> float:
    return float(torch.stack(list(values)).mean())


def _mean_distance(values: Sequence[Tensor]) -> float:
    return _mean([(a - b).norm() for a, b in combinations(values, 2)])

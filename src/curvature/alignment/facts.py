"""What the paper states of heads, decided without training: each function takes a seed and returns metrics by name."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from curvature.alignment.coral import CORAL
from curvature.alignment.distance import pair_distance, spectral_distance
from curvature.alignment.domain import Domain
from curvature.alignment.fish import Fish
from curvature.alignment.fishr import gradient_variance
from curvature.alignment.head import augmented, head_hessian, mean_loss, probabilities, residuals
from curvature.alignment.hgp import HGP
from curvature.alignment.hutchinson import diagonal_estimate
from curvature.alignment.iga import network_gradient
from curvature.alignment.irm import scale_derivative
from curvature.alignment.transfer import LogisticDomain, transfer_bound, transfer_limit, transfer_measure
from curvature.models.mlp import HeadedNetwork

DELTAS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
PROBES = (1, 4, 16, 64, 256)
DRAWS = 400


Inputs = Callable[[np.random.Generator], tuple[NDArray[np.float64], NDArray[np.float64]]]
Heads = Callable[[int, int], tuple[HeadedNetwork, list[Domain]]]


def normal_inputs(generator: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """4,000 normal samples of 3 features: standard deviations (1, 1, 1) in the source, (1.5, 1, 0.7) in the target."""
    source, target = generator.standard_normal((2, 4000, 3))
    return source, target * [1.5, 1.0, 0.7]


def transfer_facts(seed: int, inputs: Inputs = normal_inputs) -> dict[str, float]:
    """T(delta) / delta of two logistic heads with one optimum, its limit, the paper's bound, the order of the error.

    The order is that of the three smallest deltas.

    Args:
        seed: of the optimum, standard normal in 3 dimensions, and then of the inputs.
        inputs: (n, 3) of source and target.
    """
    generator = np.random.default_rng(seed)
    optimum = generator.standard_normal(3)
    source, target = (LogisticDomain(values, optimum) for values in inputs(generator))
    hessians = source.hessian(), target.hessian()
    limit, bound = transfer_limit(*hessians), transfer_bound(*hessians)
    ratios = np.array([transfer_measure(source, target, delta) / delta for delta in DELTAS])
    errors = np.abs(ratios - limit)
    tail = slice(-3, None)
    order = float(np.polyfit(np.log(DELTAS[tail]), np.log(np.maximum(errors[tail], 1e-300)), 1)[0])
    found = {f"transfer/ratio_{delta:g}": float(ratio) for delta, ratio in zip(DELTAS, ratios)}
    return found | {
        "transfer/limit": limit,
        "transfer/bound": bound,
        "transfer/error": float(errors[-1] / max(limit, 1e-12)),
        "transfer/order": order,
        "transfer/violations": float((ratios > bound).sum()),
    }


def moment_facts(seed: int, heads: Heads | None = None) -> dict[str, float]:
    """Largest deviation of the closed forms from autograd, for 1, 2, 3 and 7 logits: ``moments/<quantity>``."""
    errors = {"moments/gradient": 0.0, "moments/hessian": 0.0, "moments/diagonal": 0.0, "moments/product": 0.0}
    for classes in (1, 2, 3, 7):
        network, (domain, _) = (heads or random_domains)(classes, seed)
        theta = _theta(network).detach().requires_grad_()

        def loss(head: Tensor, domain: Domain = domain) -> Tensor:
            return mean_loss(augmented(domain.features.detach()) @ head.mT, domain.labels)

        (gradient,) = torch.autograd.grad(loss(theta), theta, create_graph=True)
        (product,) = torch.autograd.grad(0.5 * gradient.square().sum(), theta)
        found: Tensor = torch.autograd.functional.hessian(loss, theta)
        hessian = found.reshape(theta.numel(), theta.numel())
        pairs = {
            "gradient": (domain.gradient, gradient),
            "hessian": (head_hessian(domain.features, domain.logits), hessian),
            "diagonal": (domain.diagonal.flatten(), hessian.diagonal()),
            "product": (domain.hvp(domain.gradient), product),
        }
        for name, (ours, theirs) in pairs.items():
            key = f"moments/{name}"
            errors[key] = max(errors[key], float((ours - theirs).abs().max().detach()))
    return errors


def identity_facts(seed: int, heads: Heads | None = None) -> dict[str, float]:
    """Largest deviation from what each earlier method is said to align: ``identities/<method>``."""
    network, domains = (heads or random_domains)(3, seed)
    theta = _theta(network)
    gradients = torch.stack([network_gradient(domain, network) for domain in domains])
    per_sample = [residuals(d.logits, d.labels).unsqueeze(2) * augmented(d.features).unsqueeze(1) for d in domains]
    flat = [Domain(d.features, torch.zeros_like(d.logits), d.labels) for d in domains]
    extended = [augmented(d.features) for d in flat]
    moments = extended[0].mT @ extended[0] / len(extended[0]) - extended[1].mT @ extended[1] / len(extended[1])
    second = [model_label_moment(d) for d in domains]
    deviations = {
        "irm": [scale_derivative(d.logits, d.labels) - (theta * d.gradient).sum() for d in domains],
        "coral_frobenius": [pair_distance(*flat) - 2**0.5 / 3 * moments.norm()],
        "coral_spectral": [spectral_distance(*flat) - torch.linalg.matrix_norm(moments, 2) / 3],
        "coral_self": [CORAL().penalty([domains[0], domains[0]], network)],
        "fish": [Fish().penalty(domains, network) + 2 * gradients[0] @ gradients[1]],
        "fishr": [gradient_variance(d) - g.var(0, correction=0) for d, g in zip(domains, per_sample)],
        "fishr_diagonal": [d.diagonal - s for d, s in zip(domains, second)],
    }
    largest = {name: max(float(v.detach().abs().max()) for v in values) for name, values in deviations.items()}
    return {f"identities/{name}": value for name, value in largest.items()}


def model_label_moment(domain: Domain) -> Tensor:
    """Second moment of per-sample head gradients, (C, d + 1), with labels drawn from the model, by enumeration."""
    p = probabilities(domain.logits)
    moment = torch.zeros_like(domain.gradient)
    for label in range(p.shape[1]):
        labels = torch.full((len(p),), label)
        per_sample = residuals(domain.logits, labels).unsqueeze(2) * augmented(domain.features).unsqueeze(1)
        moment = moment + (p[:, label, None, None] * per_sample.square()).mean(0)
    return moment


def estimator_facts(seed: int, heads: Heads | None = None) -> dict[str, float]:
    """HGP against dense matrices, and how the error of the estimated diagonal falls with the number of probes.

    ``estimator/slope`` is the log-log slope of the root mean squared error over R, ``estimator/variance`` the ratio of
    the measured variance at R = 1 to sum_{j != i} H_ij^2, summed over entries.
    """
    network, domains = (heads or random_domains)(3, seed)
    gradients = torch.stack([d.gradient.flatten() for d in domains]).detach()
    hessians = torch.stack([head_hessian(d.features, d.logits) for d in domains]).detach()
    products = torch.einsum("eij,ej->ei", hessians, gradients)
    center = hessians.mean(0) @ gradients.mean(0)
    dense = ((products - center).square() + (gradients - gradients.mean(0)).square()).sum(1).mean()
    generator = torch.Generator().manual_seed(seed)
    errors = []
    domain, hessian = domains[0], hessians[0]
    with torch.no_grad():
        for count in PROBES:
            shape = (DRAWS, count, *domain.gradient.shape)
            signs = torch.randint(0, 2, shape, generator=generator).double() * 2 - 1
            estimates = torch.stack([diagonal_estimate(domain, probes) for probes in signs])
            errors.append(float((estimates - domain.diagonal).square().sum((1, 2)).mean()))
    expected = float(hessian.square().sum() - hessian.diagonal().square().sum())
    return {
        "estimator/hgp": abs(float(HGP().penalty(domains, network).detach()) - float(dense)),
        "estimator/slope": float(np.polyfit(np.log(PROBES), 0.5 * np.log(errors), 1)[0]),
        "estimator/variance": errors[0] / expected,
    }


def random_domains(classes: int, seed: int) -> tuple[HeadedNetwork, list[Domain]]:
    """A head on 4 features with standard normal parameters, and two domains of 12 and 9 samples, in float64."""
    generator = torch.Generator().manual_seed(seed)
    network = HeadedNetwork(nn.Identity(), nn.Linear, 4, classes).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    domains = []
    for size, scale in ((12, 1.0), (9, 1.5)):
        features = scale * torch.randn(size, 4, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, max(classes, 2), (size,), generator=generator)
        domains.append(Domain(features, network.head(features), labels))
    return network, domains


def _theta(network: HeadedNetwork) -> Tensor:
    head = network.head
    assert isinstance(head, nn.Linear)
    return torch.cat([head.weight, head.bias.unsqueeze(1)], dim=1)

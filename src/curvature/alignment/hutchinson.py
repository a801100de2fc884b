"""Matching of Hessian diagonals (Hemati et al., ICCV 2023, section 4)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from curvature.alignment.domain import Domain, check_linear
from curvature.alignment.method import Method, deviations, squared_norms
from curvature.data.seeds import derive
from curvature.errors import ConfigError
from curvature.models.mlp import HeadedNetwork

ESTIMATORS = ("exact", "shared", "independent")


class Hutchinson(Method):
    """alpha |D_e - Dbar|^2 + beta |g_e - gbar|^2 over domains; D is the diagonal of the head Hessian or its estimate.

    With R probes the estimate of a diagonal has variance (1/R) sum_{j != i} H_ij^2 in entry i. Of the squared distance,
    ``independent`` probes therefore add (off(H_e) + off(Hbar)) / R in the mean, off being the squared Frobenius norm
    off the diagonal, which stays where domains agree and shrinks features; ``shared`` ones add off(H_e - Hbar) / R.
    ``exact`` costs one product of the head gradient's size.

    Args:
        alpha, beta: factors of the two terms; ``weight`` multiplies both.
        diag_estimator: ``exact``; ``shared``, one set of Rademacher probes for all domains and their mean; or
            ``independent``, a set for each domain and one for the mean, as in the authors' code.
        n_probes: R.
        detach_center: treat the centres as constants.
        **options: see :class:`curvature.alignment.method.Method`.

    Raises:
        ConfigError: an unknown estimator or no probes; from ``bind``, a head that is not linear.
    """

    draws: Tensor

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 1.0,
        diag_estimator: str = "exact",
        n_probes: int = 150,
        detach_center: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if diag_estimator not in ESTIMATORS:
            raise ConfigError("method.diag_estimator", diag_estimator, f"one of {', '.join(ESTIMATORS)}")
        if n_probes < 1:
            raise ConfigError("method.n_probes", n_probes, "at least 1")
        self.alpha, self.beta, self.detach_center = alpha, beta, detach_center
        self.diag_estimator, self.n_probes, self.seed = diag_estimator, n_probes, 0
        self.register_buffer("draws", torch.zeros((), dtype=torch.long))

    def bind(self, network: HeadedNetwork, domains: int, seed: int = 0) -> None:
        check_linear(network)
        self.seed = seed

    def penalty(self, domains: Sequence[Domain], network: HeadedNetwork) -> Tensor:
        curved = squared_norms(self._diagonal_deviations(domains))
        straight = squared_norms(deviations([domain.gradient for domain in domains], self.detach_center))
        return self.reduce(self.alpha * curved + self.beta * straight)

    def _diagonal_deviations(self, domains: Sequence[Domain]) -> Tensor:
        if self.diag_estimator == "exact":
            return deviations([domain.diagonal for domain in domains], self.detach_center)
        sets = len(domains) + 1 if self.diag_estimator == "independent" else 1
        probes = self._probes(sets, domains[0].gradient)
        if sets == 1:
            return deviations([diagonal_estimate(domain, probes[0]) for domain in domains], self.detach_center)
        center = torch.stack([diagonal_estimate(domain, probes[-1]) for domain in domains]).mean(0)
        estimates = [diagonal_estimate(domain, own) for domain, own in zip(domains, probes)]
        return deviations(estimates, self.detach_center, center)

    def _probes(self, sets: int, like: Tensor) -> Tensor:
        """Random signs (sets, R, C, d + 1): a function of the run's seed and of how often they were drawn."""
        generator = torch.Generator(like.device).manual_seed(derive("probes", self.seed, int(self.draws)))
        self.draws += 1
        shape = sets, self.n_probes, *like.shape
        signs = torch.randint(0, 2, shape, generator=generator, device=like.device)
        return signs.to(like.dtype) * 2 - 1


def diagonal_estimate(domain: Domain, probes: Tensor) -> Tensor:
    """Hutchinson's estimate mean_t z_t * (H z_t), (C, d + 1), from probes (R, C, d + 1) with entries -1 and 1."""
    return (probes * domain.hvp(probes)).mean(0)

"""How much a group seems to matter: the criteria of HESSO (Chen et al. 2024) and their normalised sum."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from curvature.errors import ConfigError

EPS = 1e-8


@dataclass(frozen=True)
class GroupStatistics:
    """Per group, all of shape (G,): norm of the parameters, of the update direction, their product, and entries."""

    norm: Tensor
    direction_norm: Tensor
    product: Tensor
    lengths: Tensor


CRITERIA: dict[str, Callable[[GroupStatistics], Tensor]] = {
    "magnitude": lambda s: s.norm,
    "avg_magnitude": lambda s: s.norm / (s.lengths + 1e-6),
    "cosine_similarity": lambda s: s.product / (s.norm + EPS) / (s.direction_norm + EPS) + 1.0,
    "taylor_first_order": lambda s: s.product.abs(),
    "taylor_second_order": lambda s: 0.5 * s.product.square(),
}
DEFAULT_CRITERIA = dict.fromkeys(CRITERIA, 0.2)
RANDOM = "random"


def check_criteria(criteria: Mapping[str, float]) -> dict[str, float]:
    """``criteria`` with plain floats, without those of weight 0.

    Raises:
        ConfigError: no mapping, an unknown name, a negative weight, or no positive one.
    """
    if not isinstance(criteria, Mapping):
        raise ConfigError("optimizer.criteria", criteria, "a mapping from criteria to weights")
    known = [*CRITERIA, RANDOM]
    for name, weight in criteria.items():
        if name not in known:
            raise ConfigError("optimizer.criteria", name, f"among {', '.join(known)}")
        if not float(weight) >= 0.0:
            raise ConfigError(f"optimizer.criteria.{name}", weight, "a number >= 0")
    kept = {name: float(weight) for name, weight in criteria.items() if weight > 0}
    if not kept:
        raise ConfigError("optimizer.criteria", dict(criteria), "at least one positive weight")
    return kept


def normalised(values: Tensor) -> Tensor:
    """``values`` (G,) divided by their Euclidean norm over all groups, guarded as in the released code."""
    return values / (torch.sqrt(values.square().sum() + EPS) + EPS)


def values_of(
    statistics: GroupStatistics, criteria: Mapping[str, float], generator: torch.Generator | None = None
) -> Tensor:
    """Each of ``criteria`` as it is, (number of criteria, G).

    Args:
        generator: for the criterion ``random``, uniform in [0, 1); a CPU generator.
    """
    rows = []
    for name in criteria:
        if name == RANDOM:
            drawn = torch.rand(statistics.norm.shape, generator=generator, dtype=torch.float64)
            rows.append(drawn.to(statistics.norm))
        else:
            rows.append(CRITERIA[name](statistics))
    return torch.stack(rows)


def combined(values: Tensor, criteria: Mapping[str, float]) -> Tensor:
    """Weighted sum of the normalised rows of ``values`` (number of criteria, G): the overall saliency, (G,)."""
    total = torch.zeros_like(values[0])
    for row, weight in zip(values, criteria.values(), strict=True):
        total = total + weight * normalised(row)
    return total

"""How tightly features gather by class: variability, from all pairs within a class, and separation, in O(N)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def intra_class_variability(features: Tensor, labels: Tensor) -> float:
    """Mean angle between two features of a class, averaged over pairs i != j and then over classes, in degrees.

    Args:
        features: (N, n).
        labels: (N,) integers; classes with fewer than two features are left out.
    """
    unit = F.normalize(features, dim=-1)
    means = []
    for label in labels.unique():
        members = unit[labels == label]
        count = len(members)
        if count < 2:
            continue
        cosines = (members @ members.mT).clamp(-1.0, 1.0)
        pairs = ~torch.eye(count, dtype=torch.bool, device=features.device)
        means.append(torch.acos(cosines[pairs]).mean())
    return float(torch.rad2deg(torch.stack(means).mean()))


def class_separation(features: Tensor, labels: Tensor) -> float:
    """R^2 = 1 - d_within / d_total of cosine distances (Kornblith et al. 2021), classes weighted equally.

    With mu_c the mean unit feature of class c this is 1 - (1 - mean_c |mu_c|^2) / (1 - |mean_c mu_c|^2): no pairwise
    distances are formed.

    Args:
        features: (N, n).
        labels: (N,) integers.
    """
    unit = F.normalize(features, dim=-1)
    classes, index = labels.unique(return_inverse=True)
    sums = torch.zeros(len(classes), unit.shape[-1], dtype=unit.dtype, device=unit.device).index_add_(0, index, unit)
    means = sums / torch.bincount(index, minlength=len(classes)).unsqueeze(-1)
    within = 1.0 - means.square().sum(-1).mean()
    total = 1.0 - means.mean(0).square().sum()
    return float(1.0 - within / total)

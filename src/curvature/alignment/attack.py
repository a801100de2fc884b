"""Transferability under attack: how far losses of domains can be driven apart by a bounded change of the head."""

from dataclasses import dataclass

import torch
from torch import Tensor

from curvature.alignment.domain import Domain
from curvature.alignment.head import augmented, mean_loss


@dataclass(frozen=True)
class Attack:
    """Result of :func:`head_attack`; gaps are L_target - L_source, accuracies those after the attack."""

    gap_before: float
    gap_after: float
    source_accuracy: float
    target_accuracy: float


def head_attack(
    head: Tensor, source: Domain, target: Domain, delta: float = 2.0, steps: int = 150, lr: float = 0.05
) -> Attack:
    """Ascend by Adam on L_target - L_source over heads, projecting to the l2 ball about ``head`` after every step.

    The features stay as they are. Protocol of Zhang et al. (NeurIPS 2021), who attack the largest gap of all pairs.

    Args:
        head: trained [W, b], (C, d + 1).
        source, target: features and labels; their logits are recomputed.
        delta: radius of the ball, over weights and biases jointly.
        steps, lr: of Adam.
    """
    head = head.detach()
    features = [augmented(domain.features.detach()) for domain in (source, target)]
    labels = source.labels, target.labels

    def losses(theta: Tensor) -> list[Tensor]:
        return [mean_loss(inputs @ theta.mT, wanted) for inputs, wanted in zip(features, labels)]

    def gap(theta: Tensor) -> Tensor:
        near, far = losses(theta)
        return far - near

    attacked = head.clone().requires_grad_()
    optimizer = torch.optim.Adam([attacked], lr=lr, maximize=True)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            gap(attacked).backward()
            optimizer.step()
            with torch.no_grad():
                change = attacked - head
                attacked.copy_(head + change * (delta / change.norm().clamp(min=delta)))
    with torch.no_grad():
        accuracies = [accuracy(inputs @ attacked.mT, wanted) for inputs, wanted in zip(features, labels)]
        return Attack(float(gap(head)), float(gap(attacked)), *accuracies)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Fraction of class numbers ``labels`` (n,) that logits (n, C) predict; one logit predicts 1 where positive."""
    predicted = (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)
    return float((predicted == labels).double().mean())

"""Gradient and Hessian of the mean cross-entropy with respect to a linear head, in closed form.

A head theta = [W, b] of shape (C, d + 1) makes logits theta z~ from features z, with z~ = (z, 1). With p the predicted
probabilities, r = p - y and S = diag(p) - p p^T, the gradient is mean r z~^T and the Hessian mean S (x) z~ z~^T, rows
and columns ordered as (class, feature). One logit (C = 1) is a logistic head: p = sigmoid, S = p (1 - p).

Every function takes features (n, d) and logits (n, C), is differentiable in both, and needs no second backward pass.
Derived from Hemati et al. (ICCV 2023, arXiv 2308.11778), section 3.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def augmented(features: Tensor) -> Tensor:
    """Features with a last coordinate of one, (n, d + 1), for the bias."""
    return F.pad(features, (0, 1), value=1.0)


def probabilities(logits: Tensor) -> Tensor:
    """Softmax of (n, C), or sigmoid where C = 1."""
    return logits.sigmoid() if logits.shape[-1] == 1 else logits.softmax(-1)


def targets(logits: Tensor, labels: Tensor) -> Tensor:
    """Labels as probabilities (n, C): class numbers (n,) one-hot (0 and 1 where C = 1), soft labels (n, C) as given."""
    if labels.shape == logits.shape:
        return labels.to(logits.dtype)
    if logits.shape[-1] == 1:
        return labels.to(logits.dtype).unsqueeze(-1)
    return F.one_hot(labels.long(), logits.shape[-1]).to(logits.dtype)


def residuals(logits: Tensor, labels: Tensor) -> Tensor:
    """p - y, (n, C)."""
    return probabilities(logits) - targets(logits, labels)


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats, (), of logits (n, C) and labels (n,)."""
    wanted = targets(logits, labels)
    if logits.shape[-1] == 1:
        return F.binary_cross_entropy_with_logits(logits, wanted)
    return -(wanted * logits.log_softmax(-1)).sum(-1).mean()


def head_gradient(features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the mean loss, (C, d + 1)."""
    return residuals(logits, labels).mT @ augmented(features) / len(features)


def head_hvp(features: Tensor, logits: Tensor, vectors: Tensor) -> Tensor:
    """Hessian times ``vectors`` (..., C, d + 1), of the same shape.

    Example:
        >>> z, o = torch.tensor([[1.0]]), torch.zeros(1, 1)
        >>> head_hvp(z, o, torch.tensor([[1.0, 0.0]]))
        tensor([[0.2500, 0.2500]])
    """
    extended, p = augmented(features), probabilities(logits)
    changes = extended @ vectors.mT
    if logits.shape[-1] == 1:
        curved = p * (1 - p) * changes
    else:
        weighted = p * changes
        curved = weighted - p * weighted.sum(-1, keepdim=True)
    return curved.mT @ extended / len(features)


def head_hessian_diag(features: Tensor, logits: Tensor) -> Tensor:
    """Diagonal of the Hessian, (C, d + 1): mean p (1 - p) z~^2. Costs one product of the size of the gradient's."""
    p = probabilities(logits)
    return (p * (1 - p)).mT @ augmented(features).square() / len(features)


def head_hessian_trace(features: Tensor, logits: Tensor) -> Tensor:
    """Trace of the Hessian, (): mean (sum_k p_k (1 - p_k)) |z~|^2 of features (n, d) and logits (n, C)."""
    p = probabilities(logits)
    return ((p * (1 - p)).sum(-1) * augmented(features).square().sum(-1)).mean()


def head_hessian(features: Tensor, logits: Tensor) -> Tensor:
    """The whole Hessian, (C (d + 1), C (d + 1)): for small heads only."""
    extended, p = augmented(features), probabilities(logits)
    if logits.shape[-1] == 1:
        return (extended * (p * (1 - p))).mT @ extended / len(features)
    covariance = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
    blocks = torch.einsum("nkl,nj,nm->kjlm", covariance, extended, extended) / len(features)
    size = blocks.shape[0] * blocks.shape[1]
    return blocks.reshape(size, size)

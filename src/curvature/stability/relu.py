"""Two-layer ReLU nets ``f(x) = sum_j a_j relu(w_j . x)`` without biases: closed forms of step, curvature and norms.

The derivative of the ReLU at 0 is 0 throughout, as in torch.
"""

import math

import torch
from torch import Tensor

from curvature.stability.family import State, clip_factor


def gram(a: Tensor, w: Tensor, inputs: Tensor) -> Tensor:
    """``K_ij = [sum_m s_im s_jm + (x_i . x_j) sum_m a_m^2 1_im 1_jm] / n``, s = relu(w . x), 1 = (w . x > 0).

    Args:
        a: (..., m).
        w: (..., m, d).
        inputs: (..., n, d), broadcast against the leading dimensions.

    Returns:
        (..., n, n).
    """
    preactivation = inputs @ w.mT
    hidden = preactivation.clamp_min(0)
    weighted = torch.where(preactivation > 0, a[..., None, :], 0)
    first_layer = (inputs @ inputs.mT) * (weighted @ weighted.mT)
    return (hidden @ hidden.mT + first_layer) / inputs.shape[-2]


def trace(a: Tensor, w: Tensor, inputs: Tensor) -> Tensor:
    """``mean_i sum_m [s_im^2 + ||x_i||^2 a_m^2 1_im]``; shapes as in :func:`gram`, result (...)."""
    preactivation = inputs @ w.mT
    hidden = preactivation.clamp_min(0).square().sum(-1)
    active = torch.where(preactivation > 0, a.square()[..., None, :], 0).sum(-1)
    return (hidden + inputs.square().sum(-1) * active).mean(-1)


def population_trace(a: Tensor, w: Tensor) -> Tensor:
    """Trace for inputs uniform on the sphere of radius sqrt(d): ``1/2 sum_j (||w_j||^2 + d a_j^2)``.

    At least ``sqrt(d) * path_norm(a, w)``, with equality iff ``||w_j|| = sqrt(d) |a_j|`` for all j.
    """
    return (w.square().sum((-2, -1)) + w.shape[-1] * a.square().sum(-1)) / 2


def path_norm(a: Tensor, w: Tensor) -> Tensor:
    """``sum_j |a_j| ||w_j||_2``; (..., m) and (..., m, d) to (...)."""
    return (a.abs() * torch.linalg.vector_norm(w, dim=-1)).sum(-1)


def balanced(a: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The same function with each unit rescaled so that ``||w_j|| = sqrt(d) |a_j|``: least population trace."""
    length = torch.linalg.vector_norm(w, dim=-1)
    scale = (math.sqrt(w.shape[-1]) * a.abs() / length).sqrt()
    return a / scale, w * scale[..., None]


def norms(a: Tensor, w: Tensor) -> dict[str, Tensor]:
    """Path norm, imbalance ``(sum ||w_j||^2 + d a_j^2) / (2 sqrt(d) path_norm)``, l2 norm of all parameters."""
    path = path_norm(a, w)
    return {
        "path_norm": path,
        "imbalance": population_trace(a, w) / (math.sqrt(w.shape[-1]) * path),
        "weights": (a.square().sum(-1) + w.square().sum((-2, -1))).sqrt(),
    }


def population_product(u: Tensor, v: Tensor) -> Tensor:
    """``E relu(u_i . x) relu(v_j . x)`` for x uniform on the sphere of radius sqrt(d), or standard normal.

    The arc-cosine kernel of degree 1 (Cho & Saul, 2009): ``||u|| ||v|| (sin t + (pi - t) cos t) / (2 pi)``.

    Args:
        u: (..., m, d).
        v: (..., k, d).

    Returns:
        (..., m, k).
    """
    lengths = torch.linalg.vector_norm(u, dim=-1)[..., :, None] * torch.linalg.vector_norm(v, dim=-1)[..., None, :]
    cosine = (u @ v.mT / lengths.clamp_min(torch.finfo(u.dtype).tiny)).clamp(-1, 1)
    angle = cosine.acos()
    return lengths * (angle.sin() + (math.pi - angle) * cosine) / (2 * math.pi)


def population_loss(a: Tensor, w: Tensor, teacher_a: Tensor, teacher_w: Tensor) -> Tensor:
    """Expected half squared difference of two nets for inputs as in :func:`population_product`; result (...)."""
    output = torch.cat([a, -teacher_a.expand(*a.shape[:-1], -1)], dim=-1)
    hidden = torch.cat([w, teacher_w.expand(*w.shape[:-2], -1, -1)], dim=-2)
    products = population_product(hidden, hidden)
    return (output[..., None, :] @ products @ output[..., :, None])[..., 0, 0] / 2


class ReLUFamily:
    """Replicas of two-layer ReLU nets; parameters ``a`` (S, L, m) and ``w`` (S, L, m, d). See :class:`Family`."""

    def predict(self, state: State, inputs: Tensor) -> Tensor:
        a, hidden = state["a"], self._preactivation(state["w"], inputs).clamp_min_(0)
        return (a[..., None, :] @ hidden)[..., 0, :]

    def step(self, state: State, inputs: Tensor, targets: Tensor, rate: Tensor, clip: float | None) -> Tensor | None:
        one_sample = targets.shape[1] == 1
        return (self._step_single if one_sample else self._step_batch)(state, inputs, targets, rate, clip)

    def _step_single(
        self, state: State, inputs: Tensor, targets: Tensor, rate: Tensor, clip: float | None
    ) -> Tensor | None:
        a, w = state["a"], state["w"]
        seeds, lanes, units = a.shape
        hidden = self._preactivation(w, inputs)[..., 0]
        active = hidden > 0
        hidden.clamp_min_(0)
        error = torch.linalg.vecdot(a, hidden)[..., None]
        error -= targets[:, None]
        gradient_a = hidden * error
        coefficients = a * error * active
        factor = None
        if clip is not None:
            squared_w = torch.linalg.vecdot(coefficients, coefficients) * torch.linalg.vecdot(inputs, inputs)
            factor = clip_factor(torch.linalg.vecdot(gradient_a, gradient_a) + squared_w, clip)
            rate = rate * factor
        a.addcmul_(gradient_a, rate[..., None], value=-1)
        coefficients *= rate[..., None]
        first_layer = w.view(seeds, lanes * units, -1)
        first_layer.addcmul_(coefficients.view(seeds, lanes * units, 1), inputs, value=-1)
        return factor

    def _step_batch(
        self, state: State, inputs: Tensor, targets: Tensor, rate: Tensor, clip: float | None
    ) -> Tensor | None:
        a, w = state["a"], state["w"]
        seeds, lanes, units = a.shape
        hidden = self._preactivation(w, inputs)
        active = hidden > 0
        hidden.clamp_min_(0)
        error = (a[..., None, :] @ hidden)[..., 0, :]
        error -= targets[:, None]
        error /= targets.shape[1]
        gradient_a = (hidden @ error[..., None])[..., 0]
        coefficients = a[..., None] * error[..., None, :] * active
        gradient_w = torch.bmm(coefficients.view(seeds, lanes * units, -1), inputs).view_as(w)
        factor = None
        if clip is not None:
            squared_w = gradient_w.square().sum((-2, -1))
            factor = clip_factor(torch.linalg.vecdot(gradient_a, gradient_a) + squared_w, clip)
            rate = rate * factor
        a.addcmul_(gradient_a, rate[..., None], value=-1)
        w.addcmul_(gradient_w, rate[..., None, None], value=-1)
        return factor

    def gram(self, state: State, inputs: Tensor) -> Tensor:
        return gram(state["a"], state["w"], inputs[:, None])

    def trace(self, state: State, inputs: Tensor) -> Tensor:
        return trace(state["a"], state["w"], inputs[:, None])

    def norms(self, state: State) -> dict[str, Tensor]:
        return norms(state["a"], state["w"])

    @staticmethod
    def _preactivation(w: Tensor, inputs: Tensor) -> Tensor:
        seeds, lanes, units, dim = w.shape
        flat = torch.bmm(w.reshape(seeds, lanes * units, dim), inputs.mT)
        return flat.view(seeds, lanes, units, inputs.shape[1])

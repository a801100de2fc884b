"""The Levenberg-Marquardt-Langevin correction of a solver's update, in a form free of cancellation.

With the low-rank damped Hessian ``lamb I + v v^T``, ``v = kappa p + (1 - kappa) g``, the correction replaces an update
g by ``(lamb I + v v^T)^{-1} g`` rescaled to the length of g (Wang et al. 2025, arXiv 2505.24222; Sherman-Morrison).
That is a rotation of g, in the plane of g and the previous update p, away from the part of p orthogonal to g.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from curvature.errors import ConfigError


def levenberg_marquardt_correction(g: Tensor, p: Tensor | None, lamb: float, kappa: float) -> Tensor:
    """``(lamb I + v v^T)^{-1} g`` with the length of g, where ``v = kappa p + (1 - kappa) g``.

    With G = ||g||, a = p.g / G, q the length of the part of p orthogonal to g, A = kappa a + (1 - kappa) G and
    B = kappa q, the angle between g and the result has the tangent A B / (lamb + B^2). Reductions run over all
    dimensions but the first. Half-precision inputs are computed in float32.

    Args:
        g: (B, ...) updates to correct.
        p: (B, ...) updates of the previous step; None at the first step, where g comes back.
        lamb: damping >= 0, on the scale of ``||v||^2``. Zero with q > 0 is the projection of g orthogonal to v.
        kappa: weight of p in [0, 1). Zero gives g back, whatever ``lamb`` is.

    Returns:
        (B, ...) in the dtype of g; g itself where nothing changes.

    Raises:
        ConfigError: ``lamb`` or ``kappa`` out of range.

    >>> g, p = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 5.0]])
    >>> levenberg_marquardt_correction(g, p, lamb=25.0, kappa=0.5)
    tensor([[3.8738, 3.1613]])
    """
    check_damping(lamb, kappa)
    if p is None or kappa == 0.0 or g.numel() == 0:
        return g
    plane = _Plane.of(g, p)
    return plane.rotated(*plane.damped(lamb, kappa), g)


def scale_free_correction(g: Tensor, p: Tensor | None, beta: float) -> Tensor:
    """The limit of small ``lamb`` and ``kappa = beta lamb / ||g||^2``: the tangent of the angle is ``beta q / G``.

    Args:
        g: (B, ...) updates to correct.
        p: (B, ...) updates of the previous step, or None.
        beta: dimensionless strength; a negative one rotates towards p. Zero gives g back.

    Returns:
        (B, ...) of the lengths and dtype of g.
    """
    if p is None or beta == 0.0 or g.numel() == 0:
        return g
    plane = _Plane.of(g, p)
    return plane.rotated(*plane.scale_free(beta), g)


def released_correction(g: Tensor, p: Tensor | None, lamb: float, kappa: float) -> Tensor:
    """The same quantity in the order of operations of the authors' released code, in float32 for lower precisions.

    In exact arithmetic it equals :func:`levenberg_marquardt_correction`. In float32 ``g - v (g.v) / (lamb + v.v)``
    cancels down to rounding noise when ``lamb << v.v``, and the renormalisation blows that noise up to the length of g.
    Kept as a labelled arm of comparisons; not a number where every component cancels.

    Args:
        g, p, lamb, kappa: as in :func:`levenberg_marquardt_correction`.
    """
    check_damping(lamb, kappa)
    if g.numel() == 0:
        return g
    flat = _flat(g)
    v = flat if p is None else kappa * _flat(p) + (1 - kappa) * flat
    c = flat - v * (flat * v).sum(1, keepdim=True) / (lamb + (v * v).sum(1, keepdim=True))
    return (c * flat.norm(dim=1, keepdim=True) / c.norm(dim=1, keepdim=True)).to(g.dtype).view_as(g)


def matched_noise(
    g: Tensor,
    p: Tensor | None,
    generator: torch.Generator,
    lamb: float = 0.0,
    kappa: float = 0.0,
    beta: float | None = None,
    level: float | None = None,
) -> Tensor:
    """Control: g turned by the angle that the correction has, but in the direction of multiplicative noise.

    The direction is the part of ``xi * g`` orthogonal to g, with standard normal ``xi``, one a component.

    Args:
        g, p: as in :func:`levenberg_marquardt_correction`.
        generator: source of ``xi``, on the CPU.
        lamb, kappa: whose angle is matched; ignored with ``beta``.
        beta: whose angle is matched instead.
        level: tangent of a fixed angle; p, ``lamb``, ``kappa`` and ``beta`` are then not looked at.

    Returns:
        (B, ...) of the lengths and dtype of g.
    """
    if g.numel() == 0 or (level is None and p is None):
        return g
    xi = torch.randn(g.shape, generator=generator, dtype=torch.float32).to(g.device)
    noise = _Plane.of(g, xi.to(_working(g)) * g)
    if level is not None:
        tangent: Any = level
    else:
        assert p is not None
        plane = _Plane.of(g, p)
        cosine, factor = plane.damped(lamb, kappa) if beta is None else plane.scale_free(beta)
        tangent = factor * plane.q / (cosine * plane.length + noise.tiny)
    inside = noise.q > 0
    cosine = (1 + tangent * tangent * inside) ** -0.5
    factor = inside * tangent * cosine * noise.length / (noise.q + noise.tiny)
    return noise.rotated(cosine, factor, g)


def check_damping(lamb: float, kappa: float) -> None:
    """Raises ConfigError unless ``lamb >= 0`` and ``0 <= kappa < 1``."""
    if not 0.0 <= lamb < float("inf"):
        raise ConfigError("lamb", lamb, "a finite number >= 0")
    if not 0.0 <= kappa < 1.0:
        raise ConfigError("kappa", kappa, "a number in [0, 1)")


EPS = {dtype: torch.finfo(dtype).eps for dtype in (torch.float32, torch.float64)}
FLOAT64_TINY = torch.finfo(torch.float64).tiny
Numbers = Any
"""(B,) numbers: a tensor, or on the CPU a float64 array, for which short operations take a fraction of the time."""


class _Plane(NamedTuple):
    """The plane of g and p: ``flat`` is g as (B, d), ``orthogonal`` the part of p orthogonal to it, (B, d).

    ``length``, ``along`` and ``q`` are (B,): ||g||, the component of p along g, and the length of ``orthogonal``. The
    subtraction is carried out before the norm is taken, since ``p.p - along^2`` would cancel. A q within rounding of a
    parallel p counts as zero. Where gradients are needed, and on GPUs, the numbers are tensors.
    """

    flat: Tensor
    orthogonal: Tensor
    length: Numbers
    along: Numbers
    q: Numbers
    tiny: float

    @classmethod
    def of(cls, g: Tensor, p: Tensor) -> "_Plane":
        flat, other = _flat(g), _flat(p)
        on_host = flat.is_cpu and not (flat.requires_grad or other.requires_grad)
        tiny, eps = FLOAT64_TINY if on_host else torch.finfo(flat.dtype).tiny, EPS[flat.dtype]
        length: Numbers = torch.linalg.vector_norm(flat, dim=1)
        product: Numbers = torch.linalg.vecdot(flat, other)
        if on_host:
            length, product = length.numpy().astype(np.float64), product.numpy().astype(np.float64)
        share = product / (length * length + tiny)
        orthogonal = torch.addcmul(other, flat, _column(share, flat), value=-1)
        q: Numbers = torch.linalg.vector_norm(orthogonal, dim=1)
        if on_host:
            q = q.numpy().astype(np.float64)
        along = share * length
        return cls(flat, orthogonal, length, along, q * (q > abs(along) * (32 * eps)), tiny)

    def damped(self, lamb: float, kappa: float) -> tuple[Numbers, Numbers]:
        a = self.length * (1 - kappa) + self.along * kappa
        b = self.q * kappa
        return self._normalised(b * b + lamb, a * b, a * kappa, lamb)

    def scale_free(self, beta: float) -> tuple[Numbers, Numbers]:
        ratio = beta / (self.length + self.tiny)
        return self._normalised(1.0 + 0 * self.q, ratio * self.q, ratio, 1.0)

    def rotated(self, cosine: Numbers, factor: Numbers, like: Tensor) -> Tensor:
        """``cosine flat - factor orthogonal``, in the shape and dtype of ``like``."""
        found = self.flat * _column(cosine, self.flat)
        found.addcmul_(self.orthogonal, _column(factor, self.flat), value=-1)
        return (found if found.dtype is like.dtype else found.to(like.dtype)).view_as(like)

    def _normalised(self, kept: Numbers, turned: Numbers, turned_by_q: Numbers, least: float) -> tuple[Any, Any]:
        if least < self.tiny:
            # Without damping and with p parallel to g there is nothing to divide by: g comes back.
            kept = kept + (self.q == 0) * 1.0
        hypotenuse = (torch if isinstance(kept, Tensor) else np).hypot(kept, turned)
        return kept / hypotenuse, (self.q > 0) * (self.length * turned_by_q / hypotenuse)


def _column(numbers: Numbers, like: Tensor) -> Tensor:
    if isinstance(numbers, Tensor):
        return numbers[:, None]
    return torch.from_numpy(numbers[:, None].astype(np.float32 if like.dtype is torch.float32 else np.float64))


def _working(g: Tensor) -> torch.dtype:
    return g.dtype if g.dtype in EPS else torch.float32


def _flat(x: Tensor) -> Tensor:
    if x.dtype not in EPS:
        x = x.float()
    return x.flatten(1) if x.ndim > 1 else x[:, None]

"""The Levenberg-Marquardt-Langevin correction of a solver's update, in a form free of cancellation.

With the low-rank damped Hessian ``lamb I + v v^T``, ``v = kappa p + (1 - kappa) g``, the correction replaces an update
g by ``(lamb I + v v^T)^{-1} g`` rescaled to the length of g (Wang et al. 2025, arXiv 2505.24222; Sherman-Morrison).
That is a rotation of g, in the plane of g and the previous update p, away from the part of p orthogonal to g.
"""

from dataclasses import dataclass

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
    return plane.rotated(*plane.damped(lamb, kappa)).to(g.dtype).view_as(g)


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
    return plane.rotated(*plane.scale_free(beta)).to(g.dtype).view_as(g)


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
        tangent = torch.full_like(noise.q, level)
    else:
        assert p is not None
        plane = _Plane.of(g, p)
        cosine, factor = plane.damped(lamb, kappa) if beta is None else plane.scale_free(beta)
        tangent = (factor * plane.q / (cosine * plane.length)).nan_to_num(0.0)
    cosine = (1 + tangent.square()).rsqrt()
    factor = torch.where(noise.q > 0, tangent * cosine * noise.length / noise.q, 0.0)
    return noise.rotated(torch.where(noise.q > 0, cosine, 1.0), factor).to(g.dtype).view_as(g)


def check_damping(lamb: float, kappa: float) -> None:
    """Raises ConfigError unless ``lamb >= 0`` and ``0 <= kappa < 1``."""
    if not 0.0 <= lamb < float("inf"):
        raise ConfigError("lamb", lamb, "a finite number >= 0")
    if not 0.0 <= kappa < 1.0:
        raise ConfigError("kappa", kappa, "a number in [0, 1)")


@dataclass(frozen=True)
class _Plane:
    """The plane of g and p: ``flat`` is g as (B, d), ``orthogonal`` the part of p orthogonal to it, (B, d).

    ``length``, ``along`` and ``q`` are (B,): ||g||, the component of p along g, and the length of ``orthogonal``. The
    subtraction is carried out before the norm is taken, since ``p.p - along^2`` would cancel. A q within rounding of a
    parallel p counts as zero.
    """

    flat: Tensor
    orthogonal: Tensor
    length: Tensor
    along: Tensor
    q: Tensor

    @classmethod
    def of(cls, g: Tensor, p: Tensor) -> "_Plane":
        flat, other = _flat(g), _flat(p)
        limits = torch.finfo(flat.dtype)
        length = torch.linalg.vector_norm(flat, dim=1)
        share = torch.linalg.vecdot(flat, other) / length.square().clamp_min(limits.tiny)
        orthogonal = torch.addcmul(other, flat, share[:, None], value=-1)
        along, q = share * length, torch.linalg.vector_norm(orthogonal, dim=1)
        return cls(flat, orthogonal, length, along, q * (q > along.abs() * (32 * limits.eps)))

    def damped(self, lamb: float, kappa: float) -> tuple[Tensor, Tensor]:
        a = torch.add(self.length * (1 - kappa), self.along, alpha=kappa)
        b = self.q * kappa
        return self._normalised(b * b + lamb, a * b, a * kappa, lamb)

    def scale_free(self, beta: float) -> tuple[Tensor, Tensor]:
        ratio = beta / self.length.clamp_min(torch.finfo(self.q.dtype).tiny)
        return self._normalised(torch.ones_like(self.q), ratio * self.q, ratio, 1.0)

    def rotated(self, cosine: Tensor, factor: Tensor) -> Tensor:
        return (self.flat * cosine[:, None]).addcmul_(self.orthogonal, factor[:, None], value=-1)

    def _normalised(self, kept: Tensor, turned: Tensor, turned_by_q: Tensor, least: float) -> tuple[Tensor, Tensor]:
        hypotenuse, plane = torch.hypot(kept, turned), self.q > 0
        cosine, factor = kept / hypotenuse, self.length * turned_by_q / hypotenuse
        if least < torch.finfo(kept.dtype).tiny:
            return torch.where(plane, cosine, 1.0), torch.where(plane, factor, 0.0)
        return cosine, factor * plane


def _working(g: Tensor) -> torch.dtype:
    return g.dtype if g.dtype in (torch.float32, torch.float64) else torch.float32


def _flat(x: Tensor) -> Tensor:
    return x.to(_working(x)).reshape(len(x), -1)

"""The Levenberg-Marquardt-Langevin correction of a solver's update, in a form free of cancellation.

With the low-rank damped Hessian ``lamb I + v v^T``, ``v = kappa p + (1 - kappa) g``, the correction replaces an update
g by ``(lamb I + v v^T)^{-1} g`` rescaled to the length of g (Wang et al. 2025, arXiv 2505.24222; Sherman-Morrison).
That is a rotation of g, in the plane of g and the previous update p, away from the part of p orthogonal to g.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from curvature.errors import ConfigError


def levenberg_marquardt_correction(g: Tensor, p: Tensor | None, lamb: float, kappa: float) -> Tensor:
    """``(lamb I + v v^T)^{-1} g`` with the length of g, where ``v = kappa p + (1 - kappa) g``.

    With G = ||g||, a = p.g / G, q the length of the part of p orthogonal to g, A = kappa a + (1 - kappa) G and
    B = kappa q, the angle between g and the result has the tangent A B / (lamb + B^2). Reductions run over all
    dimensions but the first. Half-precision inputs are computed in float32, with an error of about
    ``1e-7 (1 + ||p|| / q) sin(angle)``. One buffer of the size of g is allocated, which is what comes back.

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
    return _like(plane.rotated(*plane.damped(lamb, kappa)), g)


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
    return _like(plane.rotated(*plane.scale_free(beta)), g)


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
    noise = _Plane.of(g, (xi if g.dtype not in EPS else xi.to(g.dtype)) * g)
    if level is not None:
        tangent: Numbers = level + 0.0 * noise.slope
    else:
        assert p is not None
        plane = _Plane.of(g, p)
        cosine, factor = plane.damped(lamb, kappa) if beta is None else plane.scale_free(beta)
        tangent = factor * plane.slope / cosine
    there = noise.slope > 0
    cosine = (1 + tangent * tangent * there) ** -0.5
    factor = tangent * cosine * there / (noise.slope + ~there)
    return _like(noise.rotated(cosine, factor), g)


def check_damping(lamb: float, kappa: float) -> None:
    """Raises ConfigError unless ``lamb >= 0`` and ``0 <= kappa < 1``."""
    if not 0.0 <= lamb < float("inf"):
        raise ConfigError("lamb", lamb, "a finite number >= 0")
    if not 0.0 <= kappa < 1.0:
        raise ConfigError("kappa", kappa, "a number in [0, 1)")


EPS = {dtype: torch.finfo(dtype).eps for dtype in (torch.float32, torch.float64)}
FLOAT64_TINY = torch.finfo(torch.float64).tiny
BLOCK = 8192
"""Numbers in a block of a sum of squares: blocks are summed in float64, so that long float32 rows lose nothing."""

Numbers = Any
"""(B,) numbers: a tensor, or on the CPU a float64 array, for which short operations take a fraction of the time."""


class _Plane(NamedTuple):
    """The plane of g and p: ``flat`` is g as (B, d), ``orthogonal`` the part of p orthogonal to it, (B, d).

    The numbers are (B,): ``square`` is ||g||^2, ``share`` p.g / ||g||^2, ``rest`` the squared length of ``orthogonal``
    and ``slope`` its length over ||g||. The subtraction is carried out before the norm is taken, since
    ``p.p - (p.g)^2 / g.g`` would cancel. Where g is zero or p within rounding parallel to it, ``inside``, ``rest`` and
    ``slope`` are zero. On GPUs, and where gradients are needed, the numbers are tensors: nothing waits for the device.
    """

    flat: Tensor
    orthogonal: Tensor
    square: Numbers
    share: Numbers
    rest: Numbers
    slope: Numbers
    inside: Numbers
    library: Any

    @classmethod
    def of(cls, g: Tensor, p: Tensor) -> "_Plane":
        flat, other = _flat(g), _flat(p)
        on_host = flat.is_cpu and not (flat.requires_grad or other.requires_grad)
        products: Callable[[Tensor, Tensor], Numbers] = _host_products if on_host else torch.linalg.vecdot
        square, product = products(flat, flat), products(flat, other)
        divisor = square + (FLOAT64_TINY if on_host else torch.finfo(flat.dtype).tiny)
        share = product / divisor
        orthogonal = torch.addcmul(other, flat, _column(share, flat), value=-1)
        rest = products(orthogonal, orthogonal)
        inside = (rest > product * share * (32 * EPS[flat.dtype]) ** 2) & (square > 0)
        rest, library = rest * inside, np if on_host else torch
        return cls(flat, orthogonal, square, share, rest, library.sqrt(rest / divisor), inside, library)

    def damped(self, lamb: float, kappa: float) -> tuple[Numbers, Numbers]:
        kept = self.rest * kappa**2 + lamb
        if lamb < torch.finfo(torch.float32).tiny:
            # Without damping and with p parallel to g there is nothing to divide by: g comes back.
            kept = kept + ~self.inside
        return self._normalised(kept, (self.share * kappa**2 + kappa * (1 - kappa)) * self.square)

    def scale_free(self, beta: float) -> tuple[Numbers, Numbers]:
        return self._normalised(self.rest * 0.0 + 1.0, beta)

    def rotated(self, cosine: Numbers, factor: Numbers) -> Tensor:
        """(B, d): ``cosine flat - factor orthogonal``; without gradients it takes the place of ``orthogonal``."""
        along, across = _column(cosine, self.flat), _column(-factor, self.flat)
        if self.orthogonal.requires_grad:
            return torch.addcmul(self.orthogonal * across, self.flat, along)
        return self.orthogonal.mul_(across).addcmul_(self.flat, along)

    def _normalised(self, kept: Numbers, weight: Numbers) -> tuple[Numbers, Numbers]:
        """Cosine of the angle, and weight of ``orthogonal``, where the tangent is ``weight slope / kept``."""
        hypotenuse = self.library.hypot(kept, weight * self.slope)
        return kept / hypotenuse, weight / hypotenuse * self.inside


def _host_products(a: Tensor, b: Tensor) -> Numbers:
    left, right = a.numpy(), b.numpy()
    whole = left.shape[1] // BLOCK * BLOCK
    if not whole:
        return np.vecdot(left, right).astype(np.float64)
    shape = (len(left), -1, BLOCK)
    blocks = np.vecdot(left[:, :whole].reshape(shape), right[:, :whole].reshape(shape)).sum(1, dtype=np.float64)
    return blocks + np.vecdot(left[:, whole:], right[:, whole:])


def _column(numbers: Numbers, like: Tensor) -> Tensor:
    if isinstance(numbers, Tensor):
        return numbers[:, None]
    return torch.from_numpy(numbers.astype(np.float32 if like.dtype is torch.float32 else np.float64)[:, None])


def _like(found: Tensor, g: Tensor) -> Tensor:
    return (found if found.dtype is g.dtype else found.to(g.dtype)).view_as(g)


def _flat(x: Tensor) -> Tensor:
    if x.dtype not in EPS:
        x = x.float()
    return x.flatten(1) if x.ndim > 1 else x[:, None]

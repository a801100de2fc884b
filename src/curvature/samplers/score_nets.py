"""Score networks for variance-exploding diffusion, free or conservative, with the same parameters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from curvature.errors import ConfigError
from curvature.samplers.targets import GaussianMixture


class ScoreNet(nn.Module):
    """A model of grad log p_t for x_t = y + t z, preconditioned as a denoiser (Karras et al. 2022).

    With ``u = x / sqrt(t^2 + v)``, v the variance of the data, and ``c(t) = t sqrt(v / (t^2 + v))`` the score is
    ``(c(t) F(u, t) - x t^2 / (t^2 + v)) / t^2``. A free field has F = net(u, t), an MLP with SiLU; a conservative one
    the gradient ``F = grad_u <u, net(u, t)>``, which makes the score a gradient in x. The parameters are the same.

    Args:
        dim: d.
        variance: v, mean over the coordinates.
        conservative: whether the field is a gradient.
        widths: of the hidden layers.

    Raises:
        ConfigError: ``variance`` is not positive.
    """

    def __init__(
        self, dim: int, variance: float, conservative: bool = False, widths: Sequence[int] = (128, 128, 128)
    ) -> None:
        super().__init__()
        if not variance > 0:
            raise ConfigError("variance", variance, "a positive number")
        self.variance, self.conservative = variance, conservative
        layers: list[nn.Module] = []
        size = dim + 1
        for width in widths:
            layers += [nn.Linear(size, width), nn.SiLU()]
            size = width
        self.net = nn.Sequential(*layers, nn.Linear(size, dim))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(N, d) scores at x (N, d) and times t (N, 1); differentiable."""
        total = t.square() + self.variance
        return (self.scale(t) * self.shape(x / total.sqrt(), t) - t.square() / total * x) / t.square()

    def shape(self, u: Tensor, t: Tensor) -> Tensor:
        """(N, d): F(u, t)."""
        time = t.log() / 4
        if not self.conservative:
            found: Tensor = self.net(torch.cat((u, time), 1))
            return found
        with torch.enable_grad():
            u = u if u.requires_grad else u.detach().requires_grad_()
            potential = (u * self.net(torch.cat((u, time), 1))).sum()
            return torch.autograd.grad(potential, u, create_graph=True)[0]

    def scale(self, t: Tensor) -> Tensor:
        """c(t), of the shape of ``t``."""
        return t * (self.variance / (t.square() + self.variance)).sqrt()


@dataclass(frozen=True)
class LearnedScore:
    """A network as a field of :func:`curvature.samplers.gauge.reverse_flow`; evaluated in float64."""

    target: GaussianMixture
    net: ScoreNet

    def field_and_jacobian(self, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Field (N, d) and its Jacobian (N, d, d) at x (N, d), one reverse pass a coordinate."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = self.net(x, torch.full((len(x), 1), t, dtype=x.dtype))
            rows = [torch.autograd.grad(part.sum(), x, retain_graph=True)[0] for part in value.unbind(1)]
        return value.detach(), torch.stack(rows, 1)


def fit_score(
    target: GaussianMixture,
    conservative: bool,
    seed: int,
    start: float,
    end: float,
    steps: int = 3000,
    batch: int = 256,
    lr: float = 3e-3,
) -> LearnedScore:
    """Train a network by denoising score matching, weighted so that F has targets of unit variance.

    Args:
        target: the law of y; data are drawn from it without end.
        conservative: see :class:`ScoreNet`.
        seed: of weights, data, times and noise, which are the same for both kinds of field.
        start, end: times are log-uniform between them.
        steps: of Adam, with a cosine schedule from ``lr``.
        batch: samples a step.
        lr: first step size.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ScoreNet(target.dim, float(target.covariance.trace()) / target.dim, conservative)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    low, high = math.log(end), math.log(start)
    for _ in range(steps):
        clean = target.sample(batch, generator).float()
        t = (low + (high - low) * torch.rand(batch, 1, generator=generator)).exp()
        x = clean + t * torch.randn(clean.shape, generator=generator)
        total = t.square() + net.variance
        goal = (clean - net.variance / total * x) / net.scale(t)
        loss = nn.functional.mse_loss(net.shape(x / total.sqrt(), t), goal)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return LearnedScore(target, net.double().requires_grad_(False))

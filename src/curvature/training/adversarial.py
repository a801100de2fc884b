"""Adversarial examples in the maximum norm."""

import torch
from torch import Tensor, nn

from curvature.errors import ConfigError


class ProjectedGradient:
    """Projected gradient ascent on the loss from a random start (Madry et al. 2018).

    One step of 1.25 eps is the random-start fast gradient sign method (Wong, Rice and Kolter 2020). The model is
    attacked in evaluation mode and gets no gradients.

    Args:
        eps: radius of the ball in the maximum norm, in the units of the images, >= 0.
        steps: gradient evaluations, >= 1.
        step_size: length of a step in each pixel; by default 2.5 eps / steps.
        low, high: range of a pixel.

    Raises:
        ConfigError: an argument outside its range.
    """

    def __init__(
        self, eps: float, steps: int = 10, step_size: float | None = None, low: float = -1.0, high: float = 1.0
    ) -> None:
        if not eps >= 0.0:
            raise ConfigError("adversary.eps", eps, "a number >= 0")
        if steps < 1:
            raise ConfigError("adversary.steps", steps, "an integer >= 1")
        if not low < high:
            raise ConfigError("adversary.low", low, f"less than high, {high}")
        self.eps, self.steps, self.low, self.high = eps, steps, low, high
        self.step_size = 2.5 * eps / steps if step_size is None else step_size

    def __call__(self, model: nn.Module, criterion: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Images (B, ...) within ``eps`` of ``images`` and within the range of pixels, of higher loss.

        The start is drawn from torch's generator.
        """
        training = {module: module.training for module in model.modules()}
        model.eval()
        attacked = images + torch.empty_like(images).uniform_(-self.eps, self.eps)
        attacked.clamp_(self.low, self.high)
        try:
            for _ in range(self.steps):
                attacked.requires_grad_()
                with torch.enable_grad():
                    (gradient,) = torch.autograd.grad(criterion(model(attacked), labels), attacked)
                with torch.no_grad():
                    moved = attacked + self.step_size * gradient.sign()
                    moved = torch.maximum(torch.minimum(moved, images + self.eps), images - self.eps)
                    attacked = moved.clamp_(self.low, self.high)
        finally:
            for module, mode in training.items():
                module.training = mode
        return attacked

"""Surrogate gap guided sharpness-aware minimisation."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from curvature.optim.ascent import stack_scalars
from curvature.optim.averaging import world_size
from curvature.optim.sam import SAM, check_number


class GSAM(SAM):
    """GSAM (Zhuang et al. 2022, algorithm 1): also shrink the gap between the loss at w + e and the loss at w.

    With g the gradient at w, g_p the one at w + e and g_perp the part of g orthogonal to g_p, the base optimiser gets

        g_p - alpha g_perp,    rho_t = rho_min + (rho_max - rho_min) (lr_t - lr_min) / (lr_max - lr_min),

    where lr_t is the present learning rate of the first group. rho_t does not go below rho_min, as it would in a
    warm-up that starts below lr_min; with lr_max = lr_min it is rho_max. In DDP each process (and each chunk) splits
    its own gradients; the results are averaged by the optimiser, so both evaluations are ``local``. Beyond the memory
    of :class:`SAM`, one copy of the gradients is kept between the evaluations unless alpha is 0.

    Args:
        params: parameters, groups, or named parameters.
        base_optimizer: factory that takes ``params``.
        rho_max: radius at lr_max, >= rho_min.
        rho_min: radius at lr_min, >= 0.
        alpha: weight of the gap, >= 0; 0 is SAM.
        lr_max: peak learning rate; None is that of the first group at construction.
        lr_min: learning rate at the end of the schedule.
        max_grad_norm: clip the global norm of the direction; None does not clip.
        eps: smallest norm to divide by.
        synchronize: average both gradients over processes before the split.
        process_group: with ``synchronize``, average the gradient at w over this group only.
        replay_rng: evaluate at w + e from the same state of torch's generators as at w.

    Raises:
        ConfigError: an argument outside its range.
    """

    def __init__(
        self,
        params: Any,
        base_optimizer: Callable[..., Optimizer],
        rho_max: float = 0.6,
        rho_min: float = 0.1,
        alpha: float = 0.6,
        lr_max: float | None = None,
        lr_min: float = 0.0,
        max_grad_norm: float | None = None,
        eps: float = 1e-12,
        synchronize: bool = False,
        process_group: dist.ProcessGroup | None = None,
        replay_rng: bool = True,
    ) -> None:
        check_number("rho_min", rho_min, least=0.0)
        check_number("rho_max", rho_max, least=rho_min)
        check_number("alpha", alpha, least=0.0)
        super().__init__(
            params,
            base_optimizer,
            rho=rho_max,
            max_grad_norm=max_grad_norm,
            eps=eps,
            synchronize=synchronize,
            process_group=process_group,
            replay_rng=replay_rng,
        )
        self.rho_min = rho_min
        self.alpha = alpha
        self.lr_max = float(self.param_groups[0]["lr"]) if lr_max is None else lr_max
        self.lr_min = lr_min
        check_number("lr_min", lr_min, least=0.0)
        check_number("lr_max", self.lr_max, least=lr_min)

    def radius(self) -> float | Tensor:
        """rho_t at the present learning rate."""
        if self.lr_max == self.lr_min:
            return self.rho
        lr: float | Tensor = self.param_groups[0]["lr"]
        rho = self.rho_min + (self.rho - self.rho_min) * (lr - self.lr_min) / (self.lr_max - self.lr_min)
        return rho.clamp(min=self.rho_min) if isinstance(rho, Tensor) else max(rho, self.rho_min)

    def _combines_itself(self, chunks: int) -> bool:
        return world_size() > 1 and not (self.synchronize and self.process_group is None)

    def _keep(self, grads: list[Tensor]) -> list[Tensor]:
        return [grad.clone() for grad in grads] if self.alpha else []

    def _redirect(self, params: list[Tensor], kept: list[Tensor]) -> None:
        pairs = [(param.grad, clean) for param, clean in zip(params, kept) if param.grad is not None]
        if not pairs:
            return
        perturbed, clean = [p for p, _ in pairs], [g for _, g in pairs]
        overlap = _inner(clean, perturbed) / _inner(perturbed, perturbed).clamp(min=torch.finfo(torch.float32).tiny)
        factor = 1.0 + self.alpha * overlap
        for p, g in pairs:
            p.mul_(factor.to(p.device, p.dtype)).sub_(g, alpha=self.alpha)


def _inner(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """Inner product over all tensors, in float32 or better."""
    return stack_scalars(
        [torch.sum(a * b, dtype=torch.promote_types(a.dtype, torch.float32)) for a, b in zip(left, right)]
    ).sum()

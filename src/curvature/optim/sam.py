"""Sharpness-aware minimisation around any torch optimiser."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from curvature.errors import ConfigError
from curvature.optim.ascent import ascend
from curvature.optim.averaging import average, world_size
from curvature.optim.batch_norm import frozen_batch_norm
from curvature.optim.passes import Closure, Pass, chunks_of, mean_loss
from curvature.optim.randomness import GeneratorStates

SCOPES = ("weight", "all")
LARGEST = torch.finfo(torch.float32).max


class SAM(Optimizer):
    """Sharpness-aware minimisation (Foret et al. 2021, algorithm 1), and its adaptive form ASAM (Kwon et al. 2021).

    With g the gradient of the mean loss of a batch at w, the base optimiser takes its step at w with the gradient
    found at w + e,

        e = rho T_w^2 g / ||T_w g||_2,    T_w = 1 (SAM)  or  |w| + eta (ASAM),

    one norm over all parameters jointly. e counts as a constant; weight decay belongs to the base optimiser and does
    not tilt it.

    **Closures.** ``step(closure)`` evaluates ``closure`` at w and again at w + e. A closure computes the mean loss,
    calls ``backward`` and returns the loss; ``step`` clears the gradients before each call (a closure that clears
    them too does no harm). Inside, ``optimizer.current_pass`` says which evaluation it is, and ``with
    optimizer.scope(model):`` does what follows from it: batch-norm statistics are recorded at w only, and in DDP the
    gradient at w stays on its process. The forward must lie inside, not the backward alone.

    **m-sharpness.** ``step([closure_0, closure_1, ...])``, one per chunk of the batch, perturbs each chunk by its own
    gradient and averages what is found (with ``weights`` in proportion to unequal chunks). ``step(closure,
    weights=[...])`` calls one closure for every chunk; it reads ``current_pass.chunk``. In DDP, m is the chunk of one
    process unless ``synchronize``.

    ``param_groups``, ``defaults`` and ``state`` are the base optimiser's own objects, so schedules and checkpoints act
    on both; rho is the attribute ``rho``. ``state_dict`` is that of the base optimiser. Memory beyond the base
    optimiser's is one copy of the parameters that have gradients, made at the first step (with more than one chunk,
    also one of the gradients during the step). Weights in bfloat16 or float16 are perturbed by an e formed in float32,
    but rounding the sum loses what is below their spacing: keep float32 weights and use autocast. Loss scaling for
    float16 is not supported, nor are sharded parameters.

    Args:
        params: parameters, groups, or named parameters, as for any torch optimiser.
        base_optimizer: factory that takes ``params``, e.g. ``functools.partial(torch.optim.SGD, lr=0.1)``.
        rho: radius of the perturbation, in units of the weights, >= 0. At 0 a step is exactly one of the base
            optimiser, with one evaluation of the closure.
        adaptive: ASAM.
        eta: offset of T_w, >= 0; used if ``adaptive``.
        adaptive_scope: where T_w applies if ``adaptive``: ``"weight"``, parameters whose name contains "weight" (the
            authors' rule; it needs named parameters), or ``"all"``.
        max_grad_norm: clip the global norm of the direction handed to the base optimiser, after averaging over
            processes; None does not clip. The gradient at w is never clipped: only its direction matters.
        eps: smallest norm to divide by.
        synchronize: average the gradient at w over processes too, so that m is the global batch (chunk).
        process_group: with ``synchronize``, average it over this group only (see
            :func:`curvature.optim.consecutive_ranks`).
        replay_rng: evaluate at w + e from the same state of torch's generators as at w (same dropout masks), and leave
            them as after one evaluation.

    Attributes:
        last_grad_norm: ||T_w g|| of the last chunk, a tensor; None before the first perturbed step.
        last_perturbed_loss: mean loss at w + e of the last step; None if it was not perturbed, and before the first.

    Raises:
        ConfigError: an argument outside its range, or ``adaptive_scope="weight"`` without names.

    Example:
        One step on L(w) = (w_1^2 + 10 w_2^2) / 2 from (1, 1):

        >>> from functools import partial
        >>> w = nn.Parameter(torch.ones(2, dtype=torch.float64))
        >>> optimizer = SAM([w], partial(torch.optim.SGD, lr=0.01), rho=0.1)
        >>> def closure():
        ...     loss = 0.5 * (w[0] ** 2 + 10 * w[1] ** 2)
        ...     loss.backward()
        ...     return loss
        >>> round(optimizer.step(closure).item(), 6), [round(x, 6) for x in w.tolist()]
        (5.5, [0.9899, 0.89005])
    """

    def __init__(
        self,
        params: Any,
        base_optimizer: Callable[..., Optimizer],
        rho: float = 0.05,
        adaptive: bool = False,
        eta: float = 0.01,
        adaptive_scope: str = "weight",
        max_grad_norm: float | None = None,
        eps: float = 1e-12,
        synchronize: bool = False,
        process_group: dist.ProcessGroup | None = None,
        replay_rng: bool = True,
    ) -> None:
        check_number("rho", rho, least=0.0)
        check_number("eta", eta, least=0.0)
        check_number("eps", eps, above=0.0)
        if max_grad_norm is not None:
            check_number("max_grad_norm", max_grad_norm, above=0.0)
        if adaptive_scope not in SCOPES:
            raise ConfigError("optimizer.adaptive_scope", adaptive_scope, f"one of {', '.join(SCOPES)}")
        if not callable(base_optimizer):
            raise ConfigError("optimizer.base_optimizer", base_optimizer, "a factory; its config needs _partial_: true")
        base = base_optimizer(params)
        super().__init__(base.param_groups, base.defaults)
        self.base_optimizer = base
        self._share()
        self.rho = rho
        self.adaptive = adaptive
        self.eta = eta
        self.adaptive_scope = adaptive_scope
        self.max_grad_norm = max_grad_norm
        self.eps = eps
        self.synchronize = synchronize
        self.process_group = process_group
        self.replay_rng = replay_rng
        self.current_pass = Pass()
        self.last_grad_norm: Tensor | None = None
        self.last_perturbed_loss: Any = None
        self._saved: dict[Tensor, Tensor] = {}
        self._check_names()

    def radius(self) -> float | Tensor:
        """rho of the next step."""
        return self.rho

    @contextmanager
    def scope(self, *modules: nn.Module) -> Iterator[None]:
        """For use in closures: treat ``modules`` as :attr:`current_pass` demands; outside a step, do nothing.

        Args:
            modules: what the closure calls: the model, or the DDP wrapper around it.
        """
        with ExitStack() as stack:
            for module in modules:
                if self.current_pass.perturbed:
                    stack.enter_context(frozen_batch_norm(module))
                if self.current_pass.local and hasattr(module, "no_sync"):
                    stack.enter_context(module.no_sync())  # type: ignore[operator]
            yield

    @torch.no_grad()
    def step(self, closure: Closure | Sequence[Closure] | None = None, weights: Sequence[float] | None = None) -> Any:
        """One update of the weights.

        Args:
            closure: evaluates loss and gradients of the batch; or one such callable for each chunk of it.
            weights: shares of the chunks in the batch, in any unit, e.g. their sizes; equal by default.

        Returns:
            The loss at w: what the closure returned, averaged over chunks if there are several.

        Raises:
            TypeError: there is no closure.
            ValueError: ``weights`` do not fit the closures or are not positive.

        If a closure raises, the weights are as before the step.
        """
        closures, shares = chunks_of(closure, weights)
        radius = self.radius()
        losses, perturbed_losses, totals = [], [], dict[Tensor, Tensor]()
        for chunk, (evaluate, share) in enumerate(zip(closures, shares)):
            if not isinstance(radius, Tensor) and radius == 0.0:
                losses.append(self._evaluate(evaluate, Pass(chunk, local=self._combines_itself(len(closures)))))
            else:
                loss, perturbed_loss = self._sharpness_aware(evaluate, chunk, radius, len(closures))
                losses.append(loss)
                perturbed_losses.append(perturbed_loss)
            if len(closures) > 1:
                self._accumulate(totals, share)
        for param, total in totals.items():
            param.grad = total
        params = self._active()
        if params and self._combines_itself(len(closures)):
            average([param.grad for param in params if param.grad is not None])
        self.last_perturbed_loss = mean_loss(perturbed_losses, shares) if perturbed_losses else None
        if self.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(params, self.max_grad_norm, foreach=True)
        self.base_optimizer.step()
        return losses[0] if len(losses) == 1 else mean_loss(losses, shares)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As for any torch optimiser; the base optimiser gets the group too."""
        if "base_optimizer" not in self.__dict__:
            super().add_param_group(param_group)
            return
        self.base_optimizer.add_param_group(param_group)
        self._check_names()

    def state_dict(self) -> dict[str, Any]:
        """State of the base optimiser."""
        return self.base_optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`; takes a state dict of the bare base optimiser as well."""
        self.base_optimizer.load_state_dict(state_dict)
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "step"} | {"_saved": {}}

    def _share(self) -> None:
        self.defaults = self.base_optimizer.defaults
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state

    def _check_names(self) -> None:
        named = all("param_names" in group for group in self.param_groups)
        if self.adaptive and self.adaptive_scope == "weight" and not named:
            raise ConfigError("optimizer.adaptive_scope", "weight", "'all', or SAM(model.named_parameters(), ...)")

    def _active(self) -> list[Tensor]:
        return [param for group in self.param_groups for param in group["params"] if param.grad is not None]

    def _combines_itself(self, chunks: int) -> bool:
        """Whether gradients stay local even at the end and the optimiser averages the directions over processes."""
        return chunks > 1 and not self.synchronize and world_size() > 1

    def _evaluate(self, closure: Closure, current: Pass) -> Any:
        for group in self.param_groups:
            for param in group["params"]:
                param.grad = None
        self.current_pass = current
        try:
            with torch.enable_grad():
                return closure()
        finally:
            self.current_pass = Pass()

    def _sharpness_aware(self, closure: Closure, chunk: int, radius: float | Tensor, chunks: int) -> tuple[Any, Any]:
        """Leave the direction of one chunk in the gradients; the losses at w and at w + e."""
        generators = self._generators()
        local = world_size() > 1 and not (self.synchronize and self.process_group is None)
        loss = self._evaluate(closure, Pass(chunk, local=local))
        params = self._active()
        if not params:
            return loss, loss
        grads = [param.grad for param in params if param.grad is not None]
        if self.synchronize and self.process_group is not None:
            average(grads, self.process_group)
        kept = self._keep(grads)
        saved = self._save(params)
        after = self._generators()
        try:
            self.last_grad_norm = ascend(params, grads, saved, self._etas(params), radius, self.eps)
            torch.clear_autocast_cache()
            del grads
            if generators is not None:
                generators.restore()
            perturbed_loss = self._evaluate(closure, Pass(chunk, perturbed=True, local=self._combines_itself(chunks)))
        finally:
            torch._foreach_copy_(params, saved)
            torch.clear_autocast_cache()
            if after is not None:
                after.restore()
        self._redirect(params, kept)
        return loss, perturbed_loss

    def _keep(self, grads: list[Tensor]) -> list[Tensor]:
        """What :meth:`_redirect` needs of the gradient at w."""
        return []

    def _redirect(self, params: list[Tensor], kept: list[Tensor]) -> None:
        """Turn the gradient at w + e into the direction of descent, in place."""

    def _save(self, params: list[Tensor]) -> list[Tensor]:
        copies = []
        for param in params:
            copy = self._saved.get(param)
            if copy is None or copy.dtype != param.dtype or copy.device != param.device or copy.shape != param.shape:
                copy = self._saved[param] = torch.empty_like(param, requires_grad=False)
            copies.append(copy)
        torch._foreach_copy_(copies, params)
        return copies

    def _etas(self, params: list[Tensor]) -> list[float | None]:
        if not self.adaptive:
            return [None] * len(params)
        if self.adaptive_scope == "all":
            return [self.eta] * len(params)
        named = {
            param
            for group in self.param_groups
            for name, param in zip(group["param_names"], group["params"])
            if "weight" in name
        }
        return [self.eta if param in named else None for param in params]

    def _generators(self) -> GeneratorStates | None:
        if not self.replay_rng:
            return None
        return GeneratorStates({param.device for group in self.param_groups for param in group["params"]})

    def _accumulate(self, totals: dict[Tensor, Tensor], share: float) -> None:
        params = self._active()
        for param in params:
            grad = param.grad
            assert grad is not None
            # A synchronised gradient may be a view of DDP's bucket, which the next chunk overwrites.
            part = grad.mul(share) if self.synchronize else grad.mul_(share)
            totals[param] = totals[param].add_(part) if param in totals else part
            param.grad = None


def check_number(name: str, value: Any, least: float | None = None, above: float | None = None) -> None:
    """Raise ConfigError for ``optimizer.<name>`` unless ``value`` is finite, >= ``least`` and > ``above``."""
    finite = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
    if not finite or (least is not None and value < least) or (above is not None and value <= above):
        bound = f">= {least}" if least is not None else f"> {above}"
        raise ConfigError(f"optimizer.{name}", value, f"a finite number {bound}")

"""diffusers schedulers with the Levenberg-Marquardt-Langevin correction (Wang et al. 2025) or one of its controls.

Each class takes the arguments of the scheduler it derives from, and further ones that are config entries like all
others (they survive ``save_pretrained`` and ``from_config``):

* ``correction``: ``lml`` (exact form), ``none`` (the base scheduler), ``lml_released`` and ``lml_released_fp32`` (the
  authors' order of operations, in the precision of the samples or in float32), ``noise_control`` (the same angle in a
  random direction) or ``rescale_control`` (update times ``1 - shrink``). Default ``lml``.
* ``lamb`` (1.0), ``kappa`` (0.0): see :func:`curvature.samplers.correction.levenberg_marquardt_correction`.
* ``beta`` (None): if set, the scale-free form of ``lml`` and ``noise_control``; ``lamb`` and ``kappa`` are not used.
* ``freeze`` (0.0): the correction acts at timesteps below ``num_train_timesteps (1 - freeze)``.
* ``noise_level`` (None): fixed tangent of the angle of ``noise_control``. ``noise_seed`` (0) seeds its directions.
* ``shrink`` (0.0): of ``rescale_control``.

What is corrected is the whole increment g of a step ``x' = r x + g``. ``set_timesteps`` forgets the previous increment.
A pipeline that was saved with one of these schedulers can be loaded once this module has been imported.
"""

# mypy: disable-error-code="misc,override"
# diffusers' two mixins disagree on a class attribute, and its update methods take deprecated positional arguments.

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_deis_multistep import DEISMultistepScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

# Pipelines that were saved with one of these classes look for the mixin here when they are loaded.
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401
from torch import Tensor

from curvature.errors import ConfigError
from curvature.samplers.correction import (
    check_damping,
    levenberg_marquardt_correction,
    matched_noise,
    released_correction,
    scale_free_correction,
)

CORRECTIONS = ("none", "lml", "lml_released", "lml_released_fp32", "noise_control", "rescale_control")
OPTIONS: dict[str, Any] = {
    "correction": "lml",
    "lamb": 1.0,
    "kappa": 0.0,
    "beta": None,
    "freeze": 0.0,
    "noise_level": None,
    "noise_seed": 0,
    "shrink": 0.0,
}


class Corrected:
    """What the schedulers of this module share: options, memory of one increment, and the correction itself."""

    config: Any

    def reset_memory(self) -> None:
        """Forget the previous increment and start the control's noise anew."""
        self._previous: Tensor | None = None
        self._timestep: Any = None
        self._generator = torch.Generator().manual_seed(self.config.noise_seed)

    @property
    def is_identity(self) -> bool:
        """Whether the correction gives every increment back, in exact arithmetic and in this implementation."""
        kind, config = self.config.correction, self.config
        return (
            kind == "none"
            or (kind == "lml" and not (config.kappa if config.beta is None else config.beta))
            or (kind == "rescale_control" and config.shrink == 0.0)
        )

    @property
    def previous_increment(self) -> Tensor | None:
        """The uncorrected increment of the last corrected step, (B, ...)."""
        return self._previous

    def corrected(self, g: Tensor) -> Tensor:
        """The increment ``g`` (B, ...) of the current step, corrected; remembers it for the next step."""
        config = self.config
        previous, self._previous = self._previous, g
        if self._timestep is not None and config.freeze > 0.0:
            train_steps = config.num_train_timesteps
            if float(torch.as_tensor(self._timestep).flatten()[0]) >= train_steps * (1 - config.freeze):
                return g
        match config.correction:
            case "lml" if config.beta is None:
                return levenberg_marquardt_correction(g, previous, config.lamb, config.kappa)
            case "lml":
                return scale_free_correction(g, previous, config.beta)
            case "lml_released":
                return released_correction(g, previous, config.lamb, config.kappa)
            case "lml_released_fp32":
                previous = None if previous is None else previous.float()
                return released_correction(g.float(), previous, config.lamb, config.kappa).to(g.dtype)
            case "noise_control":
                angle = {"lamb": config.lamb, "kappa": config.kappa, "beta": config.beta}
                return matched_noise(g, previous, self._generator, level=config.noise_level, **angle)
            case "rescale_control":
                return g * (1.0 - config.shrink)
        return g


def _check(options: dict[str, Any]) -> None:
    if options["correction"] not in CORRECTIONS:
        raise ConfigError("correction", options["correction"], f"one of {', '.join(CORRECTIONS)}")
    check_damping(options["lamb"], options["kappa"])
    for name in ("beta", "noise_level"):
        if options[name] is not None and not math.isfinite(options[name]):
            raise ConfigError(name, options[name], "a finite number or None")
    if not 0.0 <= options["freeze"] <= 1.0:
        raise ConfigError("freeze", options["freeze"], "a share between 0 and 1")
    if not math.isfinite(options["shrink"]):
        raise ConfigError("shrink", options["shrink"], "a finite number")
    if options.get("d2_factor", 1) not in (1, 2):
        raise ConfigError("d2_factor", options["d2_factor"], "1 (as shipped) or 2 (third order)")


def _corrects(base: type, **extra: Any) -> Callable[[type], type]:
    """Class decorator: constructor, ``set_timesteps`` and ``step`` with the signatures of ``base``, options added.

    Pipelines and ``from_config`` look at these signatures to decide what to pass.
    """
    options = OPTIONS | extra

    def decorate(cls: type) -> type:
        signature = inspect.signature(base.__init__)
        added = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=v) for name, v in options.items()]

        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            own = {name: kwargs.pop(name, default) for name, default in options.items()}
            _check(own)
            base.__init__(self, *args, **kwargs)
            self.reset_memory()

        parameters = [*signature.parameters.values(), *added]
        __init__.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        cls.__init__ = register_to_config(__init__)

        @functools.wraps(base.set_timesteps)  # type: ignore[attr-defined]
        def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> None:
            base.set_timesteps(self, *args, **kwargs)  # type: ignore[attr-defined]
            self.reset_memory()

        inner = cls.step  # type: ignore[attr-defined]

        @functools.wraps(base.step)  # type: ignore[attr-defined]
        def step(self: Any, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
            self._timestep = timestep
            return inner(self, model_output, timestep, sample, *args, **kwargs)

        cls.set_timesteps, cls.step = set_timesteps, step  # type: ignore[attr-defined]
        return cls

    return decorate


@_corrects(DPMSolverMultistepScheduler, d2_factor=1)
class LMLDPMSolverScheduler(Corrected, DPMSolverMultistepScheduler):
    """DPM-Solver and DPM-Solver++ (multistep, orders 1 to 3); their stochastic variants are left uncorrected.

    Samples in double precision stay so. ``d2_factor=2`` doubles the second difference of the third-order update: that
    difference estimates ``h^2 m'' / 2`` where its coefficient expects ``h^2 m''``, so that the update as shipped
    (``d2_factor=1``, the default) converges with order 2.
    """

    _sample: Tensor | None = None
    _ratios_of: tuple[Tensor | None, list[float]] = (None, [])

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        self._sample = sample if sample.dtype == torch.float64 else None
        return super().step(model_output, timestep, sample, *args, **kwargs)

    def dpm_solver_first_order_update(self, model_output: Tensor, *, sample: Tensor, noise: Any = None) -> Tensor:
        return self._update(super().dpm_solver_first_order_update, model_output, sample, noise)

    def multistep_dpm_solver_second_order_update(
        self, model_output_list: list[Tensor], *, sample: Tensor, noise: Any = None
    ) -> Tensor:
        return self._update(super().multistep_dpm_solver_second_order_update, model_output_list, sample, noise)

    def multistep_dpm_solver_third_order_update(
        self, model_output_list: list[Tensor], *, sample: Tensor, noise: Any = None
    ) -> Tensor:
        update = super().multistep_dpm_solver_third_order_update

        def complete(outputs: list[Tensor], sample: Tensor, noise: Any) -> Tensor:
            found: Tensor = update(outputs, sample=sample, noise=noise)
            return found if self.config.d2_factor == 1 else found + self._second_difference(outputs)

        return self._update(complete, model_output_list, sample, noise)

    def _update(self, update: Callable[..., Tensor], outputs: Any, sample: Tensor, noise: Any) -> Tensor:
        sample = sample if self._sample is None else self._sample
        if self.is_identity or self.config.algorithm_type.startswith("sde"):
            return update(outputs, sample=sample, noise=noise)
        increment = update(outputs, sample=torch.zeros((), dtype=sample.dtype), noise=noise)
        return torch.add(self.corrected(increment), sample, alpha=self._ratio())

    def _ratio(self) -> float:
        """r of ``x' = r x + g`` at the current step; computed once for a grid of noise levels."""
        if self._ratios_of[0] is not self.sigmas:
            levels = self._sigma_to_alpha_sigma_t(self.sigmas)[self.config.algorithm_type != "dpmsolver"]
            self._ratios_of = self.sigmas, (levels[1:] / levels[:-1]).tolist()
        return self._ratios_of[1][self.step_index]

    def _levels(self, offset: int) -> tuple[Tensor, Tensor]:
        levels: tuple[Tensor, Tensor] = self._sigma_to_alpha_sigma_t(self.sigmas[self.step_index + offset])
        return levels

    def _second_difference(self, outputs: list[Tensor]) -> Tensor:
        levels = [self._levels(offset) for offset in (1, 0, -1, -2)]
        (alpha, sigma), logs = levels[0], [torch.log(a) - torch.log(s) for a, s in levels]
        h, r0, r1 = logs[0] - logs[1], logs[1] - logs[2], logs[2] - logs[3]
        r0, r1 = r0 / h, r1 / h
        m0, m1, m2 = outputs[-1], outputs[-2], outputs[-3]
        difference = ((m0 - m1) / r0 - (m1 - m2) / r1) / (r0 + r1)
        if self.config.algorithm_type == "dpmsolver":
            return -sigma * ((torch.expm1(h) - h) / h**2 - 0.5) * difference
        return -alpha * ((torch.expm1(-h) + h) / h**2 - 0.5) * difference


@_corrects(DDIMScheduler)
class LMLDDIMScheduler(Corrected, DDIMScheduler):
    """DDIM whose re-noising term alone is corrected: ``x' = alpha' x0(eps) + sqrt(1 - abar' - std^2) LM(eps)``."""

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, eta: float = 0.0,
        use_clipped_model_output: bool = False, *args: Any, return_dict: bool = True, **kwargs: Any,
    ) -> Any:  # fmt: skip
        found: Any = super().step(model_output, timestep, sample, eta, use_clipped_model_output, *args, **kwargs)
        if not self.is_identity:
            abar = self.alphas_cumprod[timestep]
            before = timestep - self.config.num_train_timesteps // self.num_inference_steps
            abar_before = self.alphas_cumprod[before] if before >= 0 else self.final_alpha_cumprod
            deviation = eta * self._get_variance(timestep, before) ** 0.5
            noise = self._noise(model_output, sample, found.pred_original_sample, abar, use_clipped_model_output)
            change = self.corrected(noise) - noise
            found.prev_sample = found.prev_sample + (1 - abar_before - deviation**2) ** 0.5 * change
        return found if return_dict else (found.prev_sample, found.pred_original_sample)

    def _noise(self, output: Tensor, sample: Tensor, clean: Tensor, abar: Tensor, clipped: bool) -> Tensor:
        if clipped or self.config.prediction_type == "sample":
            clean = clean if clipped else output
            return (sample - abar**0.5 * clean) / (1 - abar) ** 0.5
        if self.config.prediction_type == "epsilon":
            return output
        return abar**0.5 * output + (1 - abar) ** 0.5 * sample


@_corrects(FlowMatchEulerDiscreteScheduler)
class LMLFlowMatchEulerScheduler(Corrected, FlowMatchEulerDiscreteScheduler):
    """Flow-matching Euler steps along the corrected velocity, computed in float32 at least."""

    def step(self, model_output: Tensor, timestep: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        velocity: Any = model_output if self.is_identity else self.corrected(model_output)
        return super().step(velocity, timestep, sample, *args, **kwargs)


def _ratio_of_levels(scheduler: Any) -> Tensor:
    alpha_t, sigma_t = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[scheduler.step_index + 1])
    alpha_s, sigma_s = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[scheduler.step_index])
    ratio: Tensor = sigma_t / sigma_s if getattr(scheduler, "predict_x0", False) else alpha_t / alpha_s
    return ratio


@_corrects(UniPCMultistepScheduler)
class LMLUniPCMultistepScheduler(Corrected, UniPCMultistepScheduler):
    """UniPC whose predictor is corrected; its corrector step is not."""

    def multistep_uni_p_bh_update(self, model_output: Tensor, *, sample: Tensor, order: int) -> Tensor:
        found: Tensor = super().multistep_uni_p_bh_update(model_output, sample=sample, order=order)
        return _turn(self, found, _ratio_of_levels(self), sample)


@_corrects(DEISMultistepScheduler)
class LMLDEISMultistepScheduler(Corrected, DEISMultistepScheduler):
    """DEIS (multistep)."""

    def deis_first_order_update(self, model_output: Tensor, *, sample: Tensor) -> Tensor:
        found: Tensor = super().deis_first_order_update(model_output, sample=sample)
        return _turn(self, found, _ratio_of_levels(self), sample)

    def multistep_deis_second_order_update(self, outputs: list[Tensor], *, sample: Tensor) -> Tensor:
        found: Tensor = super().multistep_deis_second_order_update(outputs, sample=sample)
        return _turn(self, found, _ratio_of_levels(self), sample)

    def multistep_deis_third_order_update(self, outputs: list[Tensor], *, sample: Tensor) -> Tensor:
        found: Tensor = super().multistep_deis_third_order_update(outputs, sample=sample)
        return _turn(self, found, _ratio_of_levels(self), sample)


@_corrects(PNDMScheduler)
class LMLPNDMScheduler(Corrected, PNDMScheduler):
    """PNDM, every transfer step of both of its phases."""

    def _get_prev_sample(self, sample: Tensor, timestep: Any, prev_timestep: Any, model_output: Tensor) -> Tensor:
        found: Tensor = super()._get_prev_sample(sample, timestep, prev_timestep, model_output)
        after = self.alphas_cumprod[prev_timestep] if prev_timestep >= 0 else self.final_alpha_cumprod
        return _turn(self, found, (after / self.alphas_cumprod[timestep]) ** 0.5, sample)


def _turn(scheduler: Any, found: Tensor, ratio: Tensor, sample: Tensor) -> Tensor:
    if scheduler.is_identity:
        return found
    increment = found - ratio * sample
    return found + (scheduler.corrected(increment) - increment)


KNOWN = {
    cls.__mro__[2]: cls
    for cls in (
        LMLDPMSolverScheduler,
        LMLDDIMScheduler,
        LMLFlowMatchEulerScheduler,
        LMLUniPCMultistepScheduler,
        LMLDEISMultistepScheduler,
        LMLPNDMScheduler,
    )
}


@functools.cache
def levenberg_marquardt_scheduler(base: type) -> type:
    """The corrected counterpart of any diffusers scheduler class.

    Classes without one in this module are corrected with r = 1: the increment is the whole change of the sample in a
    step, which is what a step of a sampler in sigma space (Euler, Heun, LMS, flow matching) adds. Their config must
    hold ``num_train_timesteps`` for ``freeze``.

    Args:
        base: subclass of ``diffusers.SchedulerMixin``.

    >>> from diffusers import EulerDiscreteScheduler
    >>> levenberg_marquardt_scheduler(EulerDiscreteScheduler)(beta=0.1).config.beta
    0.1
    """
    if base in KNOWN:
        return KNOWN[base]

    def step(self: Any, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        kwargs["return_dict"], wanted = True, kwargs.get("return_dict", True)
        found = base.step(self, model_output, timestep, sample, *args, **kwargs)  # type: ignore[attr-defined]
        found.prev_sample = _turn(self, found.prev_sample, torch.ones(()), sample)
        return found if wanted else (found.prev_sample,)

    derived = type(f"LML{base.__name__}", (Corrected, base), {"step": step, "__doc__": base.__doc__})
    return _corrects(base)(derived)

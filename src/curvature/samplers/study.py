"""Samplers and corrections side by side: same noise predictor, initial noise and timesteps, equal model calls."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from curvature.errors import ConfigError
from curvature.samplers.distances import median_bandwidth, mmd, moment_w2, sliced_w2
from curvature.samplers.targets import GaussianMixture

NoisePredictor = Callable[[Tensor, int], Tensor]
"""(samples (B, ...), timestep) -> predicted noise of the same shape."""

SIGMA_MIN = {"final_sigmas_type": "sigma_min"}
NOISE_FORM = {"algorithm_type": "dpmsolver", **SIGMA_MIN}
TRAILING = {"timestep_spacing": "trailing", "set_alpha_to_one": False}
SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("LMLDPMSolverScheduler", {"solver_order": 1, **NOISE_FORM}),
    "dpm_2m": ("LMLDPMSolverScheduler", {"solver_order": 2, **NOISE_FORM}),
    "dpm_3m": ("LMLDPMSolverScheduler", {"solver_order": 3, **NOISE_FORM}),
    "dpmpp_2m": ("LMLDPMSolverScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2, **SIGMA_MIN}),
    "dpmpp_3m": ("LMLDPMSolverScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 3, **SIGMA_MIN}),
    "unipc": ("LMLUniPCMultistepScheduler", {"solver_order": 2, **SIGMA_MIN}),
    "deis": ("LMLDEISMultistepScheduler", {"solver_order": 2}),
    "pndm": ("LMLPNDMScheduler", {"skip_prk_steps": True, **TRAILING}),
    "ddim_renoise": ("LMLDDIMScheduler", {"clip_sample": False, **TRAILING}),
}
"""Name -> scheduler and its options. All end at the smallest noise level of the schedule, not at zero.

``ddim`` corrects the whole increment of a step; ``ddim_renoise``, the same sampler, its re-noising term alone, as the
authors' ``ddim_lm``.
"""
README_LAMBDAS = {5: 8e-4, 6: 8e-4, 7: 1e-3, 8: 1e-3, 9: 1e-3, 10: 8e-4, 12: 1e-3, 15: 1e-3, 20: 5e-4, 30: 3e-4}
README_LAMBDAS |= {50: 1e-4, 100: 5e-5}
README_DIM = 3072
"""The damping that the authors' documentation gives for CIFAR-10, by number of steps, at images of 3072 numbers."""

CALIBRATION_STEPS = 14


@dataclass(frozen=True)
class Arm:
    """One line of a comparison.

    Attributes:
        solver: key of :data:`SOLVERS`.
        options: of the correction; see :mod:`curvature.samplers.schedulers`. With ``readme_lamb: true`` a ``lamb`` that
            is not given is that of the documentation for the number of steps, scaled to the dimension of the samples,
            so that ``lamb / ||g||^2`` stays what it is there.
        match_variance_of: name of another arm; ``shrink`` is then chosen on calibration noise so that the final
            variance is that arm's.
    """

    solver: str
    options: Mapping[str, Any] = field(default_factory=dict)
    match_variance_of: str | None = None


def arms_of(config: Mapping[str, Mapping[str, Any]]) -> dict[str, Arm]:
    """Arms from plain mappings with ``solver``, ``match_variance_of`` and the correction's options.

    Raises:
        ConfigError: an unknown solver or option of one, or a match with an arm that is not there.
    """
    arms = {}
    for name, entry in config.items():
        options = dict(entry)
        solver, match = options.pop("solver", None), options.pop("match_variance_of", None)
        if solver not in SOLVERS:
            raise ConfigError(f"arms.{name}.solver", solver, f"one of {', '.join(SOLVERS)}")
        if match is not None and match not in config:
            raise ConfigError(f"arms.{name}.match_variance_of", match, f"one of {', '.join(config)}")
        arms[name] = Arm(solver, options, match)
    for name, arm in arms.items():
        try:
            scheduler(arm, 10, README_DIM)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"arms.{name}", dict(arm.options), f"options of {arm.solver}: {error}") from error
    return arms


def scheduler(arm: Arm, steps: int, dim: int, **options: Any) -> Any:
    """The arm's scheduler on the linear schedule of 1000 steps.

    Args:
        arm: what to build.
        steps: number of model calls.
        dim: numbers in a sample.
        **options: override the arm's.
    """
    from curvature.samplers import schedulers

    name, solver_options = SOLVERS[arm.solver]
    chosen = {"correction": "none", **arm.options, **options}
    if chosen.pop("readme_lamb", False) and "lamb" not in chosen:
        chosen["lamb"] = readme_lamb(steps) * dim / README_DIM
    with _quiet():
        return getattr(schedulers, name)(**solver_options, **chosen)


def readme_lamb(steps: int) -> float:
    """The documented damping for CIFAR-10 at a number of steps; ConfigError where there is none."""
    if steps not in README_LAMBDAS:
        raise ConfigError("steps", steps, f"one of {', '.join(map(str, README_LAMBDAS))} with readme_lamb")
    return README_LAMBDAS[steps]


def inference_steps(chosen: Any, calls: int) -> int:
    """What ``set_timesteps`` has to be given for a number of model calls; PNDM makes one more call than steps.

    Raises:
        ConfigError: fewer than three calls of PNDM.
    """
    if not chosen.config.get("skip_prk_steps", False):
        return calls
    if calls < 3:
        raise ConfigError("steps", calls, "at least 3 with PNDM")
    return calls - 1


@torch.no_grad()
def draw(predict: NoisePredictor, chosen: Any, noise: Tensor, steps: int) -> Tensor:
    """Samples (B, ...) that ``chosen`` makes of initial noise (B, ...) in ``steps`` model calls."""
    chosen.set_timesteps(inference_steps(chosen, steps))
    x = noise
    for timestep in chosen.timesteps:
        x = chosen.step(predict(x, int(timestep)), timestep, x).prev_sample
    return x


def compare(
    predict: NoisePredictor, arms: Mapping[str, Arm], steps: int, noise: Tensor, calibration: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """Name and samples of each arm, all from the same ``noise``.

    Args:
        predict: noise predictor.
        arms: by name.
        steps: number of model calls.
        noise: (B, ...) initial noise.
        calibration: (C, ...) other initial noise, used to choose ``shrink`` and for nothing else.
    """
    dim = noise[0].numel()
    for name, arm in arms.items():
        options = {}
        if arm.match_variance_of is not None:
            goal = draw(predict, scheduler(arms[arm.match_variance_of], steps, dim), calibration, steps)
            options = {"correction": "rescale_control", "shrink": _matching(predict, arm, steps, calibration, goal)}
        yield name, draw(predict, scheduler(arm, steps, dim, **options), noise, steps)


def predictor(target: GaussianMixture) -> NoisePredictor:
    """Exact noise predictor of the linear schedule for a known target."""
    levels = _alphas_cumprod()

    def predict(x: Tensor, timestep: int) -> Tensor:
        abar = levels[timestep]
        return target.noise(x.double(), abar**0.5, (1 - abar) ** 0.5).to(x.dtype)

    return predict


def end_of(target: GaussianMixture) -> GaussianMixture:
    """The law at the smallest noise level of the schedule, where the samplers end."""
    abar = _alphas_cumprod()[0]
    return target.noised(abar**0.5, (1 - abar) ** 0.5)


def analytic_study(
    seed: int,
    target: GaussianMixture,
    arms: Mapping[str, Mapping[str, Any]],
    steps: Sequence[int],
    samples: int,
    reference_steps: int = 400,
) -> dict[str, float]:
    """Distances to a known law, for every arm and number of steps.

    Args:
        seed: of the initial noise.
        target: clean law.
        arms: see :func:`arms_of`.
        steps: numbers of model calls.
        samples: per arm.
        reference_steps: of the third-order solver whose samples ``distance_to_reference`` refers to.

    Returns:
        ``<metric>/<arm>/nfe_<steps>`` with the metrics ``moment_w2``, ``sliced_w2``, ``mmd`` (squared), ``nll``,
        ``variance`` (trace of the covariance over the target's) and ``distance_to_reference`` (root mean square), as
        far as all samples are finite, and their share ``finite``.
    """
    chosen, law, predict = arms_of(arms), end_of(target), predictor(target)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(samples, target.dim, generator=generator, dtype=torch.float64)
    calibration = torch.randn(min(samples, 512), target.dim, generator=generator, dtype=torch.float64)
    width = median_bandwidth(law)
    reference = draw(predict, scheduler(Arm("dpm_3m"), reference_steps, target.dim), noise, reference_steps)
    metrics: dict[str, float] = {}
    for count in steps:
        for name, found in compare(predict, chosen, count, noise, calibration):
            metrics[f"finite/{name}/nfe_{count}"] = float(found.isfinite().float().mean())
            if not found.isfinite().all():
                continue
            values = {
                "moment_w2": moment_w2(found, law),
                "sliced_w2": sliced_w2(found, law),
                "mmd": mmd(found, law, width),
                "nll": -float(law.log_prob(found).mean()),
                "variance": float(found.var(0).sum() / torch.trace(law.covariance)),
                "distance_to_reference": float((found - reference).square().sum(1).mean().sqrt()),
            }
            metrics |= {f"{metric}/{name}/nfe_{count}": value for metric, value in values.items()}
    return metrics


def released_study(seed: int, target: GaussianMixture, steps: Sequence[int], samples: int = 16) -> dict[str, float]:
    """What the released float32 computation does to samples with the documented settings (``kappa = 0``).

    Returns:
        ``released/change_<precision>/nfe_<steps>``: relative change of the samples of the third-order solver, per
        precision (``fp32``, ``fp64``), ``released/change_exact/...`` the same for the exact form in float32,
        ``released/ratio/...``: ``lamb / ||g||^2`` at the first step, and ``released/deviation/...``: root mean square
        of the float32 samples over that of the plain ones.
    """
    predict = predictor(target)
    noise = torch.randn(samples, target.dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    metrics = {}
    for count in steps:
        runs = {
            "fp32": (noise.float(), {"correction": "lml_released"}),
            "fp64": (noise, {"correction": "lml_released"}),
            "exact": (noise.float(), {"correction": "lml"}),
        }
        plain = {
            dtype: draw(predict, scheduler(Arm("dpm_3m"), count, target.dim), noise.to(dtype), count)
            for dtype in (torch.float32, torch.float64)
        }
        for name, (start, options) in runs.items():
            arm = Arm("dpm_3m", {**options, "readme_lamb": True})
            found, base = draw(predict, scheduler(arm, count, target.dim), start, count), plain[start.dtype]
            metrics[f"released/change_{name}/nfe_{count}"] = float((found - base).norm() / base.norm())
            if name == "fp32":
                metrics[f"released/deviation/nfe_{count}"] = float(found.norm() / base.norm())
        metrics[f"released/ratio/nfe_{count}"] = _first_ratio(predict, noise, count)
    return metrics


def _first_ratio(predict: NoisePredictor, noise: Tensor, steps: int) -> float:
    chosen = scheduler(Arm("dpm_3m", {"correction": "lml_released", "readme_lamb": True}), steps, noise[0].numel())
    chosen.set_timesteps(steps)
    timestep = chosen.timesteps[0]
    chosen.step(predict(noise, int(timestep)), timestep, noise)
    return float((chosen.config.lamb / chosen.previous_increment.square().sum(1)).mean())


def _matching(predict: NoisePredictor, arm: Arm, steps: int, calibration: Tensor, goal: Tensor) -> float:
    def variance(shrink: float) -> float:
        options = {"correction": "rescale_control", "shrink": shrink}
        chosen = scheduler(arm, steps, calibration[0].numel(), **options)
        return float(draw(predict, chosen, calibration, steps).var(0).sum())

    return matching_shrink(variance, float(goal.var(0).sum()))


def matching_shrink(variance: Callable[[float], float], wanted: float) -> float:
    """``shrink`` in [-0.5, 0.5] at which the final variance, which grows with it, is the wanted one; by bisection."""
    low, high = -0.5, 0.5
    for _ in range(CALIBRATION_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if variance(middle) < wanted else (low, middle)
    return (low + high) / 2


def _alphas_cumprod() -> list[float]:
    levels: list[float] = scheduler(Arm("ddim"), 1, 1).alphas_cumprod.double().tolist()
    return levels


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """diffusers warns of the noise form of its own solver, which is what is compared here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*algorithm_type.*", category=FutureWarning)
        yield

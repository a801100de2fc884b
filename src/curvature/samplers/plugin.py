"""How the corrected schedulers behave as parts of diffusers: parity, round trips, model calls, and time."""

import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from curvature.samplers.correction import levenberg_marquardt_correction, released_correction
from curvature.timing import interleaved

SHAPE = (2, 3, 8, 8)
ROUNDS = 41
STARTED = 16
"""Steps after which every scheduler is in its steady state; PNDM's first phase takes 12."""


def plugin_facts(seed: int) -> dict[str, float]:
    """Each scheduler against its base with equal settings, without and with a correction (C6).

    Returns:
        ``plugin/parity_error``: largest difference to the base with ``correction="none"``, over schedulers;
        ``plugin/extra_calls``: largest number of model calls beyond the base's with a correction;
        ``plugin/round_trip_error``: largest difference after saving and loading.
    """
    from curvature.samplers.schedulers import KNOWN

    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    parity = extra = round_trip = 0.0
    for base, derived in KNOWN.items():
        expected, calls = _sample(base(), x)
        found, _ = _sample(derived(correction="none"), x)
        parity = max(parity, float((found - expected).abs().max()))
        corrected = derived(beta=0.1)
        changed, made = _sample(corrected, x)
        extra = max(extra, float(made - calls))
        with tempfile.TemporaryDirectory() as folder:
            corrected.save_pretrained(folder)
            loaded, _ = _sample(derived.from_pretrained(folder), x)
        round_trip = max(round_trip, float((loaded - changed).abs().max()))
    return {"plugin/parity_error": parity, "plugin/extra_calls": extra, "plugin/round_trip_error": round_trip}


def overhead_facts(seed: int, batch: int = 16, unet_batch: int = 4) -> dict[str, float]:
    """Times on the current device, as ratios of medians over interleaved rounds (C7).

    Args:
        seed: of the inputs.
        batch: images of 3x32x32 in the timing of updates.
        unet_batch: images a U-Net evaluation; the steps compared with it have the same batch.

    Returns:
        ``overhead/of_unet``: (corrected step - plain step) over one evaluation of the CIFAR-10 U-Net;
        ``overhead/of_mlp``: the same for the denoiser of 8x8 digits, the smallest there is;
        ``overhead/correction_over_update`` and ``overhead/released_over_update``: the correction, exact and in the
        released order, over a plain second-order update; ``overhead/step_over_plain``: whole scheduler steps.
    """
    from curvature.models.denoisers import MLPDenoiser, UNetDenoiser

    generator = torch.Generator().manual_seed(seed)
    x, m0, m1, p = torch.randn(4, batch, 3, 32, 32, generator=generator)
    updates = medians(
        {
            "update": lambda: second_order_update(x, m0, m1),
            "lml": lambda: levenberg_marquardt_correction(m0, p, 1.0, 0.3),
            "released": lambda: released_correction(m0, p, 1.0, 0.3),
        }
    )
    steps = medians(_steps(x, m0))
    small = medians(_steps(x[:unet_batch], m0[:unet_batch]))
    net = UNetDenoiser((3, 32, 32), (128, 256, 256, 256), 2, (1,), attention_head_dim=None).eval()
    timesteps = torch.full((unet_batch,), 500)
    with torch.no_grad():
        evaluation = medians({"unet": lambda: net(x[:unet_batch], timesteps)}, 3)["unet"]
        digits, mlp = x[:unet_batch, :1, :8, :8].contiguous(), MLPDenoiser((1, 8, 8)).eval()
        tiny = medians({"mlp": lambda: mlp(digits, timesteps), **_steps(digits, digits)})
    return {
        "overhead/of_unet": (small["lml"] - small["plain"]) / evaluation,
        "overhead/of_mlp": (tiny["lml"] - tiny["plain"]) / tiny["mlp"],
        "overhead/correction_over_update": updates["lml"] / updates["update"],
        "overhead/released_over_update": updates["released"] / updates["update"],
        "overhead/step_over_plain": steps["lml"] / steps["plain"],
    }


def second_order_update(x: Tensor, m0: Tensor, m1: Tensor) -> Tensor:
    """A plain second-order multistep update ``r x + c0 m0 + c1 (m0 - m1)``, all of one shape, known coefficients."""
    return 0.9 * x - 0.3 * m0 - 0.1 * (m0 - m1)


def medians(actions: dict[str, Callable[[], Any]], rounds: int = ROUNDS, device: str = "cpu") -> dict[str, float]:
    """Median seconds of each action over interleaved rounds, after one that does not count."""
    return {name: statistics.median(times) for name, times in interleaved(actions, rounds, device=device).items()}


def scheduler_step(scheduler: Any, x: Tensor, output: Tensor) -> Callable[[], Any]:
    """A call of ``scheduler.step`` in mid-trajectory, good for about 900 calls; x and output of one shape."""
    scheduler.set_timesteps(1000)
    timesteps = iter(scheduler.timesteps)
    for _ in range(STARTED):
        scheduler.step(output, next(timesteps), x)
    return lambda: scheduler.step(output, next(timesteps), x)


def _steps(x: Tensor, output: Tensor) -> dict[str, Callable[[], Any]]:
    from curvature.samplers.schedulers import LMLDPMSolverScheduler

    options: dict[str, dict[str, Any]] = {"plain": {"correction": "none"}, "lml": {"lamb": 1.0, "kappa": 0.3}}
    return {name: scheduler_step(LMLDPMSolverScheduler(**own), x, output) for name, own in options.items()}


def _sample(scheduler: Any, x: Tensor) -> tuple[Tensor, int]:
    scheduler.set_timesteps(6)
    for timestep in scheduler.timesteps:
        output = torch.tanh(0.7 * x + float(timestep) / 2000)
        x = scheduler.step(output, timestep, x).prev_sample
    return x, len(scheduler.timesteps)

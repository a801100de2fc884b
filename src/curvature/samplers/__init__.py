"""Diffusion samplers as diffusers schedulers, analytic targets and distances for judging them.

The schedulers are imported on first use, because diffusers takes seconds to import.
"""

from typing import Any

from curvature.samplers.correction import levenberg_marquardt_correction, released_correction, scale_free_correction

SCHEDULERS = (
    "LMLDDIMScheduler",
    "LMLDEISMultistepScheduler",
    "LMLDPMSolverScheduler",
    "LMLFlowMatchEulerScheduler",
    "LMLPNDMScheduler",
    "LMLUniPCMultistepScheduler",
    "levenberg_marquardt_scheduler",
)

__all__ = ["levenberg_marquardt_correction", "released_correction", "scale_free_correction"]


def __getattr__(name: str) -> Any:
    if name in SCHEDULERS:
        from curvature.samplers import schedulers

        return getattr(schedulers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Time of the Levenberg-Marquardt-Langevin correction against a plain solver update, the released order and diffusers.

    python benchmarks/lml_diffusion.py                 16 images of 3x32x32 in float32 on one CPU thread
    python benchmarks/lml_diffusion.py --device cuda --no-unet

Every round times each arm once, in turn; figures are medians over rounds. The floor of the correction is two reductions
and one update: about 1.5 times a plain second-order update. ``--unet`` also times the U-Net of DDPM.
"""

from collections.abc import Callable
from typing import Any

import torch

from curvature.benchmark import Row, main
from curvature.samplers.correction import levenberg_marquardt_correction, released_correction, scale_free_correction
from curvature.samplers.plugin import medians, overhead_facts, scheduler_step, second_order_update

PLAIN = "plain second-order update"


def measure(
    batch: int = 16, rounds: int = 201, threads: int = 1, device: str = "cpu", unet: bool = True
) -> dict[str, Any]:
    """Time all arms.

    Args:
        batch: images of 3x32x32.
        rounds: that count.
        threads: CPU threads of torch.
        device: where to run.
        unet: also compare a corrected step with an evaluation of the U-Net; CPU only.

    Returns:
        ``arms``: name -> microseconds and ratio to the plain update; ``unet``: see
        :func:`curvature.samplers.plugin.overhead_facts`.
    """
    from diffusers import DPMSolverMultistepScheduler

    from curvature.samplers.schedulers import LMLDPMSolverScheduler

    generator = torch.Generator().manual_seed(0)
    x, m0, m1, p = torch.randn(4, batch, 3, 32, 32, generator=generator).to(device)

    torch.set_num_threads(threads)
    arms: dict[str, Callable[[], Any]] = {
        PLAIN: lambda: second_order_update(x, m0, m1),
        "correction, exact form": lambda: levenberg_marquardt_correction(m0, p, 1.0, 0.3),
        "correction, scale-free": lambda: scale_free_correction(m0, p, 0.1),
        "correction, released order": lambda: released_correction(m0, p, 1.0, 0.3),
        "diffusers DPM-Solver++ step": scheduler_step(DPMSolverMultistepScheduler(), x, m0),
        "our step, correction off": scheduler_step(LMLDPMSolverScheduler(correction="none"), x, m0),
        "our step, corrected": scheduler_step(LMLDPMSolverScheduler(kappa=0.3), x, m0),
    }
    times = medians(arms, rounds, device)
    return {
        "batch": batch,
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "arms": {name: {"us": 1e6 * value, "ratio": value / times[PLAIN]} for name, value in times.items()},
        "unet": overhead_facts(0) if unet else {},
    }


def rows(result: dict[str, Any]) -> list[Row]:
    """The correction against a plain update, and whole scheduler steps against diffusers'."""
    arms, setting = result["arms"], f"{result['batch']} x 3 x 32 x 32, float32"
    limits = {"correction, exact form": 2.0}
    found = [
        Row(name, PLAIN, arm["ratio"], limits.get(name), f"{setting}; {arm['us']:.0f} us")
        for name, arm in arms.items()
        if name.startswith("correction")
    ]
    base = arms["diffusers DPM-Solver++ step"]
    for name in ("our step, correction off", "our step, corrected"):
        found.append(Row(name, "diffusers DPM-Solver++ step", arms[name]["us"] / base["us"], None, setting))
    if result["unet"]:
        share = result["unet"]["overhead/of_unet"]
        found.append(Row("correction in a step", "evaluation of a CIFAR-10 U-Net", share, 0.01, "4 images"))
    return found


if __name__ == "__main__":
    main(__doc__, measure, rows)

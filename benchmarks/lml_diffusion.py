"""Time of the Levenberg-Marquardt-Langevin correction against a plain solver update, the released order and diffusers.

    python benchmarks/lml_diffusion.py                 16 images of 3x32x32 in float32 on one CPU thread
    python benchmarks/lml_diffusion.py --device cuda --unet

Every round times each arm once, in turn; figures are medians over rounds. The floor of the correction is two reductions
and one update: about 1.5 times a plain second-order update. ``--unet`` also times the CIFAR-10 U-Net of DDPM.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from curvature.samplers.correction import levenberg_marquardt_correction, released_correction, scale_free_correction
from curvature.samplers.plugin import medians, overhead_facts, scheduler_step, second_order_update

PLAIN = "plain second-order update"


def measure(batch: int = 16, rounds: int = 201, device: str = "cpu", unet: bool = False) -> dict[str, Any]:
    """Time all arms.

    Args:
        batch: images of 3x32x32.
        rounds: that count.
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

    def synchronised(action: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> None:
            action()
            if device.startswith("cuda"):
                torch.cuda.synchronize()

        return run

    arms: dict[str, Callable[[], Any]] = {
        PLAIN: lambda: second_order_update(x, m0, m1),
        "correction, exact form": lambda: levenberg_marquardt_correction(m0, p, 1.0, 0.3),
        "correction, scale-free": lambda: scale_free_correction(m0, p, 0.1),
        "correction, released order": lambda: released_correction(m0, p, 1.0, 0.3),
        "diffusers DPM-Solver++ step": scheduler_step(DPMSolverMultistepScheduler(), x, m0),
        "our step, correction off": scheduler_step(LMLDPMSolverScheduler(correction="none"), x, m0),
        "our step, corrected": scheduler_step(LMLDPMSolverScheduler(kappa=0.3), x, m0),
    }
    times = medians({name: synchronised(action) for name, action in arms.items()}, rounds)
    return {
        "batch": batch,
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "arms": {name: {"us": 1e6 * value, "ratio": value / times[PLAIN]} for name, value in times.items()},
        "unet": overhead_facts(0) if unet else {},
    }


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=201)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--unet", action="store_true", help="also against one U-Net evaluation")
    parser.add_argument("--json", type=Path, help="write the results here too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = measure(options.batch, options.rounds, options.device, options.unet)
    table = Table("arm", "us", "x plain update", title=f"{options.batch} x 3 x 32 x 32, {result['device']}")
    for name, arm in result["arms"].items():
        table.add_row(name, f"{arm['us']:.0f}", f"{arm['ratio']:.2f}")
    console = Console()
    console.print(table)
    for name, value in result["unet"].items():
        console.print(f"{name}: {value:.4g}")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

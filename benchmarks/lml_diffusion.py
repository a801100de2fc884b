"""Time of the Levenberg-Marquardt-Langevin correction against a plain solver update, the released order and diffusers.

    python benchmarks/lml_diffusion.py                 16 images of 3x32x32 in float32 on one CPU thread
    python benchmarks/lml_diffusion.py --device cuda

Every round times each arm once, in turn; figures are medians over rounds, and medians of ratios within rounds. The
floor of the correction is two reductions and one update: about 1.5 times a plain second-order update. Every corrected
scheduler takes its steps beside the scheduler of diffusers that it corrects, with the correction off and on. Memory is
the peak of tensors, for schedulers from their first step on. ``--unet`` also times the U-Net of DDPM, on the CPU only.
"""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from curvature.benchmark import Row, interleaved, main, median_ratio, peak_bytes
from curvature.samplers.correction import levenberg_marquardt_correction, released_correction, scale_free_correction
from curvature.samplers.plugin import overhead_facts, scheduler_step, second_order_update

PLAIN = "plain second-order update"
OPTIONS: dict[str, dict[str, Any]] = {"correction off": {"correction": "none"}, "corrected": {"kappa": 0.3}}


def measure(
    batch: int = 16, rounds: int = 201, threads: int = 1, device: str = "cpu", unet: bool = True
) -> dict[str, Any]:
    """Time all arms.

    Args:
        batch: images of 3x32x32.
        rounds: that count, at most 900.
        threads: CPU threads of torch.
        device: where to run.
        unet: also compare a corrected step with an evaluation of the U-Net; CPU only.

    Returns:
        ``corrections``: name -> {``us``, ``ratio``: to the plain update, ``memory``: ratio of peaks};
        ``steps``: scheduler of diffusers -> our step -> the same, with ratios to the scheduler's step, and
        ``base_us``; ``unavailable``: why diffusers could not run; ``unet``: see
        :func:`curvature.samplers.plugin.overhead_facts`.
    """
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    x, m0, m1, p = torch.randn(4, batch, 3, 32, 32, generator=generator).to(device)
    updates: dict[str, Callable[[], Any]] = {
        PLAIN: lambda: second_order_update(x, m0, m1),
        "correction, exact form": lambda: levenberg_marquardt_correction(m0, p, 1.0, 0.3),
        "correction, scale-free": lambda: scale_free_correction(m0, p, 0.1),
        "correction, released order": lambda: released_correction(m0, p, 1.0, 0.3),
    }
    times = interleaved(updates, rounds, device=device)
    peaks = {name: peak_bytes(action, device) for name, action in updates.items()}
    found: dict[str, Any] = {
        "batch": batch,
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "threads": threads,
        "corrections": _compared(times, peaks, PLAIN),
        "steps": {},
        "unavailable": "",
        "unet": {},
    }
    try:
        from curvature.samplers.schedulers import KNOWN
    except ImportError as error:
        return found | {"unavailable": f"{type(error).__name__}: {error}"}
    for base, derived in KNOWN.items():
        makers = {base.__name__: base} | {name: partial(derived, **options) for name, options in OPTIONS.items()}
        peaks = {name: peak_bytes(partial(_begun, make, x, m0), device) for name, make in makers.items()}
        times = interleaved({name: _begun(make, x, m0) for name, make in makers.items()}, rounds, device=device)
        us = 1e6 * statistics.median(times[base.__name__])
        found["steps"][base.__name__] = {"base_us": us, "ours": _compared(times, peaks, base.__name__)}
    return found | {"unet": overhead_facts(0) if unet and not device.startswith("cuda") else {}}


def _begun(make: Callable[[], Any], x: torch.Tensor, output: torch.Tensor) -> Callable[[], Any]:
    return scheduler_step(make(), x, output)


def _compared(times: dict[str, list[float]], peaks: dict[str, int], floor: str) -> dict[str, dict[str, float]]:
    return {
        name: {
            "us": 1e6 * statistics.median(values),
            "ratio": median_ratio(values, times[floor]),
            "memory": peaks[name] / peaks[floor],
        }
        for name, values in times.items()
        if name != floor
    }


def rows(result: dict[str, Any]) -> list[Row]:
    """The correction against a plain update, and whole scheduler steps against diffusers'."""
    setting = f"{result['batch']} x 3 x 32 x 32, float32, {result['device']}"
    limits = {"correction, exact form": 2.0}
    found = [
        Row(name, PLAIN, arm["ratio"], limits.get(name), f"{setting}; {arm['us']:.0f} us", arm["memory"])
        for name, arm in result["corrections"].items()
    ]
    for base, step in result["steps"].items():
        for name, arm in step["ours"].items():
            note = f"{setting}; {arm['us']:.0f} us, {step['base_us']:.0f} us"
            found.append(Row(f"our step, {name}", f"diffusers {base}", arm["ratio"], None, note, arm["memory"]))
    if result["unavailable"]:
        found.append(Row("our step", "diffusers", None, None, result["unavailable"]))
    if result["unet"]:
        share = result["unet"]["overhead/of_unet"]
        found.append(Row("correction in a step", "evaluation of a CIFAR-10 U-Net", share, 0.01, "4 images, cpu"))
    return found


if __name__ == "__main__":
    main(__doc__, measure, rows)

"""What training costs, from the arithmetic of one forward pass."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

A100_BF16 = 312e12
"""Peak floating-point operations per second of an A100 in bfloat16."""


def forward_macs(build: Callable[[], nn.Module], image_shape: Sequence[int]) -> int:
    """Multiply-adds of matrix products and convolutions in one forward pass of one image; nothing is allocated.

    Args:
        build: makes the network.
        image_shape: (C, H, W).
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.device("meta"), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        build().eval()(torch.empty(1, *image_shape))
    return int(counter.get_total_flops()) // 2


def gpu_hours(macs: int, images: float, passes: int, utilisation: float = 0.4, peak: float = A100_BF16) -> float:
    """Hours of training; a backward pass costs two forward passes.

    Args:
        macs: multiply-adds of one forward pass of one image.
        images: training images over all epochs.
        passes: gradients per image: 1, or 2 with SAM.
        utilisation: share of the peak that is reached.
        peak: floating-point operations per second.
    """
    return 6.0 * macs * images * passes / (utilisation * peak) / 3600.0

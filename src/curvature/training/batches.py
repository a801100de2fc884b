"""Random changes of a training batch that are a function of seed, step and process."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from curvature.data.seeds import derive


@contextmanager
def drawn_from(purpose: str, *numbers: int, device: torch.device) -> Iterator[None]:
    """Inside, torch's generators of the CPU and of ``device`` begin at a seed made of ``purpose`` and ``numbers``;
    outside they are as if nothing had been drawn."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(purpose, *numbers))
        yield

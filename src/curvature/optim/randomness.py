"""Snapshots of the random generators that a forward pass draws from."""

from collections.abc import Iterable

import torch


class GeneratorStates:
    """State of torch's default generators on the CPU and on ``devices``, at the time of construction.

    Args:
        devices: devices whose default generator is recorded; the CPU's always is.
    """

    def __init__(self, devices: Iterable[torch.device] = ()) -> None:
        self._cpu = torch.get_rng_state()
        self._others = {
            device: torch.get_device_module(device).get_rng_state(device) for device in devices if device.type != "cpu"
        }

    def restore(self) -> None:
        """Put every recorded generator back where it was."""
        torch.set_rng_state(self._cpu)
        for device, state in self._others.items():
            torch.get_device_module(device).set_rng_state(state, device)

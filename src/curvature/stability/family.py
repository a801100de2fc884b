"""What a family of nets offers to be trained as many replicas at once."""

from typing import Protocol

from torch import Tensor

State = dict[str, Tensor]
"""Parameters by name, each with leading dimensions (seeds, lanes): one lane is one learning rate."""


class Family(Protocol):
    """Replicas of one kind of net; S seeds, L lanes, n samples or a batch of B, inputs of d numbers."""

    def predict(self, state: State, inputs: Tensor) -> Tensor:
        """Outputs (S, L, n) for inputs (S, n, d): all lanes of a seed see the same inputs."""
        ...

    def step(self, state: State, inputs: Tensor, targets: Tensor, rate: Tensor, clip: float | None) -> Tensor | None:
        """One simultaneous descent step on the half-MSE of a batch, in place.

        Args:
            state: parameters; updated.
            inputs: (S, B, d).
            targets: (S, B).
            rate: learning rates (S, L).
            clip: largest allowed global gradient norm of a replica.

        Returns:
            Factors (S, L) by which gradients were scaled, at most 1; None without ``clip``.
        """
        ...

    def gram(self, state: State, inputs: Tensor) -> Tensor:
        """Gram matrices (S, L, n, n) of the output gradients, divided by n."""
        ...

    def trace(self, state: State, inputs: Tensor) -> Tensor:
        """Traces (S, L) of the Gauss-Newton matrices, without forming them where that is possible."""
        ...

    def norms(self, state: State) -> dict[str, Tensor]:
        """Parameter norms by name, each (S, L)."""
        ...


def clip_factor(squared_norm: Tensor, clip: float) -> Tensor:
    """``min(1, clip / norm)``, elementwise, from squared norms."""
    return squared_norm.rsqrt().mul_(clip).clamp_max_(1.0)

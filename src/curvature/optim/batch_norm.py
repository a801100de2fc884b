"""Batch normalisation in a forward pass that must leave no trace in the running statistics."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen_batch_norm(model: nn.Module) -> Iterator[None]:
    """Training-mode batch normalisation that normalises by the batch but does not record it.

    Inside, ``running_mean``, ``running_var`` and ``num_batches_tracked`` of every layer in training mode stay as they
    are, bit for bit; layers in evaluation mode go on using their running statistics. Nothing is copied: torch itself
    keeps no statistics while ``track_running_stats`` is off. It holds for ``nn.BatchNorm*d``, ``nn.SyncBatchNorm``,
    their timm subclasses, and any layer whose update depends on an attribute ``track_running_stats``.

    Example:
        >>> import torch
        >>> layer = nn.BatchNorm1d(3)
        >>> with frozen_batch_norm(layer):
        ...     _ = layer(torch.randn(8, 3))
        >>> int(layer.num_batches_tracked)
        0
    """
    layers = [m for m in model.modules() if m.training and getattr(m, "track_running_stats", False)]
    for layer in layers:
        layer.track_running_stats = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True  # type: ignore[assignment]

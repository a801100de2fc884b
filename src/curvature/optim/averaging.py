"""Means over the processes of a data-parallel run."""

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist

from curvature.errors import ConfigError

BUCKET_BYTES = 32 * 2**20


def world_size() -> int:
    """Number of processes that train together; 1 without ``torch.distributed``."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def average(tensors: Sequence[torch.Tensor], group: dist.ProcessGroup | None = None) -> None:
    """Replace ``tensors`` by their means over the processes of ``group``, in place.

    Every process must pass tensors of the same shapes in the same order, and all end with the same bits. Tensors
    travel in flat buckets of at most 32 MiB (a larger tensor is a bucket of its own), all in flight at once.

    Args:
        tensors: any shapes, dtypes and devices.
        group: processes to average over; None is all of them.
    """
    flights = []
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        flights.append((bucket, flat, dist.all_reduce(flat, group=group, async_op=True)))
    size = dist.get_world_size(group)
    for bucket, flat, work in flights:
        work.wait()
        parts = flat.div_(size).split([tensor.numel() for tensor in bucket])
        torch._foreach_copy_(bucket, [part.view_as(tensor) for part, tensor in zip(parts, bucket)])


def consecutive_ranks(size: int) -> dist.ProcessGroup | None:
    """Group of ``size`` consecutive ranks that this process belongs to; a collective call.

    It is what grouped synchronisation of SAM's perturbation needs: with b images a process, groups of ``m / b``
    processes make the perturbation that of m images.

    Args:
        size: processes a group; 1 gives None without communication (nothing to synchronise).

    Raises:
        ConfigError: ``size`` does not divide the number of processes.
    """
    world = world_size()
    if size < 1 or world % size:
        raise ConfigError("module.m", size, f"groups of processes whose size divides their number, {world}")
    if size == 1:
        return None
    group, _ = dist.new_subgroups(size)
    return group


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    kinds: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    for members in kinds.values():
        bucket: list[torch.Tensor] = []
        filled = 0
        for tensor in members:
            if bucket and filled + tensor.nbytes > BUCKET_BYTES:
                yield bucket
                bucket, filled = [], 0
            bucket.append(tensor)
            filled += tensor.nbytes
        yield bucket

"""Groups of parameter slices as vectors: norms and products per group, and factors per group applied in place."""

from collections.abc import Sequence

import torch
from torch import Tensor

from curvature.pruning.space import SearchSpace


class GroupLayout:
    """Where the groups of a search space lie in its model's parameters.

    On a CPU, factors touch only the slices they change; elsewhere every member is multiplied whole, so that no number
    has to leave the device.

    Args:
        space: a search space; parameters are those of its model, at the time of a call.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space, self.size = space, space.size
        named = dict(space.model.named_parameters(remove_duplicate=False))
        cuts = [cut for cut in space.cuts("member", "auxiliary") if cut.tensor in named]
        self.members = _once([(named[cut.tensor], cut.dim, cut.owner) for cut in cuts if cut.role == "member"])
        self.touched = _once([(named[cut.tensor], cut.dim, cut.owner) for cut in cuts])
        self._moved: dict[tuple[int, torch.device], Tensor] = {}
        self._lengths: Tensor | None = None

    @property
    def device(self) -> torch.device:
        return self.members[0][0].device if self.members else torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return self.members[0][0].dtype if self.members else torch.get_default_dtype()

    def layer(self) -> Tensor:
        """(G,) node group of every group, on the parameters' device."""
        return self.space.layer.to(self.device)

    def lengths(self) -> Tensor:
        """(G,) number of entries of every group."""
        if self._lengths is None:
            ones = [(torch.ones_like(p), dim, owner) for p, dim, owner in self.members]
            self._lengths = self._sums([p for p, _, _ in ones])
        return self._lengths.to(self.device)

    def inner(self, left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
        """(G,) sums over each group of the products of two tensors per member, in the order of ``members``."""
        return self._sums([a * b for a, b in zip(left, right, strict=True)])

    def values(self) -> list[Tensor]:
        """The members' parameters, detached."""
        return [p.detach() for p, _, _ in self.members]

    @torch.no_grad()
    def scale_(self, factors: Tensor) -> None:
        """Multiply every slice, auxiliary ones included, by its group's factor (G,); zero is exact."""
        for p, view in self.views(factors):
            p.mul_(view)

    def views(self, factors: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(parameter, factors that broadcast to it): each slice's of ``factors`` (G,), and 1 outside of groups."""
        padded = torch.cat([factors, factors.new_ones(1)])
        found = []
        for p, dim, owner in self.touched:
            shape = [-1 if axis == dim else 1 for axis in range(p.ndim)]
            found.append((p, padded[self._on(owner, p.device)].to(p.dtype).view(shape)))
        return found

    def rows(self, mask: Tensor) -> list[tuple[Tensor, int, Tensor]]:
        """(parameter, dim, indices) of the slices of the groups in ``mask`` (G,) bool; for CPU tensors."""
        padded = torch.cat([mask, mask.new_zeros(1)])
        found = ((p, dim, padded[owner].nonzero()[:, 0]) for p, dim, owner in self.touched)
        return [(p, dim, index) for p, dim, index in found if len(index)]

    def spread(self, per_group: Tensor) -> list[Tensor]:
        """One tensor per member that broadcasts to its parameter: each slice's value of ``per_group`` (G,), else 0."""
        padded = torch.cat([per_group, per_group.new_zeros(1)])
        spread = []
        for p, dim, owner in self.members:
            shape = [-1 if axis == dim else 1 for axis in range(p.ndim)]
            spread.append(padded[self._on(owner, p.device)].to(p.dtype).view(shape))
        return spread

    def _sums(self, values: Sequence[Tensor]) -> Tensor:
        total = torch.zeros(self.size + 1, dtype=self.dtype, device=self.device)
        for value, (p, dim, owner) in zip(values, self.members, strict=True):
            others = [axis for axis in range(p.ndim) if axis != dim]
            per_entry = value.sum(others) if others else value
            total.index_add_(0, self._on(owner, p.device), per_entry.to(total.dtype))
        return total[:-1]

    def _on(self, owner: Tensor, device: torch.device) -> Tensor:
        key = id(owner), device
        if key not in self._moved:
            # The last entry of a padded vector stands for "no group".
            self._moved[key] = torch.where(owner < 0, self.size, owner).to(device)
        return self._moved[key]


def _once(cuts: list[tuple[Tensor, int, Tensor]]) -> list[tuple[Tensor, int, Tensor]]:
    """One entry for each parameter and dimension; a tied parameter has a cut under each of its names."""
    merged: dict[tuple[int, int], tuple[Tensor, int, Tensor]] = {}
    for p, dim, owner in cuts:
        if (id(p), dim) in merged:
            owner = torch.where(owner >= 0, owner, merged[id(p), dim][2])
        merged[id(p), dim] = (p, dim, owner)
    return list(merged.values())

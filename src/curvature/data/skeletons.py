"""NTU RGB+D 60: skeleton sequences whose covariances are made when they are taken out, augmented in training."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curvature.data.classification import ClassificationDataModule
from curvature.data.covariances import covariances
from curvature.data.sources import Source
from curvature.data.spd import folder
from curvature.errors import ConfigError

ACTION = re.compile(r"A(\d{3})")
FRAMES = 64
EVALUATION_CROP = 0.95
RIDGE = 1e-6


class SkeletonSource:
    """Sequences (3, T, joints, persons), one ``.npy`` each, read when they are needed.

    Each becomes the covariance of the joints' coordinates over 64 frames of the most active person, divided by its
    trace, plus 1e-6 times the identity. With seeds, a random share of at least half of the frames and a random
    rotation; otherwise the middle 95 %.

    Args:
        files: sequences.
        labels: (N,).
        shape: (1, 3 joints, 3 joints).
    """

    is_random = True

    def __init__(self, files: list[Path], labels: Tensor, shape: tuple[int, ...]) -> None:
        self.files, self.labels, self.shape = files, labels, shape

    def images(self, rows: NDArray[np.int64], seeds: NDArray[np.int64] | None = None) -> Tensor:
        given = [None] * len(rows) if seeds is None else list(seeds)
        return torch.stack([self._one(self.files[row], seed) for row, seed in zip(rows, given)])

    def _one(self, path: Path, seed: int | None) -> Tensor:
        sequence = torch.from_numpy(np.load(path, allow_pickle=False)).double()
        if sequence.ndim != 4 or len(sequence) != 3 or 3 * sequence.shape[2] != self.shape[-1]:
            raise ConfigError("data_root", str(path), f"an array (3, frames, {self.shape[-1] // 3}, persons)")
        most_active = sequence.var(1).sum((0, 1)).argmax()
        person = sequence[..., most_active]
        if seed is None:
            share, offset = EVALUATION_CROP, 0.5
        else:
            generator = torch.Generator().manual_seed(int(seed))
            draws = torch.rand(2, generator=generator).tolist()
            share, offset = 0.5 + draws[0] / 2, draws[1]
            person = torch.einsum("ab,btj->atj", _rotation(generator), person)
        frames = person.shape[1]
        length = max(2, round(share * frames))
        start = round(offset * (frames - length))
        piece = person[:, start : start + length].permute(2, 0, 1).flatten(0, 1).unsqueeze(0)
        piece = torch.nn.functional.interpolate(piece, size=FRAMES, mode="linear", align_corners=True)
        matrix = covariances(piece, 0.0)
        matrix = matrix / matrix.diagonal(dim1=-2, dim2=-1).sum().clamp_min(1e-12)
        return matrix + RIDGE * torch.eye(matrix.shape[-1], dtype=torch.float64)


class NTU60DataModule(ClassificationDataModule):
    """NTU RGB+D 60, cross-view: ``ntu60/train/*.npy`` and ``ntu60/test/*.npy`` whose names hold A001 to A060.

    Args:
        root: folder that holds ``ntu60``.
        **options: see :class:`curvature.data.classification.ClassificationDataModule`.

    Raises:
        ConfigError: no root, no files, or a name without an action.
    """

    def __init__(self, root: str | None, **options: Any) -> None:
        super().__init__(**options)
        self.root = root

    def load(self) -> dict[str, Source]:
        return {name: self._source(name) for name in ("train", "test")}

    def _source(self, name: str) -> SkeletonSource:
        place = folder(self.root, f"ntu60/{name}")
        files = sorted(place.glob("*.npy"))
        if not files:
            raise ConfigError("data_root", self.root, f"a folder with ntu60/{name}/*.npy")
        actions = [ACTION.search(path.name) for path in files]
        if not all(actions):
            wrong = next(path.name for path, action in zip(files, actions) if not action)
            raise ConfigError("data_root", self.root, f"file names with an action such as A001, not {wrong}")
        labels = torch.tensor([int(action[1]) - 1 for action in actions if action])
        return SkeletonSource(files, labels, self.image_shape)


def _rotation(generator: torch.Generator) -> Tensor:
    """About each axis by a uniform angle within 0.3 rad."""
    a, b, c = ((2 * torch.rand(3, generator=generator, dtype=torch.float64) - 1) * 0.3).tolist()
    skew = torch.tensor([[0.0, -c, b], [c, 0.0, -a], [-b, a, 0.0]], dtype=torch.float64)
    return torch.linalg.matrix_exp(skew)

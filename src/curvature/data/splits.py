"""Which examples make the train, validation and test splits: a function of the sources, the sizes and the data seed."""

from collections.abc import Mapping

import numpy as np
import torch

from curvature.data.order import permutation
from curvature.data.seeds import derive
from curvature.data.sources import Source, Split
from curvature.errors import ConfigError

Size = int | float | None

VALIDATION_SHARE = 0.1
LEAST = {"train": 1, "val": 0, "test": 1}
"""Examples that a split needs."""


def check_size(key: str, size: Size, least: int) -> None:
    """Raises ConfigError unless ``size`` is None, an integer >= ``least`` or a share in (0, 1]."""
    whole = isinstance(size, int) and not isinstance(size, bool) and size >= least
    if size is not None and not whole and not (isinstance(size, float) and 0.0 < size <= 1.0):
        raise ConfigError(key, size, f"an integer >= {least}, a share in (0, 1], or null for all")


def choose(sources: Mapping[str, Source], sizes: Mapping[str, Size], seed: int) -> dict[str, Split]:
    """Splits ``train``, ``val`` and ``test``.

    Each source is permuted once with ``seed``. Where there is no ``test`` source, ``sizes["test"]`` examples are held
    out from the end of train; then likewise for ``val``, by default a tenth of what is left and, with 0, nothing. Of
    every split the first ``sizes[name]`` examples are used, so that smaller splits are the beginnings of larger ones.

    Raises:
        ConfigError: a size that exceeds what there is, or a test split that is neither given nor sized.
    """
    rows = {name: permutation(len(source.labels), derive(name, seed)) for name, source in sources.items()}
    for name, default in (("test", None), ("val", VALIDATION_SHARE)):
        if name in sources:
            continue
        size = sizes[name] if sizes[name] is not None else default
        if size is None:
            raise ConfigError(f"data.{name}_size", None, f"a number or share: the data has no {name} split of its own")
        total = len(rows["train"])
        reason = f"to leave some of {total} for training"
        count = _count(f"data.{name}_size", size, total, total - 1, reason, LEAST[name])
        rows["train"], rows[name] = np.split(rows["train"], [total - count])
    splits = {}
    for name in ("train", "val", "test"):
        if name in sources or name == "train":
            total = len(rows[name])
            reason = f"which the {name} split has"
            count = _count(f"data.{name}_size", sizes[name], total, total, reason, LEAST[name])
            rows[name] = rows[name][:count]
        source = sources.get(name, sources["train"])
        splits[name] = Split(source, rows[name], source.labels[torch.from_numpy(rows[name])])
    return splits


def _count(key: str, size: Size, total: int, most: int, reason: str, least: int) -> int:
    count = total if size is None else max(1, round(size * total)) if isinstance(size, float) else size
    if not least <= count <= most:
        raise ConfigError(key, size, f"at most {most} examples, {reason}")
    return count

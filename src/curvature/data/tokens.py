"""Texts as arrays of token numbers in files."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curvature.data.classification import ClassificationDataModule
from curvature.data.sources import Source
from curvature.data.splits import Size
from curvature.errors import ConfigError


class TokenSource:
    """Windows of ``length`` tokens one after the other; labels are the same tokens moved by one.

    Args:
        tokens: (N,) int32 or int64; mapped files are read where they are used.
        length: T.
    """

    is_random = False

    def __init__(self, tokens: NDArray[Any], length: int) -> None:
        count = (len(tokens) - 1) // length
        self.windows = tokens[: count * length].reshape(count, length)
        self.labels = torch.from_numpy(tokens[1 : 1 + count * length].reshape(count, length))

    def images(self, rows: NDArray[np.int64], seeds: NDArray[np.int64] | None = None) -> Tensor:
        """(B, T) int64."""
        return torch.from_numpy(self.windows[rows].astype(np.int64))


class TokenDataModule(ClassificationDataModule):
    """``<root>/<name>/{train,test}.npy``, and ``val.npy`` if there is one: token numbers of a text, one array each.

    Labels of the examples in use are held in memory, four or eight bytes a token.

    Args:
        root: where data lies.
        name: of the folder.
        num_classes: size of the vocabulary.
        length: tokens of an example, T.
        batch_size, eval_batch_size, train_size, val_size, test_size, seed, order_seed, num_workers: see
            :class:`curvature.data.classification.ClassificationDataModule`.

    Raises:
        ConfigError: a length below 1; from ``setup``, a file that is missing, of another kind, or too short.
    """

    def __init__(
        self,
        root: str,
        name: str,
        num_classes: int,
        length: int,
        batch_size: int,
        eval_batch_size: int = 8,
        train_size: Size = None,
        val_size: Size = None,
        test_size: Size = None,
        seed: int = 0,
        order_seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        if length < 1:
            raise ConfigError("data.length", length, "an integer >= 1")
        super().__init__(
            num_classes=num_classes,
            image_shape=(1, 1, length),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            train_size=train_size,
            val_size=val_size,
            test_size=test_size,
            seed=seed,
            order_seed=order_seed,
            num_workers=num_workers,
        )
        self.folder, self.length = Path(root) / name, length
        self.image_shape = self.train_image_shape = (length,)

    def load(self) -> dict[str, Source]:
        names = ["train", "test", *(["val"] if (self.folder / "val.npy").exists() else [])]
        return {name: TokenSource(self._tokens(self.folder / f"{name}.npy"), self.length) for name in names}

    def _tokens(self, file: Path) -> NDArray[Any]:
        try:
            tokens: NDArray[Any] = np.load(file, mmap_mode="c")
        except (OSError, ValueError) as error:
            raise ConfigError("data_root", str(file), f"an array of token numbers ({error})") from error
        if tokens.ndim != 1 or tokens.dtype not in (np.int32, np.int64) or len(tokens) <= self.length:
            found = f"(N,) int32 or int64 with N > {self.length}, here {tokens.shape} {tokens.dtype}"
            raise ConfigError("data_root", str(file), found)
        return tokens

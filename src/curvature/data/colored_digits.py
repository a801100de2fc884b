"""Colored MNIST (Arjovsky et al. 2019), from MNIST or from scikit-learn's digits."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from curvature.data.domains import DomainDataModule
from curvature.data.order import permutation
from curvature.data.seeds import derive
from curvature.data.sources import Split, TensorSource
from curvature.errors import ConfigError

LABEL_NOISE = 0.25
BALANCES = ("balanced", "as_described", "as_released")
DOWNSAMPLES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "stride": lambda images, factor: images[:, ::factor, ::factor],
    "pool": lambda images, factor: F.avg_pool2d(images.unsqueeze(1), factor).squeeze(1),
}


def color(images: Tensor, digits: Tensor, flip: float, seed: int, gray: bool = False) -> tuple[Tensor, Tensor]:
    """Images with two channels of which the colour's one holds the digit, and noisy binary labels.

    The label is digit < 5, flipped with probability 0.25; the colour is the flipped label, flipped with ``flip``.

    Args:
        images: (N, H, W) in [0, 1].
        digits: (N,).
        flip: probability that colour and noisy label differ.
        seed: equal seeds give equal labels and colours.
        gray: keep both channels.

    Returns:
        (N, 2, H, W) and class numbers (N,).
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(len(digits), generator=generator) < LABEL_NOISE
    switch = torch.rand(len(digits), generator=generator) < flip
    labels = (digits < 5) ^ noise
    colors = labels ^ switch
    both = torch.stack([images, images], dim=1)
    if not gray:
        both[torch.arange(len(both)), (~colors).long()] = 0
    return both, labels.long()


def imbalanced(small: NDArray[np.bool_], balance: str, share: float) -> list[NDArray[np.int64]]:
    """Positions of two training environments whose digits < 5 are spread unevenly.

    Args:
        small: (N,) whether the digit is below 5.
        balance: ``as_described``: the first environment has ``share`` of the small digits and 1 - share of the others;
            ``as_released``: the authors' code, which counts ``share`` of all N, so that small digits all land in
            the first, with (1 - share) N others, and the second has none.
        share: P, 0.97 in the paper.
    """
    low, high = np.flatnonzero(small), np.flatnonzero(~small)
    if balance == "as_described":
        cut = round(share * len(low)), round((1 - share) * len(high))
    else:
        cut = min(len(low), round(share * len(small))), round((1 - share) * len(small))
    pairs = (low[: cut[0]], high[: cut[1]]), (low[cut[0] :], high[cut[1] :])
    return [np.sort(np.concatenate(pair)) for pair in pairs]


class ColoredDigits(DomainDataModule):
    """Two colours whose agreement with the label differs between environments.

    In the ``irm`` form there are training environments e0.2 and e0.1, named after the probability that colour and label
    differ, a test environment with 0.9 (``test``), and its images without colour (``gray``). In the ``domainbed`` form
    all images are dealt out in turn to +90%, +80% and -90%, whose probabilities are 0.1, 0.2 and 0.9.

    Args:
        source: ``digits`` (8x8, embedded) or ``mnist`` (28x28, ``<root>/mnist``).
        form: ``irm`` or ``domainbed``.
        root: the data root, for MNIST.
        downsample: ``stride`` keeps every n-th pixel, ``pool`` averages.
        factor: n; 1 keeps the size.
        train_per_env, test_size: images of each training environment and of the test environment (``irm``).
        repeats: copies of each training image with their own noise and colour, so that noise cannot be memorised.
        balance: see :func:`imbalanced`; ``balanced`` splits at random.
        share: P of an imbalanced split.
        **options: see :class:`curvature.data.domains.DomainDataModule`.

    Raises:
        ConfigError: an unknown choice, sizes beyond the data; from ``setup``, MNIST is not there.
    """

    def __init__(
        self,
        source: str = "digits",
        form: str = "irm",
        root: str | None = None,
        downsample: str = "stride",
        factor: int = 1,
        train_per_env: int = 600,
        test_size: int = 597,
        repeats: int = 1,
        balance: str = "balanced",
        share: float = 0.97,
        test_envs: Sequence[int] = (2,),
        **options: Any,
    ) -> None:
        super().__init__(test_envs, **options)
        choices = (
            ("source", source, ("digits", "mnist")),
            ("form", form, ("irm", "domainbed")),
            ("downsample", downsample, tuple(DOWNSAMPLES)),
            ("balance", balance, BALANCES),
        )
        for key, value, allowed in choices:
            if value not in allowed:
                raise ConfigError(f"data.{key}", value, f"one of {', '.join(allowed)}")
        for key, number in (("factor", factor), ("repeats", repeats), ("train_per_env", train_per_env)):
            if number < 1:
                raise ConfigError(f"data.{key}", number, "at least 1")
        if not 0 < share < 1:
            raise ConfigError("data.share", share, "a number between 0 and 1")
        if form == "domainbed" and balance != "balanced":
            raise ConfigError("data.balance", balance, "balanced in the domainbed form")
        self.source, self.form, self.root = source, form, root
        self.downsample, self.factor, self.repeats = downsample, factor, repeats
        self.train_per_env, self.test_images, self.balance, self.share = train_per_env, test_size, balance, share

    def role(self, index: int, name: str) -> str:
        return "extra" if name == "gray" else super().role(index, name)

    def load(self) -> list[tuple[str, Split]]:
        images, digits = self._raw()
        return self._three(images, digits) if self.form == "domainbed" else self._two(images, digits)

    def _raw(self) -> tuple[Tensor, Tensor]:
        """Images (N, H, W) in [0, 1] and digits (N,), in the order of the source."""
        if self.source == "digits":
            from sklearn.datasets import load_digits

            found = load_digits()
            return self._small(torch.from_numpy(found.images).float() / 16), torch.from_numpy(found.target).long()
        from curvature.data.images import ImageDataModule

        parts = {"train": "train", "test": "test" if self.form == "domainbed" else None}
        mnist = ImageDataModule(
            name="mnist", root=self.root, sources=parts, num_classes=10, image_shape=(1, 28, 28), batch_size=1
        )
        images, digits = [], []
        for split in mnist.load().values():
            rows = np.arange(len(split.labels))
            if self.form == "irm":
                rows = self._chosen(len(rows))
            images.append(split.pixels(rows)[:, 0].float() / 255)  # type: ignore[attr-defined]
            digits.append(split.labels[torch.from_numpy(rows)])
        return self._small(torch.cat(images)), torch.cat(digits)

    def _small(self, images: Tensor) -> Tensor:
        return DOWNSAMPLES[self.downsample](images, self.factor)

    def _chosen(self, available: int) -> NDArray[np.int64]:
        """Training images, shuffled, then the test images: the last 10,000 of MNIST's training set."""
        train = 2 * self.train_per_env
        if train + self.test_images > available or self.test_images < 1:
            allowed = f"at most {available} images with 2 * data.train_per_env = {train}, and at least 1"
            raise ConfigError("data.test_size", self.test_images, allowed)
        kept = available - self.test_images if self.source == "digits" else max(available - 10_000, train)
        order = permutation(kept, derive("train images", self.seed))[:train]
        return np.concatenate([order, np.arange(kept, kept + self.test_images)])

    def _two(self, images: Tensor, digits: Tensor) -> list[tuple[str, Split]]:
        if self.source == "digits":
            shuffled = permutation(len(digits), derive("digits", self.seed))
            rows = shuffled[self._chosen(len(digits))]
            images, digits = images[rows], digits[rows]
        train = 2 * self.train_per_env
        positions = [np.arange(0, train, 2), np.arange(1, train, 2)]
        if self.balance != "balanced":
            positions = imbalanced((digits[:train] < 5).numpy(), self.balance, self.share)
        positions += [np.arange(train, len(digits))] * 2
        found = []
        for name, flip, rows, stream in zip(("e0.2", "e0.1", "test", "gray"), (0.2, 0.1, 0.9, 0.9), positions, "0122"):
            repeated = np.repeat(rows, self.repeats) if name.startswith("e") else rows
            seed = derive("colors", self.seed, int(stream))
            found.append((name, _split(*color(images[repeated], digits[repeated], flip, seed, gray=name == "gray"))))
        return found

    def _three(self, images: Tensor, digits: Tensor) -> list[tuple[str, Split]]:
        order = torch.from_numpy(permutation(len(digits), derive("digits", self.seed)))
        images, digits = images[order], digits[order]
        found = []
        for index, (name, flip) in enumerate((("+90%", 0.1), ("+80%", 0.2), ("-90%", 0.9))):
            seed = derive("colors", self.seed, index)
            found.append((name, _split(*color(images[index::3], digits[index::3], flip, seed))))
        return found


def _split(images: Tensor, labels: Tensor) -> Split:
    return Split(TensorSource(images, labels), np.arange(len(labels)), labels)

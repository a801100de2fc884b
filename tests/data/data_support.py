"""Small picture data sets, written to disk in the layouts the data modules read."""

from pathlib import Path

import numpy as np
from PIL import Image


def pictures(count: int, side: int = 6, seed: int = 0) -> list[Image.Image]:
    """Random RGB pictures whose first pixel's red value is their number."""
    values = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    values[:, 0, 0, 0] = np.arange(count)
    return [Image.fromarray(value) for value in values]


def parquet_data_set(root: Path, name: str = "tiny", train: int = 40, test: int | None = 10, classes: int = 4) -> None:
    """``root/name/data/{train,test}-00000-of-00001.parquet`` with columns image and label."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    for seed, (split, count) in enumerate((("train", train), ("test", test))):
        if count is None:
            continue
        labels = [number % classes for number in range(count)]
        table = datasets.Dataset.from_dict({"image": pictures(count, seed=seed), "label": labels}, features=features)
        path = root / name / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(str(path))


def class_folders(folder: Path, classes: list[str], count: int, numbered_from: int = 1, seed: int = 0) -> None:
    """``folder/<class>/ILSVRC_<number>.png``, ``count`` pictures a class."""
    number = numbered_from
    for offset, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for picture in pictures(count, seed=seed + offset):
            picture.save(folder / name / f"ILSVRC_{number:08d}.png")
            number += 1

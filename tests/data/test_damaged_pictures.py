"""Damaged data is an error that names it, before training."""

import pytest
from data_support import class_folders, parquet_data_set

from curvature.data.folders import ImageFolderDataModule
from curvature.data.images import ImageDataModule
from curvature.errors import ConfigError


def build_parquet(root):
    module = ImageDataModule(
        name="tiny",
        root=str(root),
        sources={"train": "train"},
        num_classes=4,
        image_shape=[3, 6, 6],
        batch_size=4,
        val_size=2,
        test_size=2,
        cache_dir=str(root / "cache"),
    )
    module.prepare_data()
    module.setup("fit")


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_a_damaged_parquet_file_is_named(tmp_path, damage):
    parquet_data_set(tmp_path, test=None)
    (path,) = (tmp_path / "tiny").rglob("*.parquet")
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "garbage": bytes(1000), "empty": b""}[damage])
    with pytest.raises(ConfigError, match=r"data_root=.*tiny"):
        build_parquet(tmp_path)


def test_a_damaged_picture_in_a_parquet_file_is_named(tmp_path):
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    parquet_data_set(tmp_path, test=None)
    (path,) = (tmp_path / "tiny").rglob("*.parquet")
    rows = {"image": [{"bytes": b"no picture", "path": None}] * 12, "label": [0, 1, 2, 3] * 3}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))
    with pytest.raises(ConfigError, match=r"data_root='row \d+'.*picture that can be read"):
        build_parquet(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no picture", None], ids=["empty", "text", "cut"])
def test_a_damaged_picture_file_is_named(tmp_path, content):
    for split in ("train", "val"):
        class_folders(tmp_path / "imagenet" / split, ["n01", "n02"], 3)
    damaged = sorted((tmp_path / "imagenet" / "train").rglob("*.png"))
    for path in damaged:
        path.write_bytes(path.read_bytes()[:60] if content is None else content)
    module = ImageFolderDataModule(
        name="imagenet", root=str(tmp_path), num_classes=2, image_shape=[3, 6, 6], batch_size=2, val_size=2
    )
    with pytest.raises(ConfigError, match=r"data_root=.*ILSVRC.*picture that can be read"):
        module.setup("fit")

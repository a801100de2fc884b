"""Images from parquet: splits, subsets, noise and augmentation are functions of their seeds; errors name the layout."""

from functools import partial

import numpy as np
import pytest
import torch
from data_support import parquet_data_set

from curvature.data.augment import CropAndFlip
from curvature.data.corruptions import contrast
from curvature.data.images import ImageDataModule
from curvature.errors import ConfigError

OPTIONS = {"num_classes": 4, "image_shape": [3, 6, 6], "batch_size": 8, "val_size": 8}
TRAIN_AND_TEST = {"train": "train", "test": "test"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("root")
    parquet_data_set(folder)
    return folder


@pytest.fixture
def make(root, tmp_path):
    def build(**options):
        options = OPTIONS | {"name": "tiny", "root": str(root), "sources": TRAIN_AND_TEST} | options
        module = ImageDataModule(cache_dir=str(tmp_path / "cache"), **options)
        module.setup("fit")
        return module

    return build


def numbers(module, split):
    """The pictures' numbers, which their first red value holds."""
    (images, _), *rest = module.measurement_batches(len(module.splits[split]), split)
    assert not rest
    return (images[:, 0, 0, 0] * 127.5 + 127.5).round().int().tolist()


def batches(module, epochs=1):
    module.stream(epochs * (module.train_size // module.batch_size), 0)
    return [(images.clone(), labels.clone()) for images, labels in module.train_dataloader()]


def test_splits_are_disjoint_and_whole(make):
    module = make()
    train, val = numbers(module, "train"), numbers(module, "val")
    assert (module.train_size, module.val_size, module.test_size) == (32, 8, 10)
    assert sorted(train + val) == list(range(40))
    assert (make(val_size=0).train_size, make(val_size=0).val_size) == (40, 0)
    for images, labels in module.measurement_batches(32, "train"):
        assert images.shape == (32, 3, 6, 6) and images.dtype == torch.float32
        assert images.min() >= -1 and images.max() <= 1
        assert labels.tolist() == [number % 4 for number in train]


def test_data_has_its_own_seed(make):
    assert numbers(make(order_seed=0), "train") == numbers(make(order_seed=7), "train")
    assert numbers(make(seed=1), "train") != numbers(make(seed=2), "train")
    first, other = batches(make(order_seed=0)), batches(make(order_seed=7))
    assert not all(torch.equal(a, b) for (a, _), (b, _) in zip(first, other))
    again = batches(make(order_seed=0))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, again))


def test_a_smaller_subset_is_the_beginning_of_a_larger_one(make):
    assert numbers(make(train_size=8), "train") == numbers(make(train_size=16), "train")[:8]
    assert make(train_size=0.25).train_size == 8
    assert numbers(make(train_size=8), "val") == numbers(make(), "val")


def test_label_noise_has_its_own_seed_and_rate(make):
    clean = make().splits["train"].labels
    noisy = make(label_noise=1.0, label_noise_seed=3)
    assert torch.equal(noisy.splits["train"].labels, make(label_noise=1.0, label_noise_seed=3).splits["train"].labels)
    other = make(label_noise=1.0, label_noise_seed=4).splits["train"].labels
    assert not torch.equal(noisy.splits["train"].labels, other)
    changed = (noisy.splits["train"].labels != clean).float().mean()
    assert 0.4 < changed < 1.0, "labels drawn over all four classes differ three times in four"
    assert torch.equal(noisy.splits["val"].labels, make().splits["val"].labels)
    assert torch.equal(make(label_noise=0.0).splits["train"].labels, clean)


@pytest.mark.parametrize("in_memory", [True, False])
def test_augmentation_depends_on_seed_epoch_and_example_alone(make, in_memory):
    from torchvision.transforms import v2

    def module(**options):
        transform = [v2.RandomCrop(6, padding=2), v2.RandomHorizontalFlip()]
        return make(in_memory=in_memory, train_transform=transform, **options)

    torch.manual_seed(1)
    first = batches(module(), epochs=2)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = batches(module(), epochs=2)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], first[4][0]), "another epoch, another augmentation"
    assert not torch.equal(batches(module(order_seed=1))[0][0], first[0][0])


def test_loader_processes_change_nothing(make):
    from torchvision.transforms import v2

    transform = [v2.RandomHorizontalFlip()]
    alone = batches(make(in_memory=False, train_transform=transform))
    helped = batches(make(in_memory=False, train_transform=transform, num_workers=2))
    assert all(torch.equal(a, b) and torch.equal(x, y) for (a, x), (b, y) in zip(alone, helped, strict=True))


def test_crop_and_flip_equals_its_definition():
    images = torch.arange(2 * 3 * 5 * 4, dtype=torch.float32).view(2, 3, 5, 4)
    padding, places = 2, 5
    for seed in range(2 * places**2):
        found = CropAndFlip(padding)(images, np.array([seed, seed]))
        row, column, mirrored = seed % places, seed // places % places, seed // places**2 % 2
        expected = torch.nn.functional.pad(images, [padding] * 4)[:, :, row : row + 5, column : column + 4]
        assert torch.equal(found, expected.flip(-1) if mirrored else expected)


def test_corruptions_are_further_test_loaders(make):
    module = make(corruptions={"half": partial(contrast, factor=0.5), "none": None})
    assert module.test_names == ["clean", "half"]
    clean, corrupted = module.test_dataloader()
    (images, labels), (changed, same) = next(iter(clean)), next(iter(corrupted))
    assert torch.equal(labels, same)
    assert changed.std() < images.std()


def test_pictures_are_resized_and_turned_grey(make):
    module = make(image_shape=[1, 3, 3])
    assert module.measurement_batches(4)[0][0].shape == (4, 1, 3, 3)


@pytest.mark.parametrize(
    ("options", "key", "allowed"),
    [
        ({"name": "absent"}, "data_root", "absent/data/train"),
        ({"root": None}, "data_root", "data.hub"),
        ({"train_size": 33}, "data.train_size", "32"),
        ({"val_size": 40}, "data.val_size", "39"),
        ({"batch_size": 64}, "data.batch_size", "32"),
        ({"image_column": "img"}, "data.image_column", "image"),
        ({"label_column": "image"}, "data.label_column", "integers"),
        ({"num_classes": 3}, "data.num_classes", "label"),
        ({"sources": {"train": "train", "val": "dev"}}, "data.sources.val", "test"),
        ({"label_noise": -0.1}, "data.label_noise", "between 0 and 1"),
    ],
)
def test_what_cannot_work_names_key_and_remedy(make, options, key, allowed):
    with pytest.raises(ConfigError) as error:
        make(**options)
    assert key in str(error.value) and allowed in str(error.value)


def test_damaged_parquet_is_a_clear_error(make, tmp_path):
    parquet_data_set(tmp_path)
    file = next((tmp_path / "tiny" / "data").glob("train*"))
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ConfigError, match="data_root"):
        make(root=str(tmp_path))

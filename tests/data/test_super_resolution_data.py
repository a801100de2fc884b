"""Patches of images in two resolutions: aligned, a function of seed, epoch and position; folders and their mistakes."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from curvature.data.image_pairs import resized
from curvature.data.order import Batch
from curvature.data.super_resolution import COLUMNS, DIV2KDataModule, Patches, PhotographsDataModule
from curvature.errors import ConfigError


def photographs(**options):
    data = PhotographsDataModule(**{"scale": 2, "patch_size": 12, "patches_per_image": 8, "batch_size": 4} | options)
    data.setup()
    return data


def epoch_of(data, epoch=0):
    loader = data.train_loader()
    loader.batch_sampler.set_epoch(epoch)
    return list(loader)


def same(left, right):
    return all(
        torch.equal(a, b) for one, other in zip(left, right, strict=True) for a, b in zip(one, other, strict=True)
    )


def write(folder, name, height, width, seed=0, value=None):
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels if value is None else np.full_like(pixels, value)).save(folder / name)


@pytest.fixture
def root(tmp_path):
    for number in range(3):
        write(tmp_path / "DIV2K" / "DIV2K_train_HR", f"000{number}.png", 40 + number, 50, number)
    write(tmp_path / "DIV2K" / "DIV2K_valid_HR", "0801.png", 31, 33, 7)
    write(tmp_path / "Set14", "baboon.png", 30, 30, 8)
    write(tmp_path / "Set14", "man.png", 24, 28, 9)
    return tmp_path


def div2k(root, **options):
    given = {"scale": 2, "patch_size": 10, "patches_per_image": 4, "batch_size": 4, "test_sets": ["Set14"]}
    data = DIV2KDataModule(str(root), **given | options)
    data.setup()
    return data


@pytest.mark.parametrize("scale", [2, 3])
def test_both_patches_show_the_same_place(scale):
    data = photographs(scale=scale)
    for low, high in epoch_of(data):
        assert low.shape == (4, 3, 12, 12) and high.shape == (4, 3, 12 * scale, 12 * scale)
        assert low.dtype == high.dtype == torch.float32 and float(low.min()) >= 0 and float(high.max()) <= 1
        inside = slice(3, -3)
        lowered = resized(high, (12, 12)).clamp(0, 1)[..., inside, inside]
        assert (lowered - low[..., inside, inside]).abs().max() < 1.6 / 255  # two passes, each rounded


def test_an_epoch_is_a_function_of_seeds_and_its_number():
    first, again = epoch_of(photographs(order_seed=1), 3), epoch_of(photographs(order_seed=1), 3)
    assert same(first, again) and len(first) == 4 * 8 // 4
    for other in (
        (photographs(order_seed=1), 4),
        (photographs(order_seed=2), 3),
        (photographs(order_seed=1, seed=1), 3),
    ):
        assert not same(first, epoch_of(*other))


def test_a_batch_depends_on_its_positions_alone_and_draws_from_no_generator():
    data = photographs()
    patches = Patches(data.train, 8, 12, 2, seed=5)
    state = torch.get_rng_state()
    low, high = patches.__getitems__(Batch(2, np.array([7, 0, 3])))
    assert torch.equal(torch.get_rng_state(), state)
    alone, _ = patches.__getitems__(Batch(2, np.array([3])))
    assert torch.equal(alone[0], low[2]) and len(high) == 3
    assert not torch.equal(patches[3][0], low[2])


def test_patches_come_from_every_place_in_every_symmetry():
    image = torch.arange(16, dtype=torch.uint8).view(1, 4, 4).repeat(3, 1, 1)

    class One(list):
        def low_size(self, index):
            return 4, 4

    pairs = One([(image, image.repeat_interleave(2, -1).repeat_interleave(2, -2))])
    patches = Patches(pairs, 400, 3, 2, seed=0)
    low, _ = patches.__getitems__(Batch(0, np.arange(400)))
    seen = {tuple(patch[0].flatten().tolist()) for patch in low}
    assert len(seen) == 4 * 8
    whole = Patches(pairs, 400, 4, 2, seed=0, symmetric=False)
    assert torch.equal(whole[9][0], image.float() / 255)


def test_workers_change_nothing():
    assert same(epoch_of(photographs()), epoch_of(photographs(num_workers=1)))


def test_measurement_batches_are_fixed_and_not_augmented():
    data = photographs()
    first, second = data.measurement_batches(6, "train", 4)
    assert len(first[0]) == 4 and len(second[0]) == 2
    assert same([first, second], photographs(order_seed=3).measurement_batches(6, "train", 4))
    for count, split in ((0, "train"), (33, "train"), (1, "test")):
        with pytest.raises(ConfigError):
            data.measurement_batches(count, split)


def test_photographs_are_cut_into_disjoint_columns():
    bounds = sorted(bound for bounds in COLUMNS.values() for bound in bounds)
    assert bounds[0][0] == 0 and bounds[-1][1] == 640
    assert all(last == first for (_, last), (first, _) in pairwise(bounds))
    data = photographs()
    assert (data.train_size, data.val_size, data.test_size, data.test_names) == (32, 2, 2, ["china", "flower"])
    (low, high), *_ = data.test_dataloader()[0]
    assert low.shape == (1, 3, 213, 48) and high.shape == (1, 3, 426, 96)


@pytest.mark.parametrize("in_memory", [True, False])
def test_folders_are_read_as_they_are_distributed(root, in_memory):
    data = div2k(root, in_memory=in_memory)
    assert (data.train_size, data.val_size, data.test_size, data.test_names) == (12, 1, 2, ["Set14"])
    assert same(epoch_of(data), epoch_of(div2k(root)))
    ((low, high),) = data.val_dataloader()
    assert low.shape == (1, 3, 15, 16) and high.shape == (1, 3, 30, 32)
    (baboon, man) = data.test_dataloader()[0]
    assert baboon[1].shape == (1, 3, 30, 30) and man[1].shape == (1, 3, 24, 28)


def test_given_low_resolutions_are_used(root):
    for number in range(3):
        folder = root / "DIV2K" / "DIV2K_train_LR_bicubic" / "X2"
        write(folder, f"000{number}x2.png", (40 + number) // 2, 25, value=51 * number)
    write(root / "Set14" / "X2", "baboon.png", 15, 15, value=7)
    write(root / "Set14" / "X2", "man.png", 12, 14, value=8)
    data = div2k(root)
    levels = torch.cat([low.flatten() for low, _ in epoch_of(data)]).unique()
    torch.testing.assert_close(levels, torch.tensor([0.0, 0.2, 0.4]))
    assert [int(low.max() * 255) for low, _ in data.test_dataloader()[0]] == [7, 8]


def test_what_cannot_work_is_said(root):
    for wrong, key in (
        ({"scale": 1}, "scale"), ({"patch_size": 0}, "patch_size"), ({"patches_per_image": 0}, "patches_per_image"),
        ({"batch_size": 0}, "batch_size"), ({"seed": -1}, "seed"), ({"num_workers": -1}, "num_workers"),
        ({"patch_size": 121}, "at most 120"), ({"batch_size": 33}, "batch_size"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=key):
            photographs(**wrong)
    with pytest.raises(ConfigError, match=r"data\.patch_size.*at most 20"):
        div2k(root, patch_size=21)
    with pytest.raises(ConfigError, match=r"data\.test_sets"):
        div2k(root, test_sets=[])
    with pytest.raises(ConfigError, match="DIV2K_train_HR"):
        DIV2KDataModule(None, scale=2, patch_size=8, patches_per_image=1, batch_size=1).setup()
    with pytest.raises(ConfigError, match="Urban100"):
        div2k(root, test_sets=["Set14", "Urban100"])
    (root / "Set14" / "X2").mkdir()
    with pytest.raises(ConfigError, match=r"baboonx2\.png or baboon\.png"):
        div2k(root)
    write(root / "Set14" / "X2", "baboon.png", 14, 15)
    write(root / "Set14" / "X2", "man.png", 12, 14)
    with pytest.raises(ConfigError, match="15 x 15"):
        div2k(root)
    (root / "DIV2K" / "DIV2K_train_HR" / "0001.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match="0001"):
        div2k(root)

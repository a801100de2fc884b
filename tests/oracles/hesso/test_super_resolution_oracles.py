"""Facts in closed form about measuring super-resolution and about lowering a resolution."""

import numpy as np
import pytest
import torch
from PIL import Image

from curvature.data.image_pairs import SYMMETRIES, pair_of, resized, symmetry
from curvature.training.super_resolution import luminance, luminance_psnr


def grey(level, size=12):
    return torch.full((1, 3, size, size), level / 255.0)


@pytest.mark.parametrize(
    ("colour", "expected"),
    [((0, 0, 0), 16.0), ((1, 1, 1), 235.0), ((1, 0, 0), 81.481), ((0, 1, 0), 144.553), ((0, 0, 1), 40.966)],
)
def test_y_of_colours_is_that_of_bt601(colour, expected):
    image = torch.tensor(colour, dtype=torch.float64).view(1, 3, 1, 1)
    assert float(luminance(image)) * 255 == pytest.approx(expected, abs=1e-9)


def test_y_agrees_with_pil_to_a_level():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    full_range = np.array(Image.fromarray(pixels).convert("YCbCr"))[..., 0] / 255.0
    ours = luminance(torch.from_numpy(pixels).permute(2, 0, 1)[None].double() / 255)[0, 0].numpy()
    assert np.abs(ours * 255 - (16 + 219 * full_range)).max() < 0.9


@pytest.mark.parametrize("levels", [1, 7, 40])
def test_psnr_of_a_constant_error_is_its_logarithm(levels):
    error = levels * 219 / 255 / 255
    found = luminance_psnr(grey(100 + levels), grey(100), border=0)
    assert found.shape == (1,)
    assert float(found) == pytest.approx(-20 * np.log10(error), abs=1e-4)


def test_outputs_are_rounded_to_eight_bits_and_clipped():
    assert torch.isinf(luminance_psnr(grey(100.4), grey(100), border=0)).all()
    assert torch.isinf(luminance_psnr(grey(300), grey(255), border=0)).all()
    assert torch.isinf(luminance_psnr(grey(199).bfloat16(), grey(199), border=0)).all()


def test_the_border_alone_is_left_out():
    target, output = grey(100), grey(100)
    output[..., :2] = output[..., -2:, :] = 0.0
    assert torch.isinf(luminance_psnr(output, target, border=2)).all()
    assert torch.isfinite(luminance_psnr(output, target, border=1)).all()


def test_images_of_a_batch_are_measured_apart():
    both = luminance_psnr(torch.cat([grey(101), grey(110)]), torch.cat([grey(100)] * 2), border=2)
    torch.testing.assert_close(both[:1] - both[1:], torch.tensor([20.0], dtype=both.dtype))


def test_resampling_to_the_same_size_changes_nothing():
    image = torch.randint(0, 256, (3, 9, 11), dtype=torch.uint8)
    assert torch.equal(resized(image, (9, 11)), image)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_linear_ramp_stays_linear_and_keeps_its_place(scale):
    size = 16 * scale
    ramp = torch.arange(size, dtype=torch.float64).expand(1, 4 * scale, size)
    low = resized(ramp, (4, 16))
    centres = scale * torch.arange(16, dtype=torch.float64) + (scale - 1) / 2
    inside = slice(2, -2)
    torch.testing.assert_close(low[0, :, inside], centres.expand(4, 16)[:, inside], atol=1e-9, rtol=0)


@pytest.mark.parametrize("scale", [2, 3])
def test_the_low_resolution_is_that_of_pil(scale):
    pixels = np.random.default_rng(1).integers(0, 256, (24, 36, 3), dtype=np.uint8)
    low, high = pair_of(torch.from_numpy(pixels).permute(2, 0, 1), scale)
    theirs = np.array(Image.fromarray(pixels).resize((36 // scale, 24 // scale), Image.Resampling.BICUBIC))
    assert np.abs(low.permute(1, 2, 0).numpy().astype(int) - theirs).max() <= 1
    assert torch.equal(high.permute(1, 2, 0), torch.from_numpy(pixels))


def test_rows_and_columns_that_are_left_over_are_cut_off():
    low, high = pair_of(torch.randint(0, 256, (3, 13, 17), dtype=torch.uint8), 4)
    assert low.shape == (3, 3, 4) and high.shape == (3, 12, 16)


@pytest.mark.parametrize("which", range(SYMMETRIES))
def test_lowering_the_resolution_commutes_with_symmetries(which):
    image = torch.rand(3, 12, 12, dtype=torch.float64)
    torch.testing.assert_close(resized(symmetry(image, which), (6, 6)), symmetry(resized(image, (6, 6)), which))


def test_symmetries_are_eight_different_ones():
    image = torch.arange(9.0).view(1, 3, 3)
    assert len({tuple(symmetry(image, which).flatten().tolist()) for which in range(SYMMETRIES)}) == 8
    assert torch.equal(symmetry(image, 0), image)

"""Transforms on tensors against Pillow and against what they must keep."""

import numpy as np
import pytest
import torch
from PIL import Image

from sparring.data import transforms


@pytest.mark.parametrize(("height", "width", "size"), [(40, 60, 16), (33, 20, 12), (8, 8, 20)])
def test_resize_agrees_with_pillow(height, width, size):
    x = torch.rand(1, height, width, generator=torch.Generator().manual_seed(0))
    ours = transforms.resize(x, size)
    new_width, new_height = (round(side * size / min(height, width)) for side in (width, height))
    theirs = Image.fromarray(x[0].numpy()).resize(
        (new_width, new_height), Image.Resampling.BILINEAR
    )
    assert ours.shape == (1, new_height, new_width)
    np.testing.assert_allclose(ours[0].numpy(), np.asarray(theirs), atol=1e-5)


def test_resize_keeps_what_has_its_size_and_the_range():
    x = torch.rand(2, 3, 10, 14)
    assert transforms.resize(x, 10) is x
    white = transforms.resize(torch.ones(2, 3, 37, 53), 11)
    assert white.shape == (2, 3, 11, 16)
    assert float(white.max()) <= 1
    torch.testing.assert_close(white, torch.ones_like(white))


@pytest.mark.parametrize("size", [(8, 8), (27, 5), (5, 27), (1, 9), (9, 1), (1, 1), (30, 41)])
@pytest.mark.parametrize("resolution", [1, 4, 8, 20])
def test_a_square_is_the_crop_of_the_resized_image(size, resolution):
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    tall, wide = transforms.resized(*size, resolution)
    whole = transforms.resize(x, resolution)
    assert whole.shape == (2, 3, tall, wide)
    for top, left in (
        (0, 0),
        transforms.center(tall, wide, resolution),
        (tall - resolution, wide - resolution),
    ):
        square = transforms.square(x, resolution, top, left)
        crop = transforms.crop(whole, resolution, top, left)
        torch.testing.assert_close(square, crop, atol=2e-6, rtol=0)


@pytest.mark.parametrize("size", [(27, 5), (5, 27), (19, 1), (1, 19)])
def test_a_side_of_one_pixel_is_resized_as_any_other(size):
    """Both sides at once, torch 2.13 repeats the first row all over a column of one pixel."""
    x = torch.rand(1, *size, generator=torch.Generator().manual_seed(0))
    for resolution in (1, 3):
        tall, wide = transforms.resized(*size, resolution)
        theirs = Image.fromarray(x[0].numpy()).resize((wide, tall), Image.Resampling.BILINEAR)
        ours = transforms.resize(x, resolution)[0].numpy()
        np.testing.assert_allclose(ours, np.asarray(theirs).reshape(tall, wide), atol=1e-5)


def test_crops_are_windows_of_the_image():
    x = torch.arange(70.0).view(1, 7, 10)
    assert transforms.center(7, 10, 5) == (1, 2)
    assert torch.equal(transforms.crop(x, 5, 1, 2), x[:, 1:6, 2:7])
    seen = set()
    rng = torch.Generator().manual_seed(0)
    for _ in range(200):
        seen.add(transforms.anywhere(7, 10, 5, rng))
    assert seen == {(top, left) for top in range(3) for left in range(6)}


def test_flip_mirrors_the_rows_below_one_half():
    x = torch.rand(4, 3, 5, 6)
    flipped = transforms.random_flip(x, torch.tensor([0.0, 0.49, 0.5, 0.99]))
    assert torch.equal(flipped[:2], torch.flip(x[:2], [-1]))
    assert torch.equal(flipped[2:], x[2:])


def test_ranges_round_trip():
    x = torch.tensor([0.0, 0.25, 1.0, 1.5])
    assert transforms.to_model_range(x).tolist() == [-1, -0.5, 1, 2]
    assert torch.equal(transforms.from_model_range(transforms.to_model_range(x)), x)
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(transforms.to_uint8(transforms.to_float(pixels)), pixels)
    assert transforms.to_uint8(torch.tensor([-0.3, 1.7, 0.499 / 255])).tolist() == [0, 255, 0]

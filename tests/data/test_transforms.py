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

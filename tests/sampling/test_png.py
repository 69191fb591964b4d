"""Pixels in files are the samples' pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from sparring.sampling.images import grid, save_images


@pytest.mark.parametrize("channels", [1, 3])
def test_png_files_hold_the_rounded_and_clipped_images(tmp_path, channels):
    levels = torch.linspace(-1, 1, 256).reshape(1, 1, 16, 16).expand(2, channels, 16, 16)
    x = levels + torch.tensor([0.0, 0.9 / 255]).reshape(2, 1, 1, 1)  # less than half a level
    paths = save_images(x, tmp_path / "new" / "folder", first=7)
    assert [path.name for path in paths] == ["00007.png", "00008.png"]
    for path in paths:
        pixels = np.asarray(Image.open(path))
        assert pixels.shape == ((16, 16) if channels == 1 else (16, 16, 3))
        expected = np.arange(256).reshape(16, 16)
        assert (pixels == (expected if channels == 1 else expected[:, :, None])).all()
    wild = torch.tensor([-5.0, 5.0]).reshape(1, 1, 1, 2)
    assert np.asarray(Image.open(save_images(wild, tmp_path)[0])).tolist() == [[0, 255]]


def test_grid_places_enlarged_images_row_by_row():
    values = torch.tensor([-1.0, 0.2, 1.0, -0.2, 0.6])
    picture = np.asarray(grid(values.reshape(5, 1, 1, 1).expand(5, 1, 8, 8), n_columns=3))
    side, margin = 64, 2  # 8 pixels enlarged 8 times, a margin of a quarter of that
    assert picture.shape == (2 * (side + margin) + margin, 3 * (side + margin) + margin)
    for i, value in enumerate(values):
        top, left = (margin + k * (side + margin) for k in divmod(i, 3))
        tile = picture[top : top + side, left : left + side]
        assert (tile == round((value.item() + 1) / 2 * 255)).all()
    assert grid(torch.zeros(7, 3, 100, 100)).size == (3 * 101 + 1, 3 * 101 + 1)


def test_grid_keeps_pixels_sharp():
    x = torch.tensor([[-1.0, 1.0], [1.0, -1.0]]).reshape(1, 1, 2, 2)
    picture = np.asarray(grid(x, min_side=8))
    assert (picture[1:9, 1:9] == np.kron([[0, 255], [255, 0]], np.ones((4, 4)))).all()


def test_other_shapes_are_refused(tmp_path):
    for shape in ((2, 4, 8, 8), (2, 8)):
        with pytest.raises(ValueError, match="images must be"):
            save_images(torch.zeros(shape), tmp_path)

"""What is said before anything is decoded: channels, sizes, and what of many was looked at."""

import numpy as np
import pytest
import torch
from PIL import Image

from sparring.data.datasets import build_dataset
from sparring.data.files import decoding, images, source
from sparring.data.files.survey import Survey, common_side, fits
from sparring.support.errors import UserError


def dataset(folder, **fields):
    return build_dataset("image_folder", train_data_dir=str(folder), **fields)


def test_images_smaller_than_the_resolution_are_said(tmp_path, write_image):
    for i in range(38):
        write_image(tmp_path / f"{i}.png", size=(12, 12 + i))
    for i in range(2):
        write_image(tmp_path / f"big{i}.png", size=(90, 70))
    assert dataset(tmp_path, resolution=64).remarks == [
        "38 of 40 images are smaller than 64 pixels (the shortest side is 12) and enlarged to "
        "data.resolution=64"
    ]
    assert dataset(tmp_path, resolution=12).remarks == []


def test_of_many_images_some_are_looked_at_and_that_is_said(tmp_path, write_image, monkeypatch):
    monkeypatch.setattr(source, "N_SURVEYED", 4)
    for i in range(12):
        write_image(tmp_path / f"{i:02}.png", size=(6, 6), mode="L")
    told = dataset(tmp_path, resolution=8).remarks
    assert told == [
        "all 4 images looked at, of 12, are grey, so all are read as grey, and one in colour among "
        "the rest would be left out: set data.n_channels to 1 or 3 to say which",
        "4 of 4 images looked at (there are 12) are smaller than 8 pixels (the shortest side is 6) "
        "and enlarged to data.resolution=8",
    ]
    write_image(tmp_path / "03.png", size=(6, 6))  # among those looked at: every third
    assert dataset(tmp_path).sample_shape[0] == 3
    assert dataset(tmp_path, n_channels=1).remarks == []


def test_colour_that_nobody_looked_at_is_left_out_and_listed(tmp_path, write_image, monkeypatch):
    monkeypatch.setattr(source, "N_SURVEYED", 4)
    for i in range(12):
        write_image(tmp_path / f"{i:02}.png", size=(6, 6), mode="RGB" if i == 4 else "L")
    for hold in (2**20, 0):
        monkeypatch.setattr(images, "HOLD_BYTES", hold)
        batch = dataset(tmp_path).read_all()
        assert batch["x0"].shape == (11, 1, 6, 6)
        assert batch["unreadable"] == [str(tmp_path / "04.png")]
    assert len(dataset(tmp_path, n_channels=1).read_all()["x0"]) == 12


@pytest.mark.parametrize("size", [(1, 8000), (8000, 1)])
def test_an_image_too_long_after_resizing_is_left_out_and_named(tmp_path, write_image, size):
    expected = write_image(tmp_path / "a.png", size=(16, 16))
    write_image(tmp_path / "long.png", size=size)
    data = dataset(tmp_path, resolution=512)
    assert data.remarks[1] == (
        "1 of 2 images is left out, too long: at data.resolution=512 "
        f"{tmp_path / 'long.png'} ({size[1]}x{size[0]}) would have more than 89,478,485 pixels"
    )
    batch = data.read_all()
    assert batch["unreadable"] == [str(tmp_path / "long.png")]
    assert len(batch["x0"]) == 1
    at_16 = dataset(tmp_path, resolution=16).read_all()
    assert at_16["unreadable"] == []
    assert torch.equal(at_16["x0"][0], torch.tensor(expected).permute(2, 0, 1) / 255)
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"no readable image .*long.png \(more than 89,478,485"):
        dataset(tmp_path, resolution=512)


def test_a_long_image_takes_no_more_memory_than_its_square(tmp_path):
    """Enlarged whole it would be 12 x 24,000 x 100 x 4 = 115 MB in every channel."""
    values = np.random.RandomState(0).randint(0, 256, (1, 240), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "long.png")
    shapes = []
    kept = torch.nn.functional.interpolate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.nn.functional, "interpolate", lambda *a, **k: shapes.append(a) or kept(*a, **k)
        )
        x = dataset(tmp_path, resolution=100)[0]["x0"]
    assert shapes == []
    assert x.shape == (1, 100, 100)
    middle = values[0, 119:121].astype(np.float64) / 255  # 100 of 24,000 pixels: these two alone
    place = (np.arange(100) + 11950.5) / 100 - 0.5 - 119
    line = middle[0] * (1 - place) + middle[1] * place
    np.testing.assert_allclose(x[0].numpy(), np.tile(line, (100, 1)), atol=1e-5)


def test_the_limit_counts_pixels_after_resizing(monkeypatch):
    assert fits(8000, 1, 105)
    assert not fits(8000, 1, 106)
    assert not fits(1, 8000, 512)
    assert fits(4000, 3000, 512)
    assert decoding.MAX_PIXELS == 89_478_485


def test_the_common_side_is_not_led_by_an_odd_image():
    sizes = [(40, 50), (60, 44), (50, 50)]
    seen = Survey(3, 3, dict(enumerate(sizes)))
    assert common_side(seen) == 40
    seen.sizes[3] = (1, 8000)
    assert common_side(seen) == 40
    seen.sizes[4] = (6, 6)
    assert common_side(seen) == 6
    assert common_side(Survey(2)) is None


def test_images_of_one_size_that_is_not_square_keep_it(tmp_path, write_image):
    expected = [write_image(tmp_path / f"{i}.png", seed=i, size=(5, 9)) for i in range(3)]
    data = dataset(tmp_path)
    assert data.sample_shape == (3, 5, 9)
    assert torch.equal(
        data.read_all()["x0"], torch.tensor(np.stack(expected)).permute(0, 3, 1, 2) / 255
    )

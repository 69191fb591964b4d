"""Small folders and tables of images made on the spot."""

import numpy as np
import pytest
from PIL import Image

from simple_detectors import Bright, Corner
from sparring.data.audit import registry


@pytest.fixture
def write_image():
    """Writes a random image whose pixels are returned, (H, W) or (H, W, 3), uint8."""

    def write(path, seed=0, size=(8, 8), mode="RGB"):
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (*size, 3) if mode == "RGB" else size
        pixels = np.random.RandomState(seed).randint(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return pixels

    return write


@pytest.fixture
def folder(tmp_path, write_image):
    """Ten grey 8x8 PNG files in class folders cat and dog, and files that are not images."""
    root = tmp_path / "photos"
    for i in range(10):
        write_image(root / ("cat" if i < 6 else "dog") / f"{i}.png", seed=i, mode="L")
    (root / "notes.txt").write_text("not an image")
    (root / ".hidden.png").write_bytes(b"")
    return root


@pytest.fixture
def simple_detectors(monkeypatch):
    """Bright and Corner in place of all others."""
    found = {"bright": Bright(), "corner": Corner()}
    monkeypatch.setattr(registry, "all_detectors", lambda: found)
    return found

"""Samples as files: 8-bit PNG images and a grid to look at."""

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor


def to_bytes(x: Tensor) -> np.ndarray:
    """Images (B, 1 or 3, H, W) in [-1, 1] as bytes: clip((x + 1) / 2, 0, 1), rounded to 8 bits.
    (B, H, W, 3) or, for one channel, (B, H, W), uint8. Raises ValueError for another shape."""
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"images must be (B, 1 or 3, H, W), got {tuple(x.shape)}")
    bytes_ = ((x.detach().float().cpu() + 1) / 2).clamp(0, 1).mul(255).round().byte()
    return bytes_[:, 0].numpy() if x.shape[1] == 1 else bytes_.permute(0, 2, 3, 1).numpy()


def save_images(x: Tensor, folder: str | Path, first: int = 0) -> list[Path]:
    """Write images, see `to_bytes`, as PNG files 00000.png, 00001.png, ... from `first` on."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{first + i:05d}.png" for i in range(len(x))]
    for path, pixels in zip(paths, to_bytes(x), strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def grid(x: Tensor, n_columns: int | None = None, min_side: int = 64) -> Image.Image:
    """Images, see `to_bytes`, row by row with a margin; about as many rows as columns by default.
    Those with a side below min_side pixels are enlarged by a whole factor without smoothing."""
    pixels = to_bytes(x)
    factor = max(1, -(-min_side // min(pixels.shape[1:3])))
    pixels = pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    n, height, width = pixels.shape[:3]
    columns = min(n, n_columns or int(np.ceil(np.sqrt(n))))
    n_rows = -(-n // columns)
    margin = max(1, factor // 4)
    shape = (n_rows * (height + margin) + margin, columns * (width + margin) + margin)
    canvas = np.full((*shape, *pixels.shape[3:]), 128, dtype=np.uint8)
    for i, image in enumerate(pixels):
        row, column = divmod(i, columns)
        top, left = margin + row * (height + margin), margin + column * (width + margin)
        canvas[top : top + height, left : left + width] = image
    return Image.fromarray(canvas)

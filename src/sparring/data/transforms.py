"""What is done to image tensors, (C, H, W) or (B, C, H, W): resize, crop, flip, ranges."""

import torch
from torch import Tensor
from torch.nn import functional as F


def resize(x: Tensor, resolution: int) -> Tensor:
    """Images in [0, 1], (..., H, W), whose shorter side gets `resolution` pixels, proportions kept:
    bilinear with antialiasing, the same as Pillow's; shrinking averages instead of skipping pixels.
    """
    height, width = x.shape[-2:]
    if min(height, width) == resolution:
        return x
    tall, wide = resized(height, width, resolution)
    out = x if x.ndim == 4 else x[None]
    # Columns and rows one after the other, each along the last axis: along the one before it,
    # torch 2.13 repeats the first row where the last axis has one pixel.
    for length in (wide, tall):
        size = (out.shape[-2], length)
        out = F.interpolate(out, size, mode="bilinear", align_corners=False, antialias=True)
        out = out.transpose(-1, -2).contiguous()
    out = out.clamp(0, 1)  # the weights sum to 1 up to rounding only
    return out if x.ndim == 4 else out[0]


def resized(height: int, width: int, resolution: int) -> tuple[int, int]:
    """Height and width that `resize` gives: the shorter one is `resolution`."""
    shorter = min(height, width)
    return round(height * resolution / shorter), round(width * resolution / shorter)


def center(height: int, width: int, resolution: int) -> tuple[int, int]:
    """(top, left) of the middle square of `resolution` pixels."""
    return (height - resolution) // 2, (width - resolution) // 2


def anywhere(height: int, width: int, resolution: int, rng: torch.Generator) -> tuple[int, int]:
    """(top, left) of a square of `resolution` pixels, each equally likely, drawn from `rng`."""
    top = int(torch.randint(height - resolution + 1, (), generator=rng))
    left = int(torch.randint(width - resolution + 1, (), generator=rng))
    return top, left


def crop(x: Tensor, resolution: int, top: int, left: int) -> Tensor:
    """The square of `resolution` pixels from (top, left) on: (..., resolution, resolution)."""
    return x[..., top : top + resolution, left : left + resolution]


def square(x: Tensor, resolution: int, top: int, left: int) -> Tensor:
    """crop(resize(x, resolution), resolution, top, left), and only what is kept is enlarged: so the
    memory is that of the square, however long a small image would get."""
    height, width = x.shape[-2:]
    if min(height, width) >= resolution:
        return crop(resize(x, resolution), resolution, top, left)
    tall, wide = resized(height, width, resolution)
    rows = _enlarged(x, -2, tall, top, resolution)
    return _enlarged(rows, -1, wide, left, resolution).clamp(0, 1)


def _enlarged(x: Tensor, axis: int, n: int, start: int, length: int) -> Tensor:
    """Pixels start to start + length - 1 of an axis that is enlarged to n, bilinearly. Pixel i of n
    lies at (i + 1/2) size / n - 1/2 of the image, between two of its pixels, whose weights are 1
    minus the distance; beyond the last pixel's middle there is that pixel alone."""
    size = x.shape[axis]
    place = (torch.arange(start, start + length, dtype=torch.float64) + 0.5) * size / n - 0.5
    place = place.clamp(0, size - 1)
    before = place.floor().long()
    after = (before + 1).clamp(max=size - 1)
    shape = [-1, 1] if axis == -2 else [-1]
    weight = (place - before).to(x.dtype).view(shape)
    return torch.lerp(x.index_select(axis, before), x.index_select(axis, after), weight)


def random_flip(x: Tensor, u: Tensor) -> Tensor:
    """Images (B, C, H, W), mirrored left to right where u (B,), uniform in [0, 1), is below 1/2."""
    return torch.where((u < 0.5).view(-1, 1, 1, 1), x.flip(-1), x)


def to_model_range(x: Tensor) -> Tensor:
    """2 x - 1: images of [0, 1] to [-1, 1], any shape."""
    return 2 * x - 1


def from_model_range(x: Tensor) -> Tensor:
    """(x + 1) / 2: images of [-1, 1] to [0, 1], any shape; not clipped."""
    return (x + 1) / 2


def to_float(x: Tensor) -> Tensor:
    """Pixels 0..255 (uint8) to [0, 1] (float32); floats stay as they are."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


def to_uint8(x: Tensor) -> Tensor:
    """Images of [0, 1] to the nearest of 0..255 (uint8), clipped; any shape."""
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)

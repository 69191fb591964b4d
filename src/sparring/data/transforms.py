"""What is done to image tensors, (C, H, W) or (B, C, H, W): resize, crop, flip, ranges."""

import torch
from torch import Tensor
from torch.nn import functional as F


def resize(x: Tensor, resolution: int) -> Tensor:
    """Resize so that the shorter side has `resolution` pixels; the other keeps the proportion.

    Bilinear with antialiasing, the same as Pillow's: shrinking averages instead of skipping pixels.

    Args:
        x: Images in [0, 1], shape (C, H, W) or (B, C, H, W), float.
        resolution: Pixels of the shorter side.

    Returns:
        Images in [0, 1], shape (..., h, w) with min(h, w) = resolution.
    """
    height, width = x.shape[-2:]
    shorter = min(height, width)
    if shorter == resolution:
        return x
    size = [round(height * resolution / shorter), round(width * resolution / shorter)]
    batched = x if x.ndim == 4 else x[None]
    out = F.interpolate(batched, size, mode="bilinear", align_corners=False, antialias=True)
    out = out.clamp(0, 1)  # the weights sum to 1 up to rounding only
    return out if x.ndim == 4 else out[0]


def center(x: Tensor, resolution: int) -> tuple[int, int]:
    """(top, left) of the middle square of `resolution` pixels."""
    height, width = x.shape[-2:]
    return (height - resolution) // 2, (width - resolution) // 2


def anywhere(x: Tensor, resolution: int, rng: torch.Generator) -> tuple[int, int]:
    """(top, left) of a square of `resolution` pixels, each equally likely, drawn from `rng`."""
    height, width = x.shape[-2:]
    top = int(torch.randint(height - resolution + 1, (), generator=rng))
    left = int(torch.randint(width - resolution + 1, (), generator=rng))
    return top, left


def crop(x: Tensor, resolution: int, top: int, left: int) -> Tensor:
    """The square of `resolution` pixels from (top, left) on: (..., resolution, resolution)."""
    return x[..., top : top + resolution, left : left + resolution]


def random_flip(x: Tensor, u: Tensor) -> Tensor:
    """Mirror half of the images, left to right: those with u < 1/2.

    Args:
        x: Images, shape (B, C, H, W), any range.
        u: Uniform numbers in [0, 1), shape (B,), drawn by the caller.

    Returns:
        Images, shape (B, C, H, W).
    """
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

"""Leftover noise of images: what is left in pixels that are empty in clean images.

Digits, letters and drawings have a margin that is exactly 0 in nearly every clean image. Whatever a
model puts there is noise it learned from dirty data, and needs no features to be measured.
"""

from __future__ import annotations

import torch
from torch import Tensor

EMPTY_SHARE = 0.97


def empty_pixel_rms(
    samples01: Tensor, reference01: Tensor, share: float = EMPTY_SHARE
) -> float | None:
    """Root mean square of samples in the pixels that are 0 in at least `share` of the reference.

    Args:
        samples01: Samples (N, C, H, W) on the [0, 1] scale, before rounding to 8 bits and without
            clipping: the noise below 0 counts too.
        reference01: Clean images (M, C, H, W) in [0, 1].
        share: Share of the reference's images in which a pixel must be exactly 0, in (0, 1].

    Returns:
        The rms on the [0, 1] scale, or None where the data have no such pixel.

    Source: ours.
    """
    return rms_in(samples01, (reference01 == 0).double().mean(0) >= share)


def rms_in(samples01: Tensor, pixels: Tensor) -> float | None:
    """Root mean square of samples (N, C, H, W) in the pixels (C, H, W) that are true, or None."""
    if samples01.shape[1:] != pixels.shape:
        raise ValueError(
            f"samples have shape {tuple(samples01.shape[1:])}, reference {tuple(pixels.shape)}"
        )
    if not pixels.any():
        return None
    return rms_of(squares_in(samples01, pixels), int(pixels.sum()))


def squares_in(samples01: Tensor, pixels: Tensor) -> Tensor:
    """Sum of squares of each sample (N, C, H, W) in the pixels (C, H, W) that are true, (N,)."""
    return samples01[:, pixels].double().square().sum(1)


def rms_of(squares: Tensor, n_pixels: int) -> float:
    """Root mean square of all samples from their sums of squares (N,) over n_pixels >= 1."""
    return (squares.mean() / n_pixels).sqrt().item()


def count_empty(images01: Tensor) -> Tensor:
    """The number of images (N, C, H, W) in which each pixel is exactly 0, shape (C, H, W)."""
    return (images01 == 0).sum(0, dtype=torch.long)

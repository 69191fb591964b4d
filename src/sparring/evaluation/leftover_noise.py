r"""Leftover noise of images: what a model puts where clean images have nothing, or hardly anything.

Digits, letters and drawings have a margin that is exactly 0 in nearly every clean image. Whatever a
model puts there is noise it learned from dirty data, and needs no features to be measured.

All images have directions in which they vary little, and noise varies in all alike. With u_j the m
principal directions of least variance of clean images (of patches of large ones),

    quiet_rms = sqrt(mean over samples, patches and j of <x - mean, u_j>^2),

the noise's standard deviation and the little that clean images have there, which stands beside it.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from ..data.base import Dataset
from .store.quiet_directions import chunk_size, quiet_directions

EMPTY_SHARE = 0.97
MAX_QUIET_IMAGES = 2000
"""Clean images whose own rms in the quiet directions is taken."""


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


class Quiet:
    """The directions in which clean images vary least, from one half of them.

    Args:
        dataset: Clean images in [0, 1].
        seed: Of the division in halves.

    Source: ours; the directions as in `quiet`.
    """

    def __init__(self, dataset: Dataset, seed: int = 0) -> None:
        self.dataset, self.quiet = dataset, quiet_directions(dataset, seed)

    def squares(self, images01: Tensor) -> Tensor | None:
        """Mean square of each image (N, C, H, W) there, (N,); None: the clean images are too few.

        Not clipped and not rounded, as in `empty_pixel_rms`.
        """
        return None if self.quiet is None else self.quiet.squares(images01)

    @cached_property
    def rms_of_clean(self) -> float | None:
        """What clean images of the other half have there."""
        if self.quiet is None:
            return None
        found = [
            self.quiet.squares(self.dataset.__getitems__(chunk.tolist())["x0"])
            for chunk in self.quiet.others[:MAX_QUIET_IMAGES].split(chunk_size(self.dataset))
        ]
        return torch.cat(found).mean().sqrt().item()

"""Leftover noise in the pixels that are 0 in nearly every clean image.

Digits, letters and drawings have an empty margin. Whatever a model puts there is noise it learned
from dirty data, and needs no features to be measured. Source: ours.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .base import Batch, Comparison, Figure, Metric


class EmptyPixels(Metric):
    """null of data that have no such pixel."""

    looks_at = "images"
    place = 100
    figures = (
        Figure(
            "empty_pixel_rms", "Leftover noise", "rms in empty pixels", "[0, 1] scale",
            better="lower", drawn=2, is_noise=True,
        ),
        Figure("n_empty_pixels", "Pixels counted as empty", "where leftover noise is read"),
    )  # fmt: skip

    def look(self, batch: Batch) -> dict[str, Tensor]:
        return {"squares": _squares(batch.x0, batch.against.reference.empty_pixels)}

    def measure(self, seen: Mapping[str, Tensor], against: Comparison) -> dict[str, Any]:
        n_empty = int(against.reference.empty_pixels.sum())
        rms = _rms(seen["squares"], n_empty)
        return {"empty_pixel_rms": rms, "n_empty_pixels": n_empty}


def empty_pixel_rms(samples01: Tensor, empty: Tensor) -> float | None:
    """Root mean square of samples in the empty pixels, [0, 1] scale, or None where there is none.

    Args:
        samples01: Samples (N, C, H, W) on the [0, 1] scale, before rounding to 8 bits and without
            clipping: the noise below 0 counts too.
        empty: Which pixels (C, H, W) are, see `Reference.empty_pixels`.
    """
    if samples01.shape[1:] != empty.shape:
        raise ValueError(
            f"samples have shape {tuple(samples01.shape[1:])}, reference {tuple(empty.shape)}"
        )
    return _rms(_squares(samples01, empty), int(empty.sum()))


def _squares(samples01: Tensor, pixels: Tensor) -> Tensor:
    """Sum of squares of each sample (N, C, H, W) in the pixels (C, H, W) that are true, (N,)."""
    return samples01[:, pixels].double().square().sum(1)


def _rms(squares: Tensor, n_pixels: int) -> float | None:
    return (squares.mean() / n_pixels).sqrt().item() if n_pixels else None

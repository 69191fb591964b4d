r"""Leftover noise: in pixels that are empty, and in directions in which clean images hardly vary.

Digits, letters and drawings have a margin that is 0 in nearly every clean image. Whatever a model
puts there is noise it learned from dirty data. Of any images

    quiet_rms = sqrt(mean over samples, patches and j of <x - mean, u_j>^2),

where u_j are the principal directions of least variance of clean images; noise varies in all alike.
The figure is the noise's standard deviation and the little that clean images have there, which
stands beside it. Neither needs features, and nothing is clipped or rounded. Source: ours; see
quiet_directions.py.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .base import Batch, Comparison, Figure, Metric


class EmptyPixels(Metric):
    """null of data that have no such pixel."""

    looks_at, place = "images", 100
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
    """Root mean square of samples (N, C, H, W) in the empty pixels (C, H, W), None without any.
    On the [0, 1] scale, neither rounded to 8 bits nor clipped: noise below 0 counts too."""
    if samples01.shape[1:] != empty.shape:
        shapes = f"{tuple(samples01.shape[1:])}, reference {tuple(empty.shape)}"
        raise ValueError(f"samples have shape {shapes}")
    return _rms(_squares(samples01, empty), int(empty.sum()))


def _squares(samples01: Tensor, pixels: Tensor) -> Tensor:
    return samples01[:, pixels].double().square().sum(1)


def _rms(squares: Tensor, n_pixels: int) -> float | None:
    return (squares.mean() / n_pixels).sqrt().item() if n_pixels else None


class Quiet(Metric):
    """Left out where clean images are too few."""

    looks_at, place = "images", 110
    figures = (
        Figure(
            "quiet_rms", "Noise in quiet directions", "rms where clean images vary least",
            better="lower", is_noise=True,
        ),
    )  # fmt: skip

    def look(self, batch: Batch) -> dict[str, Tensor]:
        quiet = batch.against.reference.quiet
        return {} if quiet is None else {"quiet_squares": quiet.squares(batch.x0)}

    def measure(self, seen: Mapping[str, Tensor], against: Comparison) -> dict[str, Any]:
        if "quiet_squares" not in seen:
            return {}
        rms = seen["quiet_squares"].mean().sqrt().item()
        return {"quiet_rms": rms, "quiet_rms_of_clean": against.reference.quiet_rms_of_clean}

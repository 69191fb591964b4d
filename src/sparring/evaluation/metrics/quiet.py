r"""Leftover noise of any images, in the directions in which clean images hardly vary.

    quiet_rms = sqrt(mean over samples, patches and j of <x - mean, u_j>^2)

u_j are the principal directions of least variance of clean images; noise varies in all alike. The
figure is the noise's standard deviation and the little that clean images have there, which stands
beside it. Neither clipped nor rounded. Source: ours; see quiet_directions.py.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .base import Batch, Comparison, Figure, Metric


class Quiet(Metric):
    """Left out where clean images are too few."""

    looks_at = "images"
    place = 110
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
        return {
            "quiet_rms": seen["quiet_squares"].mean().sqrt().item(),
            "quiet_rms_of_clean": against.reference.quiet_rms_of_clean,
        }

"""Images out of focus."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ..contract import Corruption, Knowledge
from ..options import Amount, Limits, drawn


@dataclass
class Blur(Corruption):
    """Gaussian blur, the image mirrored at its edges (edge pixels repeated), so its mean is kept.

    Args:
        blur_sigma: Standard deviation of the kernel, pixels; it is cut at 4 standard deviations. A
            number or [low, high].
    """

    blur_sigma: Annotated[Amount, Limits(above=0)] = 1.0

    def apply(self, x: Tensor, rng: torch.Generator, label: int | None) -> Tensor:
        sigma = drawn(self.blur_sigma, rng)
        for axis in (1, 2):
            blurred = torch.zeros_like(x)
            for weight, mirrored in mirrored_kernel(sigma, x.shape[axis]):
                blurred += weight * x.index_select(axis, mirrored)
            x = blurred
        return x

    def knowledge(self, shape: tuple[int, ...], rng: torch.Generator) -> Knowledge:
        return Knowledge(**self.values(rng))


def gaussian_kernel(sigma: float) -> tuple[range, list[float]]:
    """Offsets, and weights that sum to 1, of a Gaussian cut at 4 standard deviations (pixels)."""
    reach = math.ceil(4 * sigma)
    offsets = range(-reach, reach + 1)
    weights = [math.exp(-((k / sigma) ** 2) / 2) for k in offsets]
    total = sum(weights)
    return offsets, [weight / total for weight in weights]


def mirrored_kernel(sigma: float, n: int) -> Iterator[tuple[float, Tensor]]:
    """Each weight, and which of n pixels it is for at each of them, (n,), mirrored at the ends."""
    for k, weight in zip(*gaussian_kernel(sigma), strict=True):
        place = (torch.arange(n) + k) % (2 * n)
        yield weight, torch.minimum(place, 2 * n - 1 - place)

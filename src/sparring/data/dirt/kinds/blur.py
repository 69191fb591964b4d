"""Images out of focus."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..contract import Corruption, Knowledge
from ..kernel import gaussian_kernel
from ..options import Amount, amount, drawn


@dataclass
class Blur(Corruption):
    """Gaussian blur, the image mirrored at its edges (edge pixels repeated), so its mean is kept.

    Args:
        blur_sigma: Standard deviation of the kernel, pixels; it is cut at 4 standard deviations. A
            number or [low, high].
    """

    blur_sigma: Amount = 1.0

    def __post_init__(self) -> None:
        self.blur_sigma = amount("blur_sigma", self.blur_sigma, above=0)

    def apply(self, x: Tensor, rng: torch.Generator, label: int | None) -> Tensor:
        offsets, weights = gaussian_kernel(drawn(self.blur_sigma, rng))
        for axis in (1, 2):
            n = x.shape[axis]
            blurred = torch.zeros_like(x)
            for k, weight in zip(offsets, weights, strict=True):
                place = (torch.arange(n) + k) % (2 * n)
                mirrored = torch.minimum(place, 2 * n - 1 - place)
                blurred += weight * x.index_select(axis, mirrored)
            x = blurred
        return x

    def describe(self, shape: tuple[int, ...], rng: torch.Generator) -> dict[str, Any]:
        return {"blur_sigma": drawn(self.blur_sigma, rng)}

    def knowledge(self, shape: tuple[int, ...], rng: torch.Generator) -> Knowledge:
        return Knowledge(blur_sigma=drawn(self.blur_sigma, rng))

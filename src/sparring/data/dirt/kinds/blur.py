"""Images out of focus."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ..contract import Corruption, Knowledge
from ..kernel import gaussian_kernel
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

    def knowledge(self, shape: tuple[int, ...], rng: torch.Generator) -> Knowledge:
        return Knowledge(**self.values(rng))

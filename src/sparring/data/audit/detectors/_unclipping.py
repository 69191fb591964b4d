"""Un-clipping: what an 8-bit file cut off at 0 and at 1 is drawn again."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

SEED = 20411
"""Of the draws; a number that seeds no noise."""


class Ends(NamedTuple):
    """Places of the pixels at 0 and of those at 1, in the flattened images."""

    black: Tensor
    white: Tensor


def ends(y: Tensor) -> Ends:
    """Where images (B, *) may have been cut off."""
    flat = y.flatten()
    return Ends((flat == 0).nonzero()[:, 0], (flat == 1).nonzero()[:, 0])


def unclipped(y: Tensor, at: Ends, mean: Tensor, scale: Tensor, uniform: Tensor) -> Tensor:
    """Images with new values beyond 0 and 1 where they are at 0 and 1.

    A pixel at 0 is a noisy value n <= 0 (Tobit): it is the given quantile of N(mean, scale^2) cut
    off there, and the same at 1 from the other side. Values beyond stay: nothing cut those off.

    Args:
        y: Images, (B, *).
        at: Their `ends`.
        mean: Without noise, as far as is known; broadcasts to y, as the next two.
        scale: Standard deviation of the noise, above 0.
        uniform: Which quantile is drawn, in (0, 1).

    Source: the Tobit model's data augmentation (Chib 1992).
    """
    out = y.flatten().clone()
    mean, scale, uniform = (each.expand_as(y).flatten() for each in (mean, scale, uniform))
    for sign, end, places in ((1.0, 0.0, at.black), (-1.0, 1.0, at.white)):
        m, s, u = sign * (mean[places] - end), scale[places], uniform[places]
        below = torch.special.ndtr(-m / s)
        drawn = (m + s * torch.special.ndtri((u * below).clamp(min=1e-7))).clamp(max=0)
        out[places] = end + sign * drawn
    return out.reshape(y.shape)


@lru_cache(maxsize=8)
def quantiles(shape: tuple[int, ...]) -> Tensor:
    """The same uniform numbers for every image of a shape, so none depends on its batch."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(SEED)).clamp(1e-3, 1 - 1e-3)

"""Un-clipping: what an 8-bit file cut off at 0 and at 1 is drawn again."""

from functools import lru_cache

import torch
from torch import Tensor

SEED = 20411
"""Of the draws; a number that seeds no noise."""


def unclipped(y: Tensor, mean: Tensor, scale: Tensor, uniform: Tensor) -> Tensor:
    """Images with new values beyond 0 and 1 where they are at 0 and 1.

    A pixel at 0 is a noisy value n <= 0 (Tobit): it is the given quantile of N(mean, scale^2) cut
    off there, and the same at 1 from the other side. Values beyond stay: nothing cut those off.

    Args:
        y: Images, (B, *).
        mean: Without noise, as far as is known, (B, *).
        scale: Standard deviation of the noise, above 0; broadcasts to y.
        uniform: Which quantile is drawn, in (0, 1); broadcasts to y.

    Source: the Tobit model's data augmentation (Chib 1992).
    """
    out, scale, uniform = y.clone(), scale.expand_as(y), uniform.expand_as(y)
    for sign, end in ((1.0, 0.0), (-1.0, 1.0)):
        at_end = (y == end).nonzero(as_tuple=True)
        m, s, u = sign * (mean[at_end] - end), scale[at_end], uniform[at_end]
        below = torch.special.ndtr(-m / s)
        drawn = (m + s * torch.special.ndtri((u * below).clamp(min=1e-7))).clamp(max=0)
        out[at_end] = end + sign * drawn
    return out


@lru_cache(maxsize=8)
def quantiles(shape: tuple[int, ...]) -> Tensor:
    """The same uniform numbers for every image of a shape, so none depends on its batch."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(SEED)).clamp(1e-3, 1 - 1e-3)

r"""The size of a perturbation in other words: sample or noise units, per element or per image.

    delta = sigma_t omega                delta, which moves x_t, is in sample units, omega in noise
    ||delta||_2 = sqrt(d) rms(delta)     units; the length over d elements, and the size of each

So a length of 0.1 is 0.0018 per element of 3x32x32 and 0.0125 of 1x8x8, and 0.0125 in sample units
is 0.0125 in noise units where x_t is all noise, and more than the noise where sigma_t is 0.01.
"""

from typing import Literal

import torch
from torch import Tensor

Units = Literal["sample", "noise"]
Per = Literal["element", "image"]


def size_in(
    to: Units, size: float, like: Tensor, sigma_t: Tensor, *, units: Units, per: Per = "element"
) -> Tensor:
    """A radius, or the length of a step, per element in units `to`, (B,).

    Args:
        to: The units that are wanted.
        size: The size, in `units`: per element (an L2 ball's rms, a cube's half side) or, per
            image, the Euclidean length.
        like: What is perturbed, (B, *).
        sigma_t: Noise scale of its rows, (B, ...).
        units, per: What `size` is stated in.
    """
    element = size / like[0].numel() ** 0.5 if per == "image" else size
    sizes = torch.full((len(like),), element, dtype=like.dtype, device=like.device)
    if units == to:
        return sizes
    sigma_t = sigma_t.flatten().to(like)
    return sizes * sigma_t if to == "sample" else sizes / sigma_t

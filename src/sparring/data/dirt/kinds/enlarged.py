"""Thumbnails that were enlarged."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..contract import Corruption, Knowledge
from ..options import Amount, Limits, drawn


@dataclass
class Enlarged(Corruption):
    """Shrunk by a factor, then enlarged back to its size, by Pillow in 32-bit floats.

    Each side of the small image is the side divided by the factor, rounded, at least one pixel.

    Args:
        factor: 1 or more; a number or [low, high].
        filter: Pillow's name of it, both ways.
    """

    factor: Annotated[Amount, Limits(at_least=1)] = 2.0
    filter: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = "bicubic"

    def apply(self, x: Tensor, rng: torch.Generator, label: int | None) -> Tensor:
        small = self._small(tuple(x.shape), rng)
        resampling = Image.Resampling[self.filter.upper()]
        channels = []
        for channel in map(Image.fromarray, x.float().numpy()):
            shrunk = channel.resize(small, resampling)
            channels.append(np.array(shrunk.resize(channel.size, resampling)))
        return torch.from_numpy(np.stack(channels)).to(x.dtype)

    def describe(self, shape: tuple[int, ...], rng: torch.Generator) -> dict[str, Any]:
        width, height = self._small(shape, rng)
        return {"shrunk_to": [height, width], "filter": self.filter}

    def knowledge(self, shape: tuple[int, ...], rng: torch.Generator) -> Knowledge:
        """The blur that halves what the small image could just hold, for the sides' mean factor."""
        width, height = self._small(shape, rng)
        factor = (shape[1] / height + shape[2] / width) / 2
        return Knowledge(blur_sigma=width_of(factor) if factor > 1 else 0.0)

    def _small(self, shape: tuple[int, ...], rng: torch.Generator) -> tuple[int, int]:
        """Width and height of the small image, pixels."""
        factor = drawn(self.factor, rng)
        height, width = (max(1, round(side / factor)) for side in shape[1:])
        return width, height


def width_of(factor: float) -> float:
    """The blur that halves the frequency at which an enlargement by this factor ends, pixels.

    exp(-s^2 w^2 / 2) = 1/2  at  w = pi / factor
    """
    return factor * math.sqrt(2 * math.log(2)) / math.pi

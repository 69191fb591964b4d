"""White Gaussian noise."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ..contract import Corruption, Knowledge
from ..options import Amount, Limits, drawn


@dataclass
class Gaussian(Corruption):
    """x + sigma n, n ~ N(0, I).

    Args:
        sigma: Standard deviation, on the [0, 1] scale of images, in data units of vectors; a number
            or [low, high].
    """

    images_only = False
    sigma: Annotated[Amount, Limits(at_least=0)] = 0.1

    def apply(self, x: Tensor, rng: torch.Generator, label: int | None) -> Tensor:
        sigma = drawn(self.sigma, rng)
        return x + sigma * torch.randn(x.shape, generator=rng)

    def knowledge(self, shape: tuple[int, ...], rng: torch.Generator) -> Knowledge:
        return Knowledge(**self.values(rng))

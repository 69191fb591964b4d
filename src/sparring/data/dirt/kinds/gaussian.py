"""White Gaussian noise."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..contract import Corruption, Knowledge
from ..options import Amount, amount, drawn


@dataclass
class Gaussian(Corruption):
    """x + sigma n, n ~ N(0, I).

    Args:
        sigma: Standard deviation, on the [0, 1] scale of images, in data units of vectors; a number
            or [low, high].
    """

    images_only = False
    sigma: Amount = 0.1

    def __post_init__(self) -> None:
        self.sigma = amount("sigma", self.sigma, at_least=0)

    def apply(self, x: Tensor, rng: torch.Generator, label: int | None) -> Tensor:
        sigma = drawn(self.sigma, rng)
        return x + sigma * torch.randn(x.shape, generator=rng)

    def describe(self, shape: tuple[int, ...], rng: torch.Generator) -> dict[str, Any]:
        return {"sigma": drawn(self.sigma, rng)}

    def knowledge(self, shape: tuple[int, ...], rng: torch.Generator) -> Knowledge:
        return Knowledge(sigma=drawn(self.sigma, rng))

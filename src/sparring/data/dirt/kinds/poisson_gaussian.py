"""The noise of a camera's sensor: that of the light, and that of the electronics."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ..contract import Corruption, Knowledge
from ..options import Amount, Limits, drawn


@dataclass
class PoissonGaussian(Corruption):
    """Poisson(photons x) / photons + sigma n, n ~ N(0, I).

    The mean is x and the variance x / photons + sigma^2: bright pixels are noisier. Values below 0
    send no light.

    Args:
        photons: How many a white pixel receives on average; a number or [low, high].
        sigma: Standard deviation of the electronics' noise, [0, 1] scale; a number or [low, high].
    """

    photons: Annotated[Amount, Limits(above=0, at_most=1e6)] = 30.0
    sigma: Annotated[Amount, Limits(at_least=0)] = 0.05

    def apply(self, x: Tensor, rng: torch.Generator, label: int | None) -> Tensor:
        photons, sigma = drawn(self.photons, rng), drawn(self.sigma, rng)
        light = torch.poisson(photons * x.double().clamp(min=0), generator=rng) / photons
        return light.to(x.dtype) + sigma * torch.randn(x.shape, generator=rng)

    def knowledge(self, shape: tuple[int, ...], rng: torch.Generator) -> Knowledge:
        photons, sigma = drawn(self.photons, rng), drawn(self.sigma, rng)
        return Knowledge(sigma=sigma, slope=1 / photons)

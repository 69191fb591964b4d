"""Noise whose neighbouring pixels are alike, as after demosaicing, resizing or compression."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ..contract import Corruption, Knowledge
from ..options import Amount, Limits, drawn
from .blur import gaussian_kernel


@dataclass
class Correlated(Corruption):
    r"""x + sigma (w * n), n ~ N(0, I): white noise blurred by a Gaussian of `correlation` pixels.

    The blur goes around the edges, so the noise has one law at every pixel and its covariance is
    diagonal after a Fourier transform, with the spectrum |w_hat|^2. On each axis the kernel, folded
    to the side's length, is divided by the root of its sum of squares, which is the mean of that
    axis's spectrum: so the variance is sigma^2 at every pixel, in expectation and exactly. (Noise
    rescaled to a deviation of sigma in each image would not have that spectrum.) Pixels d apart
    along an axis correlate by sum_k w_k w_{k+d}, about exp(-d^2 / (4 correlation^2)). Colour
    channels are independent.

    Args:
        sigma: Standard deviation, [0, 1] scale; a number or [low, high].
        correlation: Standard deviation of the kernel, pixels; a number or [low, high].
    """

    sigma: Annotated[Amount, Limits(at_least=0)] = 0.1
    correlation: Annotated[Amount, Limits(above=0)] = 1.0

    def apply(self, x: Tensor, rng: torch.Generator, label: int | None) -> Tensor:
        sigma, correlation = drawn(self.sigma, rng), drawn(self.correlation, rng)
        noise = torch.randn(x.shape, generator=rng)
        for axis in (1, 2):
            blurred = torch.zeros_like(noise)
            for shift, weight in folded_kernel(correlation, x.shape[axis]).items():
                blurred += weight * noise.roll(shift, axis)
            noise = blurred
        return x + sigma * noise

    def knowledge(self, shape: tuple[int, ...], rng: torch.Generator) -> Knowledge:
        return Knowledge(**self.values(rng))


def folded_kernel(correlation: float, side: int) -> dict[int, float]:
    """Shift in 0..side-1 -> weight of a periodic blur that keeps the variance of white noise."""
    folded: dict[int, float] = {}
    for offset, weight in zip(*gaussian_kernel(correlation), strict=True):
        folded[offset % side] = folded.get(offset % side, 0.0) + weight
    norm = sum(weight**2 for weight in folded.values()) ** 0.5
    return {shift: weight / norm for shift, weight in folded.items()}

"""Where a set of small images varies least, and what covariance its noise may have there.

B, z, texture and the laws are those of `_small_noise`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...dirt.kinds.correlated import folded_kernel

SHARE = 4  # a quarter of the directions is quiet
CAP = 0.05
"""Of the median noise's variance: what it adds to an image's own where the image is weighed."""
SMALLEST = 1 / 255 / math.sqrt(12)  # rounding to 8 bits
CORRELATIONS = tuple(0.4 + 0.05 * i for i in range(17))
RATIOS = tuple(2.0 ** (i / 2) for i in range(2, 13))


@dataclass(frozen=True)
class NoiseLaw:
    """What the covariance of the set's noise is like."""

    kind: str = "gaussian"
    ratio: float = 0.0
    correlation: float = 0.0

    def covariance(self, mean: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Sigma (k, k) of images (C, H, W), k = C H W, around their mean (k,)."""
        if self.kind == "poisson_gaussian":
            return (1 + self.ratio * mean.clamp(0, 1)).diag()
        if self.kind == "gaussian":
            return torch.eye(len(mean), dtype=mean.dtype)
        axes = [torch.eye(shape[0]), *(_circulant(self.correlation, side) for side in shape[1:])]
        return torch.kron(torch.kron(axes[0], axes[1]), axes[2]).to(mean)


WHITE = NoiseLaw()


def laws() -> list[NoiseLaw]:
    """Those among which the set's is looked for."""
    poisson = [NoiseLaw("poisson_gaussian", ratio=ratio) for ratio in RATIOS]
    return [WHITE, *poisson, *(NoiseLaw("correlated", correlation=one) for one in CORRELATIONS)]


def _circulant(correlation: float, side: int) -> Tensor:
    """Covariance (side, side) along an axis of unit noise of this correlation."""
    kernel = torch.zeros(side, dtype=torch.float64)
    for shift, weight in folded_kernel(correlation, side).items():
        kernel[shift] = weight
    by_lag = torch.stack([(kernel * kernel.roll(lag)).sum() for lag in range(side)])
    place = torch.arange(side)
    return by_lag[(place[:, None] - place) % side]


def whitening(covariance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """(B, var): B noise B^T = I and B covariance B^T = diag(var), var rising; (k, k) and (k,)."""
    inverse = torch.linalg.inv(root_of(noise))
    var, vectors = torch.linalg.eigh(inverse @ covariance @ inverse.T)
    return vectors.T @ inverse, var


def n_quiet(k: int) -> int:
    """How many of k directions are quiet."""
    return max(2, k // SHARE)


@dataclass(frozen=True)
class Directions:
    """Of one half of the set."""

    mean: Tensor  # of the images, (k,)
    across: Tensor  # B, (k, k), the quietest direction first
    variance: Tensor  # of un-clipped images in each direction, (k,)
    texture: Tensor  # of these without noise, (k,)

    def coordinates(self, z: Tensor) -> Tensor:
        """w of un-clipped images (B, k), (B, k)."""
        return (z - self.mean) @ self.across.T


Halves = tuple[Directions, Directions]


def directions(z: Tensor, noise: Tensor, law: NoiseLaw, shape: tuple[int, ...]) -> Directions:
    """Of un-clipped images (n, k); those of less noise, (n,), count for more. An image's weight is
    1 / (its noise's variance + a part of the median one)."""
    variance = noise.square()
    weights = 1 / (variance + CAP * variance.median() + SMALLEST**2)
    weights = (weights / weights.sum())[:, None]
    mean = (weights * z).sum(0)
    across, var = whitening((weights * (z - mean)).T @ (z - mean), law.covariance(mean, shape))
    texture = var - var[: n_quiet(len(var))].mean()
    return Directions(mean, across, var, texture.clamp(min=SMALLEST**2))


def unlikeness(variances: Tensor, m: int | None = None) -> float:
    """ln of the arithmetic mean over the geometric one of the first m, the quiet ones, of (k,)."""
    quiet = variances[: m or n_quiet(len(variances))].clamp(min=SMALLEST**2)
    return float(quiet.mean().log() - quiet.log().mean())


def root_of(noise: Tensor) -> Tensor:
    """L of L L^T = noise and what rounding adds, (k, k)."""
    return torch.linalg.cholesky(noise + SMALLEST**2 * torch.eye(len(noise), dtype=noise.dtype))

r"""Noise of images too small to have windows: it is looked for where the set's images vary least.

A digit of 8x8 pixels is all edges, so nothing in one image tells noise from strokes. But digits
have things in common: the principal directions u_j of least variance hold almost nothing of them,
and of white noise as much as any other,

    e_i = mean over j of <z_i - mean, u_j>^2,   z_i the image, un-clipped (see noise).

The directions come from the half of the set to which an image does not belong (which half that is
follows from its pixels), since a sample's own smallest variances are too small. Un-clipping takes
an image's projection on the directions of most variance for the image without noise; directions,
sizes and un-clipping are found in turn.

Of clean images and of noisy ones ln sqrt(e_i) is normal, and so is ln of the quieter half's root
mean square over the other half's: 0 for noise, below for detail. Only noise of its own size in each
image is told, not its dependence on brightness or its correlation.

Works on the [0, 1] scale. Source: ours; directions after Pyatykh, Hesser and Zheng 2013.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..contract import Columns, Rule, Statistics
from ._unclipping import unclipped

N_ROUNDS, N_STEPS = 4, 40
SHARE = 4
"""A quarter of the directions is quiet, another one loud."""
CAP, LEAST_IMAGES = 0.05, 4
"""Times the number of pixels: of fewer images no noise is found."""
SMALLEST = 1 / 255 / math.sqrt(12)
"""Rounding to 8 bits."""
CLEAN, NOISY = ((-4.0, 1.0), (-0.6, 0.4)), ((-2.0, 0.7), (-0.15, 0.35))
"""Where the two laws start: level and homogeneity, mean and deviation each."""
CLIPPED = 2.2
"""(kurtosis - 1) / 2 of max(n, 0), n ~ N(0, 1): of clipped noise's squares, against 1 of noise."""
WORTH, LEAST_SPREAD, LEAST_RATE = 5.0, 0.2, 0.05


@dataclass(frozen=True)
class Directions:
    """Of one half of the set: mean (k,), quiet and loud directions (k, m), the quietest first."""

    mean: Tensor
    quiet: Tensor
    loud: Tensor

    def squares(self, z: Tensor) -> Tensor:
        """Squares of un-clipped images (B, k) in the quiet directions, (B, m)."""
        return ((z - self.mean) @ self.quiet).square()

    def projected(self, z: Tensor) -> Tensor:
        """Images (B, k) as far as they are in the loud directions, in [0, 1]."""
        return (self.mean + (z - self.mean) @ self.loud @ self.loud.T).clamp(0, 1)


def directions(z: Tensor, noise: Tensor) -> Directions:
    """Principal directions of un-clipped images (n, k); those of less noise, (n,), count for more.

    An image's weight is 1 / (its noise's variance + a quarter of the median one).
    """
    variance = noise.double().square()
    weights = 1 / (variance + CAP * variance.median() + SMALLEST**2)
    weights = (weights / weights.sum())[:, None]
    mean = (weights * z).sum(0)
    _, vectors = torch.linalg.eigh((weights * (z - mean)).T @ (z - mean))
    m = max(2, z.shape[1] // SHARE)
    return Directions(mean.float(), vectors[:, :m].float(), vectors[:, -m:].float())


def side_of(pixels: Tensor) -> Tensor:
    """Which half of the set images (B, k) belong to, by their pixels alone, (B,), 0 or 1."""
    return (255 * pixels).round().long().sum(1) % 2


def own_quantiles(pixels: Tensor) -> Tensor:
    """Uniform numbers that follow from each image (B, k) but are alike in no two, (B, k).

    Numbers alike in all images would make directions of their own. Sums of whole numbers modulo
    a power of 2, so they are exact.
    """
    k, modulus = pixels.shape[1], 2**20
    factors = torch.randint(modulus, (k, k), generator=torch.Generator().manual_seed(0))
    mixed = ((255 * pixels).round().long() @ factors) % modulus
    return ((mixed + 0.5) / modulus).clamp(1e-3, 1 - 1e-3)


def redrawn(pixels: Tensor, z: Tensor, halves: tuple[Directions, Directions]) -> Tensor:
    """Images (B, k) un-clipped once more, with the directions of the other half."""
    out, side, uniform = z.clone(), side_of(pixels), own_quantiles(pixels)
    for own in (0, 1):
        rows, other = side == own, halves[1 - own]
        scale = other.squares(z[rows]).mean(1, keepdim=True).sqrt().clamp(min=SMALLEST)
        out[rows] = unclipped(pixels[rows], other.projected(z[rows]), scale, uniform[rows])
    return out


def levels(pixels: Tensor, z: Tensor, halves: tuple[Directions, Directions]) -> Tensor:
    """ln rms in the quiet directions, and in the quieter half of them over the other, (B, 2)."""
    out, side = torch.zeros(len(z), 2, dtype=torch.float64), side_of(pixels)
    for own in (0, 1):
        squares = halves[1 - own].squares(z[side == own]).double() + SMALLEST**2
        half = squares.shape[1] // 2
        quiet, rest = squares[:, :half].mean(1), squares[:, half:].mean(1)
        out[side == own] = torch.stack([squares.mean(1).log(), (quiet / rest).log()], 1) / 2
    return out


@dataclass(frozen=True)
class SmallNoiseRule(Rule):
    """The mixture of a set of small images.

    Attributes:
        halves: Directions of both halves; None where there are too few images.
        laws: Of clean and of noisy images: mean and deviation of both levels.
        rate: Share of noisy images.
        sizes: Mean and deviation of noisy images' ln rms, un-clipped. What of the deviation is
            chance is taken off each image's own: ln rms of m directions has a variance of
            CLIPPED / (2 m).
    """

    halves: tuple[Directions, Directions] | None
    laws: tuple[tuple[tuple[float, float], ...], ...] = (CLEAN, NOISY)
    rate: float = 0.5
    sizes: tuple[float, float] = NOISY[0]

    def posterior(self, seen: Tensor) -> Tensor:
        """Probability that images of these levels (B, 2) are noisy, (B,)."""
        scores = []
        for laws, weight in zip(self.laws, (1 - self.rate, self.rate), strict=True):
            score = torch.full((len(seen),), math.log(weight + 1e-300), dtype=torch.float64)
            for x, (mean, spread) in zip(seen.unbind(1), laws, strict=True):
                score = score - ((x - mean) / spread).square() / 2 - math.log(spread)
            scores.append(score)
        # more noise than is usual does not make an image clean
        score = torch.where(seen[:, 0] > self.laws[1][0][0], scores[0] - 1e9, scores[0])
        above = torch.stack([score, scores[1]], 1).softmax(1)[:, 1]
        return above * (self.rate > 0)

    def __call__(self, seen: Statistics) -> Columns:
        pixels = seen["noise.pixels"]
        zero = torch.zeros(len(pixels))
        columns = {"gaussian": zero, "poisson_gaussian": zero, "correlated": zero, "sigma": zero}
        columns |= {"slope": zero, "correlation": zero}
        if self.halves is None:
            return columns
        z = pixels
        for _ in range(N_ROUNDS):
            z = redrawn(pixels, z, self.halves)
        p = self.posterior(levels(pixels, pixels, self.halves))
        mean, spread = self.sizes
        chance = CLIPPED / (2 * self.halves[0].quiet.shape[1])
        level = levels(pixels, z, self.halves)[:, 0] - mean
        level = mean + level * max(0.0, 1 - chance / spread**2)
        sigma = level.exp() * (p > 0.5)
        return columns | {"gaussian": p.float(), "sigma": sigma.float()}


def fit_small(pixels: Tensor) -> SmallNoiseRule:
    """The mixture of images (n, k), directions and un-clipping in turn."""
    side = side_of(pixels)
    if min((side == 0).sum(), (side == 1).sum()) < LEAST_IMAGES * pixels.shape[1] / 2:
        return SmallNoiseRule(None)
    z, noise = pixels, torch.ones(len(pixels))
    for _ in range(N_ROUNDS):
        first, second = (directions(z[side == own], noise[side == own]) for own in (0, 1))
        halves = first, second
        z = redrawn(pixels, z, halves)
        noise = levels(pixels, z, halves)[:, 0].exp()
    found, rule = levels(pixels, pixels, halves), SmallNoiseRule(halves)
    for _ in range(N_STEPS):
        p = rule.posterior(found)
        level, homogeneity = found.unbind(1)
        clean = _learned(level, 1 - p, CLEAN[0]), _learned(homogeneity, 1 - p, CLEAN[1])
        rule = SmallNoiseRule(
            halves, (clean, (_learned(level, p, NOISY[0]), NOISY[1])), float(p.mean())
        )
    if rule.rate < LEAST_RATE:
        return SmallNoiseRule(halves, rule.laws, 0.0)
    sizes = _learned(levels(pixels, z, halves)[:, 0], rule.posterior(found), NOISY[0])
    return SmallNoiseRule(halves, rule.laws, rule.rate, sizes)


def _learned(x: Tensor, p: Tensor, start: tuple[float, float]) -> tuple[float, float]:
    total = float(p.sum()) + WORTH
    mean = (float((p * x).sum()) + WORTH * start[0]) / total
    variance = (float((p * (x - mean).square()).sum()) + WORTH * start[1] ** 2) / total
    return mean, max(math.sqrt(variance), LEAST_SPREAD)

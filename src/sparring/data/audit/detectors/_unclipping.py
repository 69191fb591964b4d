"""Un-clipping: what an 8-bit file cut off at 0 and at 1 is drawn again.

A pixel at 0 is a noisy value n <= 0 (Tobit), and so at 1. In large images it is drawn by itself. In
small ones (`_small_noise`) z is normal of covariance B^-1 (texture + s^2) B^-T, cut off at 0 and 1,
and each clipped pixel is drawn given the others, a few times over (Gibbs sampling).

Source: the Tobit model's data augmentation (Chib 1992).
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from ._quiet_directions import Directions, Halves

SEED = 20411  # of the draws; a number that seeds no noise
N_SWEEPS, N_KEPT = 6, 3
"""Of drawing clipped pixels, and how many of these, the last, measure the size."""
SIZES = torch.logspace(math.log10(0.005), math.log10(0.7), 48, dtype=torch.float64)
STEP = 7918


def ends(y: Tensor) -> tuple[Tensor, Tensor]:
    """Where the flattened images (B, *) may have been cut off: places at 0, and at 1."""
    flat = y.flatten()
    return (flat == 0).nonzero()[:, 0], (flat == 1).nonzero()[:, 0]


def unclipped(
    y: Tensor, at: tuple[Tensor, Tensor], mean: Tensor, scale: Tensor, uniform: Tensor
) -> Tensor:
    """Images (B, *) with new values beyond 0 and 1 at their `ends`. Each is the quantile `uniform`,
    in (0, 1), of N(mean, scale^2) cut off there; all three broadcast to y."""
    out = y.flatten().clone()
    mean, scale, uniform = (each.expand_as(y).flatten() for each in (mean, scale, uniform))
    for sign, end, places in ((1.0, 0.0, at[0]), (-1.0, 1.0, at[1])):
        m, s, u = sign * (mean[places] - end), scale[places], uniform[places]
        below = torch.special.ndtr(-m / s)
        drawn = (m + s * torch.special.ndtri((u * below).clamp(min=1e-7))).clamp(max=0)
        out[places] = end + sign * drawn
    return out.reshape(y.shape)


@lru_cache(maxsize=8)
def quantiles(shape: tuple[int, ...]) -> Tensor:
    """The same uniform numbers for every image of a shape, so none depends on its batch."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(SEED)).clamp(1e-3, 1 - 1e-3)


def side_of(pixels: Tensor) -> Tensor:
    """Which half of the set images (B, k) belong to, by their pixels alone, (B,), 0 or 1."""
    return (255 * pixels).round().long().sum(1) % 2


def is_cut(pixels: Tensor) -> Tensor:
    """Whether images (B, k) were cut off at 0 and 1, as files are, (B, 1): none goes beyond."""
    return ((pixels >= 0) & (pixels <= 1)).all(1, keepdim=True)


def cut_off(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels of images (B, k) that were cut off at 0, and those at 1, (B, k) each."""
    was_cut = is_cut(pixels)
    return was_cut & (pixels <= 0), was_cut & (pixels >= 1)


def own_quantiles(pixels: Tensor) -> Tensor:
    """Uniform numbers that follow from each image (B, k) but are alike in no two, (B, k). Numbers
    alike in all images would make directions of their own. Sums of whole numbers modulo a power of
    2, so they are exact."""
    k, modulus = pixels.shape[1], 2**20
    factors = torch.randint(modulus, (k, k), generator=torch.Generator().manual_seed(0))
    mixed = ((255 * pixels).round().long() @ factors) % modulus
    return ((mixed + 0.5) / modulus).clamp(1e-3, 1 - 1e-3)


def turned(uniform: Tensor, i: int) -> Tensor:
    """Uniform numbers for the i-th sweep, as good as independent of those of the others."""
    return (uniform * (1 + STEP * i) % 1).clamp(1e-3, 1 - 1e-3)


def sweep(pixels: Tensor, z: Tensor, own: Directions, size: Tensor, uniform: Tensor) -> Tensor:
    """Images z (B, k), drawn so far, whose clipped pixels are drawn anew, one after the other.

    z_p given the others is normal, of precision P_pp and mean z_p - (P (z - mean))_p / P_pp, where
    P = B^T diag(1 / (texture + size^2)) B, size (B,); `uniform` (B, k) says which quantile.
    """
    z, w = z.clone(), own.coordinates(z)
    weight = 1 / (own.texture + size.square()[:, None])
    precision = weight @ own.across.square()
    black, white = cut_off(pixels)
    at_end = black | white
    sign, end = torch.where(black, 1.0, -1.0).to(z), white.to(z)
    for p in at_end.any(0).nonzero()[:, 0].tolist():
        b, s = own.across[:, p], precision[:, p].rsqrt()
        above = sign[:, p] * (z[:, p] - (w * weight) @ b / precision[:, p] - end[:, p])
        below = (uniform[:, p] * torch.special.ndtr(-above / s)).clamp(min=1e-9)
        drawn = end[:, p] + sign[:, p] * (above + s * torch.special.ndtri(below)).clamp(max=0)
        change = torch.where(at_end[:, p], drawn - z[:, p], 0.0)
        z[:, p] += change
        w += change[:, None] * b
    return z


def likelihoods(w: Tensor, texture: Tensor) -> Tensor:
    """ln likelihood of each of SIZES for images of these coordinates (B, k), (B, n_sizes)."""
    variance = texture + SIZES.square()[:, None]
    return -(w.square() @ (1 / variance).T + variance.log().sum(1)) / 2


def redrawn(pixels: Tensor, halves: Halves, side: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Images (B, k) un-clipped, by the directions of the half that is not theirs (by default that
    which their pixels say); ln likelihood of each of SIZES."""
    side = side_of(pixels) if side is None else side
    z, uniform = pixels.clone(), own_quantiles(pixels).to(pixels)
    found = torch.zeros(len(pixels), len(SIZES), dtype=pixels.dtype)
    for own in (0, 1):
        rows, other = side == own, halves[1 - own]
        likely = likelihoods(other.coordinates(z[rows]), other.texture)
        for k in range(N_SWEEPS):
            size = SIZES[likely.argmax(1)]
            z[rows] = sweep(pixels[rows], z[rows], other, size, turned(uniform[rows], k))
            likely = likelihoods(other.coordinates(z[rows]), other.texture)
            if k >= N_SWEEPS - N_KEPT:
                found[rows] += likely / N_KEPT
    return z, found

"""What small windows of an image see of its noise: energies of differences of differences.

See `noise`, which asks where in an image they are small, and how they follow the brightness.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

N_BINS = 4
LOW, MIDDLE, HIGH = 0.1, 0.5, 0.9  # quantiles of the windows' energies
HUBER = 1.5
SMALLEST = 1e-3  # a quarter of a grey level: no less is told apart


def haar(x: Tensor, lag: int = 1) -> Tensor:
    """Differences of differences over `lag` pixels, (B, C, H - lag, W - lag)."""
    across = x[..., :-lag] - x[..., lag:]
    return (across[..., :-lag, :] - across[..., lag:, :]).mul_(0.5)


def tintless(x: Tensor) -> Tensor:
    """Differences of the channels over sqrt 2, of grey images the images themselves."""
    if x.shape[1] == 1:
        return x
    return (x - x.roll(-1, 1)) / math.sqrt(2)


def huber_scale(h: Tensor, start: Tensor | None = None) -> Tensor:
    """s, (B,), with mean of min((h / s)^2, HUBER^2) as for normal h (B, *) of deviation s. The
    search begins at `start` (B,), by default the median over 0.6745."""
    inside = math.erf(HUBER / math.sqrt(2))
    density = math.exp(-(HUBER**2) / 2) / math.sqrt(2 * math.pi)
    expected = inside - 2 * HUBER * density + HUBER**2 * (1 - inside)
    squares = h.flatten(1).square()
    if start is None:
        start = squares.median(1).values.sqrt() / 0.6745
    s = start.clamp(min=SMALLEST)
    for _ in range(4):
        most = (HUBER * s).square()[:, None]
        s = (torch.minimum(squares, most).mean(1) / expected).sqrt().clamp(min=SMALLEST / 4)
    return s


def blurred(x: Tensor) -> Tensor:
    """[1 2 1] / 4 along both axes, edges repeated."""
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    for _ in range(2):
        x = x[..., :-1] + x[..., 1:]
        x = x[..., :-1, :] + x[..., 1:, :]
    return x.mul_(1 / 16)


def far_lag(height: int, width: int) -> int:
    """The large d of the grain, pixels."""
    return 4 if min(height, width) >= 64 else 2


def windows(x: Tensor, first_only: bool = False) -> tuple[Tensor, Tensor]:
    """Brightness and energies in windows half over each other, sorted into bins of brightness. Mean
    brightness of each bin, (B, N_BINS); energies (B, 3, N_BINS, n): of HH_1 of the channels'
    differences, of HH_1 of the channels, of HH_far of the channels; or (B, 1, ...)."""
    height, width = x.shape[2:]
    lag, side = far_lag(height, width), 8 if min(height, width) >= 64 else 4

    def pooled(values: Tensor) -> Tensor:
        values = values[..., : height - lag, : width - lag].mean(1, keepdim=True)
        return F.avg_pool2d(values, side, side // 2).flatten(1)

    brightness = pooled(x)
    order, n = brightness.argsort(1), brightness.shape[1] // N_BINS
    bands = [haar(tintless(x))]
    if not first_only:
        bands += [haar(x), haar(x, lag)]
    energies = [pooled(band.square()).gather(1, order) for band in bands]
    binned = torch.stack(energies, 1)[..., : n * N_BINS].unflatten(2, (N_BINS, n))
    sorted_ = brightness.gather(1, order)[:, : n * N_BINS].unflatten(1, (N_BINS, n))
    return sorted_.mean(2), binned


def quantile(x: Tensor, p: float) -> Tensor:
    """Along the last axis, between the two nearest."""
    ordered, place = x.sort(-1).values, p * (x.shape[-1] - 1)
    low, high = ordered[..., math.floor(place)], ordered[..., math.ceil(place)]
    return low + (place - math.floor(place)) * (high - low)


@lru_cache(maxsize=8)
def unit_quantiles(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Low, middle and high quantile of the energies that unit white noise has, (3, 1) each."""
    n = max(2, min(64, 2**20 // math.prod(shape)))
    noise = torch.randn(n, *shape, generator=torch.Generator().manual_seed(1))
    energies = windows(noise)[1]
    low, middle, high = (quantile(energies, p).mean((0, 2))[:, None] for p in (LOW, MIDDLE, HIGH))
    return low, middle, high


def line(v: Tensor, energy: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares energy = a + b v over the last axis, relative errors alike, b >= 0."""
    w = 1 / energy.clamp(min=SMALLEST**2).square()
    w = w / w.sum(-1, keepdim=True)
    mean_v, mean_e = (w * v).sum(-1, keepdim=True), (w * energy).sum(-1, keepdim=True)
    spread = (w * (v - mean_v).square()).sum(-1)
    b = ((w * (v - mean_v) * (energy - mean_e)).sum(-1) / (spread + 1e-6)).clamp(min=0)
    return (mean_e[..., 0] - b * mean_v[..., 0]).clamp(min=0), b

r"""Images that lack fine detail: blurred ones, and thumbnails that were enlarged.

The power of an image in bands of frequency (a discrete cosine transform, in which a mirrored blur
only scales coefficients) falls about like a power of the frequency, whatever the image shows:

    ln power_b = a - beta ln r_b + gamma_b,   beta ~ N(BETA, SPREAD^2),   gamma a smooth process

Blur of s pixels multiplies it by exp(-s^2 w^2), an enlargement by what its filter does to each
frequency (computed from the filter itself), which no image does of its own accord; noise and 8 bits
add a floor of 1/12 squared grey level, so what lies below that says nothing. Each hypothesis, none,
a blur of some size, an enlargement by some factor, has a likelihood in which a is free. The law of
clean images is that of images in general, so a set may be blurred as a whole; of the set itself
only the shares of the hypotheses are learned.

Bands are squares: those of the larger of the two frequencies, since enlargements cut each axis.
What JPEG emptied is no blur: the probability that an image is JPEG is taken off.

Source: ours; the power law of natural images after Field 1987.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...dirt.kinds.blur import mirrored_kernel
from ...dirt.kinds.enlarged import width_of
from ..contract import Columns, Detector, Rule, Statistics, said
from .jpeg import cosines, luminance

BETA, SPREAD = 2.4, 0.6
"""Of the exponent of clean images' power: clothes have 1.8, CIFAR-10 3.1, photographs 1.3 to 3."""
WAVER, REACH = 0.35, 0.4
"""Standard deviation of gamma, nats, and how far it is alike, in ln of the frequency."""
FLOOR = 1 / 12  # power of rounding to whole grey levels
LARGEST = 64  # pixels of a side: larger images are looked at in tiles, at most N_TILES an axis
N_TILES = 3
N_BANDS = 8
ORDINARY = (0.0, 0.5, 0.6)
SIZES = (0.75, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0)
"""Of blurs that are asked about, pixels; less than 0.7 is how sharp ordinary small images are."""
FACTORS = (1.5, 2.0, 3.0, 4.0)
ENLARGED = tuple((factor, name) for name in ("bicubic", "bilinear") for factor in FACTORS)
"""Factors and Pillow's filters of enlargements that are asked about."""
NOISY = (0.002, 0.02, 0.2)
"""White noise as a share of an image's power in the lowest band: no blur, whatever else it is."""
PRIOR = 4.0  # images in each of the groups clean, blurred, enlarged before the set was looked at
N_ROUNDS = 50


@dataclass(frozen=True)
class BlurRule(Rule):
    """Posterior of the hypotheses."""

    shares: tuple[float, ...]  # of each hypothesis in the set

    def __call__(self, seen: Statistics) -> Columns:
        p = posterior(seen["blur.nats"], torch.tensor(self.shares))
        _, blurred, enlarged = (part.sum(1) for part in p.split(GROUPS, 1))
        whole = 1 - said(seen, ("jpeg",))
        blur, enlarged = whole * blurred, whole * enlarged
        dirty = p[:, GROUPS[0] :]
        width = (dirty @ WIDTHS) / dirty.sum(1).clamp(min=1e-12)
        found = torch.maximum(blur, enlarged) > 0.5
        return {"blur": blur, "enlarged": enlarged, "blur_sigma": torch.where(found, width, 0.0)}


class Blur(Detector):
    kinds, after = ("blur", "enlarged"), ("jpeg",)

    def look(self, x: Tensor) -> dict[str, Tensor]:
        if min(x.shape[2:]) < N_BANDS:
            return {"nats": torch.zeros(len(x), N_HYPOTHESES)}
        height, width = (min(side, LARGEST) for side in x.shape[2:])
        power, counts = band_power(tiles(luminance(x).y, height, width))
        return {"nats": likelihood(power, counts, templates(height, width))}

    def fit(self, seen: Statistics) -> Rule:
        """Shares by expectation maximisation, from the images that are no JPEG."""
        whole = 1 - said(seen, ("jpeg",)).double()
        nats = seen["blur.nats"].double()
        before = torch.cat([torch.full((n,), PRIOR / n) for n in GROUPS]).double()
        shares = before / before.sum()
        for _ in range(N_ROUNDS):
            shares = before + whole @ posterior(nats, shares)
            shares = shares / shares.sum()
        return BlurRule(tuple(shares.tolist()))


def posterior(nats: Tensor, shares: Tensor) -> Tensor:
    """Of each hypothesis, (B, n), from its nats and shares (n,)."""
    return torch.softmax(nats + shares.log(), 1)


def tiles(y: Tensor, height: int, width: int) -> Tensor:
    """At most N_TILES x N_TILES parts of images (B, H, W), spread evenly, (B, n, height, width)."""
    starts = [
        torch.linspace(0, whole - part, min(N_TILES, whole // part)).long().tolist()
        for whole, part in zip(y.shape[1:], (height, width), strict=True)
    ]
    return torch.stack([
        y[:, top : top + height, left : left + width]
        for top in starts[0]
        for left in starts[1]
    ], 1)  # fmt: skip


def band_power(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean power in each band and the number of coefficients that it is the mean of. Of grey levels
    (B, n, H, W), sides of at least N_BANDS: (B, N_BANDS - 1), squared grey levels, and (N_BANDS -
    1,); the lowest band, brightness and shading, is left out."""
    height, width = y.shape[2:]
    squares = (dct(height) @ y @ dct(width).T).square().mean(1)
    member = bands(height, width)
    counts = member.sum((1, 2))
    return torch.einsum("bij,kij->bk", squares, member) / counts, counts * y.shape[1]


def likelihood(power: Tensor, counts: Tensor, templates: Tensor) -> Tensor:
    """Log likelihood of each hypothesis, less that of the first, (B, n).

    f = ln(power + FLOOR),   model mean ln(e^a T + FLOOR),   g its derivative by a
    covariance g K g + trigamma(counts / 4),   a by three steps of least squares

    Coefficients of images have heavy tails, so they count as half as many of a normal's.
    """
    f = (power + FLOOR).log().double()[:, None, :, None]
    log_t = templates.log().double()[None, :, :, None]
    own = torch.diag(torch.special.polygamma(1, counts.double() / 4))
    r = CENTRES.log().double()
    smooth = WAVER**2 * torch.exp(-(r[:, None] - r).abs() / REACH)
    covariance = smooth + SPREAD**2 * torch.outer(r, r)
    a = (f - log_t)[:, :, :2].mean(2, keepdim=True)
    nats = torch.zeros(())
    for _ in range(3):
        content = (a + log_t).exp()
        g = content / (content + FLOOR)
        root = torch.linalg.cholesky(g * covariance * g.mT + own)
        rest = torch.linalg.solve_triangular(root, f - (content + FLOOR).log(), upper=False)
        slope = torch.linalg.solve_triangular(root, g, upper=False)
        information = slope.square().sum(2, keepdim=True).clamp(min=1e-9)
        step = (slope * rest).sum(2, keepdim=True) / information
        a = a + step.clamp(-3, 3)
        log_det = 2 * root.diagonal(dim1=2, dim2=3).log().sum(2)
        misfit = (rest - step * slope).square().sum((2, 3))
        nats = -0.5 * (misfit + log_det + information.log()[:, :, 0, 0])
    return (nats - nats[:, :1]).float()


@cache
def templates(height: int, width: int) -> Tensor:
    """Power in each band under each hypothesis, of an image of power r^-BETA, (n, N_BANDS - 1)."""
    r = (grid(height)[:, None].square() + grid(width).square()).sqrt()
    clean = r.clamp(min=r[r > 0].min()) ** -BETA
    sizes = ORDINARY + SIZES
    ways = [(blurring(height, size), blurring(width, size)) for size in sizes]
    ways += [(enlarging(height, *how), enlarging(width, *how)) for how in ENLARGED]
    powers = []
    for way in ways:
        rows, columns = ((dct(len(one)) @ one @ dct(len(one)).T).square() for one in way)
        powers.append(rows @ clean @ columns.T)
    member = bands(height, width)
    power = torch.einsum("nij,kij->nk", torch.stack(powers), member) / member.sum((1, 2))
    noisy = power[:1] + torch.tensor(NOISY)[:, None] * power[0, 0]
    power = torch.cat([noisy, power])
    return power.clamp(min=1e-9 * power.max())  # of some filters exactly 0


def blurring(n: int, size: float) -> Tensor:
    """The blur of a row of n pixels, mirrored at its ends, as a matrix."""
    if size == 0:
        return torch.eye(n)
    out = torch.zeros(n, n)
    for weight, mirrored in mirrored_kernel(size, n):
        out[torch.arange(n), mirrored] += weight
    return out


def enlarging(n: int, factor: float, name: str) -> Tensor:
    """Shrinking a row of n pixels by a factor and enlarging it back, as a matrix."""
    resampling = Image.Resampling[name.upper()]
    columns = Image.fromarray(np.eye(n, dtype=np.float32))
    small = columns.resize((n, max(1, round(n / factor))), resampling)
    return torch.from_numpy(np.array(small.resize((n, n), resampling)))


@cache
def dct(n: int) -> Tensor:
    """The orthonormal DCT of n values as a matrix."""
    return cosines(n).float()


def grid(n: int) -> Tensor:
    """Frequencies of n coefficients, as a share of the highest."""
    return torch.arange(n) / n


@cache
def bands(height: int, width: int) -> Tensor:
    """Which coefficients belong to each band, (N_BANDS - 1, H, W), 0 or 1."""
    r = torch.maximum(grid(height)[:, None], grid(width)[None])
    which = (r * N_BANDS + 1e-4).long()
    return torch.stack([(which == k).float() for k in range(1, N_BANDS)])


CENTRES = (torch.arange(1, N_BANDS) + 0.5) / N_BANDS
GROUPS = (len(NOISY) + len(ORDINARY), len(SIZES), len(ENLARGED))
WIDTHS = torch.tensor([*SIZES, *(width_of(factor) for factor, _ in ENLARGED)])
N_HYPOTHESES = sum(GROUPS)

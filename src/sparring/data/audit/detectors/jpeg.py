"""JPEG that was decoded and saved as something else, found by the comb in its 8x8 DCT.

A JPEG file holds whole multiples of a table: each coefficient of a block is k Q. Decoding rounds
pixels to 8 bits, which adds noise of known size, and cuts them to [0, 255]:

    c = k Q + e,   e ~ N(0, s^2),   s^2 = 1/12 (grey),   0.447 / 12 + 1 / 12 (luminance of colour)

So at the right quality and on the right grid the coefficients lie on a comb, and in an image that
was never JPEG they lie anywhere. The evidence for a quality, in nats, is a sum over coefficients,

    l = ln((1 - STRAY) Q N(c - k Q; 0, s^2) + STRAY),   at most 0 where k = 0

against a density that is flat within each cell of the comb. Zeros may only count against: smooth
images have them too, blurred ones above all, and constant blocks say nothing at all. What cutting
to [0, 255] took is put back in turns (projection onto convex sets): from the nearest coefficients
on the comb, pixels at 0 become what these say, if that is less than 0, and so at 255. Pixels that
may be anything fit any comb, so a block's evidence counts by its share of the others. The table
that is asked is the standard one (ITU T.81, K.1) scaled to qualities 1 to 95; above, its steps
drown in the rounding. The evidence of the best quality needs no clean images to be compared with,
so a set may be all JPEG or none of it.

First all qualities are tried on a few blocks, then the best of them on more; an image for which
they all speak against a JPEG is given up early. A crop moves the grid: if the grid at the corner is
not found, the one is tried whose blocks have the emptiest high frequencies.

Pixels and coefficients are grey levels, 0 to 255; DCT orthonormal, as in the standard. Source:
ours; after Fan and de Queiroz 2003 ("Identification of bitmap compression history"), who ask for
the likeliest table too, without clipping.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..contract import Columns, Detector, Rule, Statistics

STANDARD = torch.tensor([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
"""Luminance table of ITU T.81, K.1, which is that of quality 50."""
QUALITIES = range(1, 96)
LUMA = (0.299, 0.587, 0.114)
ROUNDING = {1: math.sqrt(1 / 12), 3: math.sqrt((1 + sum(w * w for w in LUMA)) / 12)}
"""s, by the number of channels; of colour the decoder rounds luminance, then each channel."""
INEXACT = 1.15  # of s: the integer arithmetic of encoders and decoders is not exact
STRAY = 0.1  # share of coefficients that may lie anywhere: cutting is never undone completely
N_BLOCKS = 32  # most blocks of an image that are looked at, the least cut ones
N_TURNS = 4  # times that cut pixels are put back
ROUNDS = ((3, 2, 24), (3, 3, 6), (N_BLOCKS, N_TURNS, 1))
"""How many of the least cut blocks are looked at, in how many turns, and how many of the best
tables are kept: cheap looks at all tables first. With one turn the right table may not be among the
best: of digits of one block, a third of whose pixels are cut, 72 % were found, with two 92 %."""
EMPTY = 1.0  # grey levels: a coefficient below is empty
EMPTIER = 0.15
"""By what share more empty than the mean grid a moved grid is worth a look; JPEG has 0.35 to 0.7
(32x32), of clean images three in a hundred reach 0.17."""
FEW_TABLES, HOPELESS = 6, -60.0
"""When so few tables are left, images of less evidence, in nats, are given up: of some 600 clothes,
digits and photographs that were JPEG the least had -6 then."""
FAINTEST, AT_ONCE, ANY = -60.0, 8, 1e9
"""Exponents end at the first, since numbers that float32 does not hold in full are slow; so many
densities are multiplied before the logarithm is taken; what may be as large as it likes."""
NEEDED, TEMPER = 12.0, 3.0
"""Evidence at which an image is as likely JPEG as not, and what makes it e times as likely, nats;
95 qualities and two grids are tried, worth 5, and neighbours' coefficients err together."""


class Levels(NamedTuple):
    """Grey levels and what they can have been before they were cut: the same or infinitely far."""

    y: Tensor
    floor: Tensor
    ceiling: Tensor

    def each(self, f: Callable[[Tensor], Tensor]) -> "Levels":
        return Levels(f(self.y), f(self.floor), f(self.ceiling))


@dataclass(frozen=True)
class JpegRule(Rule):
    """Probability 1 / (1 + exp(-(evidence - NEEDED) / TEMPER))."""

    def __call__(self, seen: Statistics) -> Columns:
        p = torch.sigmoid((seen["jpeg.evidence"] - NEEDED) / TEMPER)
        return {"jpeg": p, "quality": torch.where(p > 0.5, seen["jpeg.quality"], 0.0)}


class Jpeg(Detector):
    kinds = ("jpeg",)

    def look(self, x: Tensor) -> dict[str, Tensor]:
        evidence, quality = torch.zeros(len(x)), torch.zeros(len(x))
        if min(x.shape[2:]) < 8:
            return {"evidence": evidence, "quality": quality}
        spread = INEXACT * ROUNDING[3 if x.shape[1] == 3 else 1]
        levels = luminance(x)
        at_once = max(1, 512 // min(N_BLOCKS, x.shape[2] // 8 * (x.shape[3] // 8)))
        for rows in torch.arange(len(x)).split(at_once):
            pixels = levels.each(lambda y, rows=rows: blocks(y[rows]))
            evidence[rows], quality[rows] = best_quality(pixels, spread)
            rows = rows[evidence[rows] < NEEDED]
            if min(x.shape[2:]) >= 15:
                moved, gain = moved_grids(levels.y[rows])
                rows, moved = rows[gain > EMPTIER], moved[gain > EMPTIER]
                pixels = levels.each(lambda y, r=rows, m=moved: shifted_blocks(y[r], m))
                nats, its_quality = best_quality(pixels, spread)
                quality[rows] = torch.where(nats > evidence[rows], its_quality, quality[rows])
                evidence[rows] = torch.maximum(nats, evidence[rows])
        return {"evidence": evidence, "quality": quality}

    def fit(self, seen: Statistics) -> Rule:
        return JpegRule()


def table_of(quality: int) -> Tensor:
    """The luminance table that libjpeg makes for a quality, 1 to 100, (8, 8), grey levels.

    clip(floor((scale STANDARD + 50) / 100), 1, 255),  scale = 5000 // q below 50, 200 - 2 q from 50
    """
    return ((scale_of(quality) * STANDARD + 50) // 100).clamp(1, 255)


def scale_of(quality: int) -> int:
    """By how much the steps of a quality are larger than those of quality 50, per cent."""
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be in 1 to 100, got {quality}")
    return 5000 // quality if quality < 50 else 200 - 2 * quality


def file_quality(image: object) -> int | None:
    """The quality of a JPEG file by its own tables, None for any other file.

    The one whose standard table is nearest to the file's luminance table, in the mean of
    |ln(step / standard step)|: files of cameras and editors have tables of their own. It says how
    the file was stored, and nothing of what resizing left of that. `image` is as Pillow opened it,
    or its `decoding.Header`.
    """
    tables: Mapping[int, Sequence[int]] | None = getattr(image, "quantization", None)
    if not tables or 0 not in tables:
        return None
    own = np.log(np.maximum(np.asarray(tables[0], dtype=float).reshape(8, 8), 1))
    misfits = [np.abs(own - np.log(table_of(q).numpy())).mean() for q in range(1, 101)]
    return 1 + int(np.argmin(misfits))


def luminance(x: Tensor) -> Levels:
    """Grey levels (B, H, W) of images (B, C, H, W) in [0, 1], and what they may have been before.
    Luminance, or the mean of channels that are not three. It may have been anything below where a
    channel is at 0, anything above where one is at 255."""
    levels = 255 * x.float()
    weights = LUMA if x.shape[1] == 3 else (1 / x.shape[1],) * x.shape[1]
    y = (levels * torch.tensor(weights)[:, None, None]).sum(1)
    floor = torch.where((levels <= 0).any(1), -math.inf, y)
    ceiling = torch.where((levels >= 255).any(1), math.inf, y)
    return Levels(y, floor, ceiling)


def blocks(y: Tensor) -> Tensor:
    """Whole 8x8 blocks from the corner on, (B, n, 64), of (B, H, W)."""
    n, height, width = y.shape
    h, w = height // 8, width // 8
    y = y[:, : 8 * h, : 8 * w].reshape(n, h, 8, w, 8)
    return y.transpose(2, 3).reshape(n, h * w, 64)


def shifted_blocks(y: Tensor, offsets: Tensor) -> Tensor:
    """The same on grids that begin at offsets (B, 2), in 0 to 7."""
    sides = ((side - 7) // 8 * 8 for side in y.shape[1:])
    rows, columns = (
        start[:, None] + torch.arange(side) for start, side in zip(offsets.T, sides, strict=True)
    )
    return blocks(y[torch.arange(len(y))[:, None, None], rows[:, :, None], columns[:, None]])


def forward(block: Tensor) -> Tensor:
    """DCT coefficients of pixels (..., 64), rows of frequencies one after the other."""
    return (block - 128) @ DCT.T


def backward(coefficients: Tensor) -> Tensor:
    """Pixels of DCT coefficients (..., 64)."""
    return coefficients @ DCT + 128


def moved_grids(y: Tensor) -> tuple[Tensor, Tensor]:
    """Of the 63 grids that do not begin at the corner the one with the most empty coefficients.

    A block counts by its share of pixels that are not at 0 or 255; constant ones do not. Of grey
    levels (B, H, W), sides of at least 15, the middle 31 pixels are looked at. Offsets (B, 2), rows
    and columns, in 0 to 7, and by how much it is emptier than the mean grid, (B,).
    """
    sides = [min(side, 31) for side in y.shape[1:]]
    top, left = ((whole - part) // 16 * 8 for whole, part in zip(y.shape[1:], sides, strict=True))
    y = y[:, top : top + sides[0], left : left + sides[1]]
    weight = _window_means(((y > 0) & (y < 255)).float())
    flat = (y[:, :, 1:] == y[:, :, :-1]).float(), (y[:, 1:] == y[:, :-1]).float()
    is_flat = (_window_means(flat[0], (8, 7)) == 1) & (_window_means(flat[1], (7, 8)) == 1)
    weight = weight.masked_fill(is_flat, 0)
    windows = y.unfold(1, 8, 1).unfold(2, 8, 1).flatten(3)
    empty = ((windows @ DCT[HIGH].T).abs_() < EMPTY).sum(3) * weight / HIGH.sum()
    share = _by_grid(empty) / _by_grid(weight).clamp(min=1)
    most, best = share[:, 1:].max(1)
    return torch.stack([(best + 1) // 8, (best + 1) % 8], 1), most - share.mean(1)


def best_quality(pixels: Levels, spread: float) -> tuple[Tensor, Tensor]:
    """Evidence, nats, (B,), for the quality, (B,), whose comb explains blocks (B, n, 64) best;
    spread is s, grey levels."""
    uncut = (pixels.ceiling == pixels.floor).float().mean(2)
    weight = uncut * (pixels.y.amax(2) > pixels.y.amin(2))
    order = weight.argsort(dim=1, descending=True, stable=True)
    found, quality = torch.zeros(len(order)), torch.zeros(len(order), dtype=torch.long)
    asked = torch.arange(len(order))
    choice = torch.arange(len(TABLES)).expand(len(order), -1)
    for n_blocks, n_turns, n_tables in ROUNDS:
        chosen = order[asked, :n_blocks]
        tables = TABLES[choice][:, None]
        some = pixels.each(lambda y, rows=asked, blocks=chosen: y[rows[:, None], blocks, None])
        each = torch.empty(*chosen.shape, choice.shape[1])
        is_cut = (some.floor < some.ceiling).any(3)[..., 0]
        for which, turns in ((is_cut, n_turns), (~is_cut, 0)):
            own = tables.expand(-1, chosen.shape[1], -1, -1)[which]
            whole = put_back(some.each(lambda y, which=which: y[which]), own, turns)
            each[which] = evidence(forward(whole), own, spread)
        nats = (each * weight[asked].gather(1, chosen)[..., None]).sum(1)
        nats, kept = nats.topk(n_tables, 1)
        choice = choice.gather(1, kept)
        found[asked], quality[asked] = nats[:, 0], choice[:, 0] + QUALITIES[0]
        if n_tables <= FEW_TABLES:
            hopeful = nats[:, 0] > HOPELESS
            asked, choice = asked[hopeful], choice[hopeful]
    return found, quality.float()


def put_back(pixels: Levels, table: Tensor, n_turns: int) -> Tensor:
    """Blocks (..., 64) whose cut pixels are what the nearest points of the comb say."""
    block = pixels.y
    for _ in range(n_turns):
        comb = (forward(block) / table).round_().mul_(table)
        block = torch.minimum(torch.maximum(backward(comb), pixels.floor), pixels.ceiling)
    return block


def evidence(coefficients: Tensor, table: Tensor, spread: float) -> Tensor:
    """Nats of blocks (..., 64) for a table (..., 64) against a flat density in its cells, (...)."""
    scaled = coefficients / table
    k = scaled.round()
    off = scaled.sub_(k).mul_(table / (spread * math.sqrt(2)))
    density = off.square_().neg_().clamp_(min=FAINTEST).exp_()
    ratio = density.mul_(table * ((1 - STRAY) / (spread * math.sqrt(2 * math.pi)))).add_(STRAY)
    ratio = torch.minimum(ratio, k.square_().mul_(ANY).add_(1))  # at most 1 where k = 0
    return ratio.unflatten(-1, (-1, AT_ONCE)).prod(-1).log_().sum(-1)


def _window_means(y: Tensor, sides: tuple[int, int] = (8, 8)) -> Tensor:
    """Of all windows of images (B, H, W)."""
    return F.avg_pool2d(F.avg_pool2d(y[:, None], (sides[0], 1), 1), (1, sides[1]), 1)[:, 0]


def _by_grid(windows: Tensor) -> Tensor:
    """Sums over the windows (B, h, w) that belong to each of the 64 grids, (B, 64)."""
    below, right = (-side % 8 for side in windows.shape[1:])
    whole = F.pad(windows, (0, right, 0, below))
    return whole.unflatten(2, (-1, 8)).unflatten(1, (-1, 8)).sum((1, 3)).flatten(1)


def cosines(n: int) -> Tensor:
    """The orthonormal DCT of n values as a matrix, float64."""
    k = torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(math.pi * (2 * k + 1) * k[:, None] / (2 * n)) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix


DCT = torch.kron(cosines(8), cosines(8)).float()  # (64, 64): coefficients = DCT @ pixels
HIGH = (torch.arange(8)[:, None] + torch.arange(8)).flatten() >= 8
TABLES = torch.stack([table_of(quality) for quality in QUALITIES]).flatten(1).float()

r"""Noise of images too small to have windows: it is looked for where the set's images vary least.

A digit of 8x8 pixels is all edges, so nothing in one image tells noise from strokes. But digits
have things in common. With the noise's covariance s_i^2 Sigma, s_i the image's own size, and
w = B (z - mean) the coordinates in which Sigma is the identity and the set's covariance diagonal,

    var w_j = texture_j + s_i^2,   texture_j about 0 in the quietest directions j.

The set says which law the noise has, for with the right one the quiet variances are all alike:

    white: Sigma = I;  correlated: Sigma that of the kind correlated;
    Poisson: Sigma = diag(1 + ratio * mean),  mean the set's mean image, ratio = slope / sigma^2.

The law is that of the least ln(arithmetic mean / geometric mean) of the quiet variances (the
sphericity of Mauchly). If these differ even so, what looked like noise is texture, as in blurred
images and in JPEGs. A slope is only seen where some pixels are brighter than others in most images.

**Clipping.** A pixel at 0 is drawn again from its law given the image's other pixels, z normal of
covariance B^-1 (texture + s_i^2) B^-T, cut off at 0; pixel by pixel, a few times over (Gibbs; the
Tobit model's data augmentation). s_i is then the likeliest size, and at last its mean given those
of the set. Who is noisy is seen without it: ln rms of the quiet w of the image as it is, and that
of the quieter half's over the other's, are normal for clean images and for noisy ones, and so is
the share of pixels at 0 and 1: noise takes a background away from its end, or half of it.

Directions come from the half of the set to which an image does not belong (which half that is
follows from its pixels), since a sample's own smallest variances are too small.

Works on the [0, 1] scale. Source: ours; directions after Pyatykh, Hesser and Zheng 2013, Gibbs
sampling of the Tobit model after Chib 1992.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...dirt.kinds.correlated import folded_kernel
from ..contract import Columns, Rule, Statistics

N_TURNS, N_STEPS = 4, 40
"""Of the fit, and of expectation maximisation."""
N_SWEEPS, N_KEPT = 6, 3
"""Of drawing clipped pixels, and how many of these, the last, measure the size."""
SHARE = 4
"""A quarter of the directions is quiet."""
CAP = 0.05
"""Of the median noise's variance: what it adds to an image's own where the image is weighed."""
LEAST_IMAGES, MANY_IMAGES = 4, 6
"""Times the number of pixels: of fewer images no noise is found; of fewer noisy images only white
noise, by the directions of the others."""
LEAST_FOUND, N_LAW = 20, 2048
"""Noisy images without which there is no noise, and the most that decide the law."""
SMALLEST, LEAST_NOISE = 1 / 255 / math.sqrt(12), 2.5 / 255
"""Rounding to 8 bits; below the other, rounding and texture are in the way."""
SIZES = torch.logspace(math.log10(0.005), math.log10(0.7), 48, dtype=torch.float64)
ENDS = (0.3, 0.3)
CLEAN, NOISY = ((-4.0, 1.0), (-0.6, 0.4), ENDS), ((-2.0, 0.7), (-0.15, 0.35), ENDS)
"""Where the two laws start: level, homogeneity, share of pixels at the ends, mean and deviation
each. The last says nothing at first."""
WORTH, LEAST_SPREAD, LEAST_RATE = 5.0, 0.2, 0.05
LEAST_SPREAD_OF_ENDS = 0.04
MOST_SPREAD = 0.33
"""Of the clean images' level: digits have 0.3 to 0.37; with more, weak noise would pass for it."""
MOST_NOISY, MOST_NOISY_BY_TWO = 0.4, 0.8
"""Share of noisy images that a judgement starts from: never does the set alone condemn an image.
The second where the share at the ends is a witness beside the level."""
CORRELATIONS = tuple(0.4 + 0.05 * i for i in range(17))
RATIOS = tuple(2.0 ** (i / 2) for i in range(2, 13))
MOST_UNLIKE, MOST_UNLIKE_ALL, MOST_UNLIKE_FEW = 0.09, 0.05, 0.4
"""Unlikeness (see above) beyond chance. Measured on digits: noise 0.005 to 0.08, clean ones 0.1 to
0.4, JPEGs 0.12 to 0.4. Where images called clean have less than the second, all are noisy. By the
directions of the others: noise 0.05 to 0.2, clean ones among blurred ones 1 to 1.6."""
WORTH_A_LAW = 0.01
"""How much more alike another law must make the quiet variances than white noise does."""
LEAST_SLOPE, LEAST_RATIO = 0.04, 1.9
"""Of the variance over brightness, and of it to sigma^2: digits' bright pixels hold texture that
looks like a slope of 0.02."""
STEP = 7918


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


def laws() -> Iterator[NoiseLaw]:
    """Those among which the set's is looked for."""
    yield WHITE
    for ratio in RATIOS:
        yield NoiseLaw("poisson_gaussian", ratio=ratio)
    for correlation in CORRELATIONS:
        yield NoiseLaw("correlated", correlation=correlation)


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
    inverse = torch.linalg.inv(_root(noise))
    var, vectors = torch.linalg.eigh(inverse @ covariance @ inverse.T)
    return vectors.T @ inverse, var


def n_quiet(k: int) -> int:
    """How many of k directions are quiet."""
    return max(2, k // SHARE)


@dataclass(frozen=True)
class Directions:
    """Of one half of the set.

    Attributes:
        mean: Of the images, (k,).
        across: B, (k, k), the quietest direction first.
        variance: Of un-clipped images in each direction, (k,).
        texture: Of these without noise, (k,).
    """

    mean: Tensor
    across: Tensor
    variance: Tensor
    texture: Tensor

    def coordinates(self, z: Tensor) -> Tensor:
        """w of un-clipped images (B, k), (B, k)."""
        return (z - self.mean) @ self.across.T


Halves = tuple[Directions, Directions]


def directions(z: Tensor, noise: Tensor, law: NoiseLaw, shape: tuple[int, ...]) -> Directions:
    """Of un-clipped images (n, k); those of less noise, (n,), count for more.

    An image's weight is 1 / (its noise's variance + a part of the median one).
    """
    variance = noise.square()
    weights = 1 / (variance + CAP * variance.median() + SMALLEST**2)
    weights = (weights / weights.sum())[:, None]
    mean = (weights * z).sum(0)
    across, var = whitening((weights * (z - mean)).T @ (z - mean), law.covariance(mean, shape))
    texture = var - var[: n_quiet(len(var))].mean()
    return Directions(mean, across, var, texture.clamp(min=SMALLEST**2))


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
    """Uniform numbers that follow from each image (B, k) but are alike in no two, (B, k).

    Numbers alike in all images would make directions of their own. Sums of whole numbers modulo
    a power of 2, so they are exact.
    """
    k, modulus = pixels.shape[1], 2**20
    factors = torch.randint(modulus, (k, k), generator=torch.Generator().manual_seed(0))
    mixed = ((255 * pixels).round().long() @ factors) % modulus
    return ((mixed + 0.5) / modulus).clamp(1e-3, 1 - 1e-3)


def turned(uniform: Tensor, i: int) -> Tensor:
    """Uniform numbers for the i-th sweep, as good as independent of those of the others."""
    return (uniform * (1 + STEP * i) % 1).clamp(1e-3, 1 - 1e-3)


def sweep(pixels: Tensor, z: Tensor, own: Directions, size: Tensor, uniform: Tensor) -> Tensor:
    """Images (B, k) whose clipped pixels are drawn anew, one after the other.

    z_p given the others is normal, of precision P_pp and mean z_p - (P (z - mean))_p / P_pp, where
    P = B^T diag(1 / (texture + size^2)) B.

    Args:
        pixels: As in the file, (B, k).
        z: As drawn so far, (B, k).
        own: Of the noise and of images without it.
        size: s_i, (B,).
        uniform: Which quantile is drawn, in (0, 1), (B, k).
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


def redrawn(pixels: Tensor, halves: Halves) -> tuple[Tensor, Tensor]:
    """Images (B, k) un-clipped, by the other half's directions; ln likelihood of each of SIZES."""
    z, side, uniform = pixels.clone(), side_of(pixels), own_quantiles(pixels).to(pixels)
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


def levels(pixels: Tensor, halves: Halves, side: Tensor | None = None) -> Tensor:
    """ln rms in the quiet directions, and in the quieter half of them over the other, (B, 2)."""
    out, side = torch.zeros(len(pixels), 2), side_of(pixels) if side is None else side
    out = out.to(pixels)
    m = n_quiet(pixels.shape[1])
    for own in (0, 1):
        w = halves[1 - own].coordinates(pixels[side == own])[:, :m]
        squares = w.square() + SMALLEST**2
        quiet, rest = squares[:, : m // 2].mean(1), squares[:, m // 2 :].mean(1)
        out[side == own] = torch.stack([squares.mean(1).log(), (quiet / rest).log()], 1) / 2
    return out


def at_ends(pixels: Tensor) -> Tensor:
    """Share of the pixels of images (B, k) that are at 0 or 1, (B,)."""
    return ((pixels == 0) | (pixels == 1)).to(pixels.dtype).mean(1)


def features(pixels: Tensor, halves: Halves) -> Tensor:
    """By which clean images and noisy ones (B, k) are told apart: both levels, and the share of
    pixels at the ends, (B, 3)."""
    return torch.cat([levels(pixels, halves), at_ends(pixels)[:, None]], 1)


def law_of(
    pixels: Tensor, shape: tuple[int, ...], most: float = MOST_UNLIKE
) -> tuple[NoiseLaw, float] | None:
    """The law of noisy images (n, k) and their mean s_i^2; None if what they have is texture.

    Clipped pixels are drawn from the images' own covariance, whatever it is; at first they are a
    little beyond the ends. By chance the quietest of n images' variances are too small, by as much
    as those of n images of noise alone in twice as many directions.
    """
    pixels = pixels[:N_LAW]
    n, k = pixels.shape
    uniform, one = own_quantiles(pixels).to(pixels), torch.zeros(n, dtype=pixels.dtype)
    black, white = cut_off(pixels)
    z = pixels - 0.1 * uniform * black + 0.1 * uniform * white
    for i in range(N_SWEEPS):
        own = directions(z, one, WHITE, shape)
        own = replace(own, texture=own.variance.clamp(min=SMALLEST**2))
        z = sweep(pixels, z, own, one, turned(uniform, i))
    mean = z.mean(0)
    covariance = (z - mean).T @ (z - mean) / n

    def variances(law: NoiseLaw) -> Tensor:
        return whitening(covariance, law.covariance(mean, shape))[1]

    noise = torch.randn(n, k, generator=torch.Generator().manual_seed(1), dtype=z.dtype)
    most += unlikeness(torch.linalg.eigvalsh(noise.T @ noise / n))
    few = noise[:, : 2 * n_quiet(k)]
    shrunk = float(torch.linalg.eigvalsh(few.T @ few / n)[: n_quiet(k)].mean())
    unlike = {law: unlikeness(variances(law)) for law in laws()}
    law = min(unlike, key=lambda law: unlike[law])
    variance, ratio = float(variances(law)[: n_quiet(k)].mean()), law.ratio * shrunk
    is_weak = law.ratio > 0 and (ratio < LEAST_RATIO or law.ratio * variance < LEAST_SLOPE)
    if is_weak or unlike[law] > unlike[WHITE] - WORTH_A_LAW:
        law, ratio, variance = WHITE, 0.0, float(variances(WHITE)[: n_quiet(k)].mean())
    if unlike[law] > most or variance < LEAST_NOISE**2:
        return None
    return replace(law, ratio=ratio), variance / shrunk


def is_white(pixels: Tensor, halves: Halves) -> bool:
    """Whether noisy images (n, k), too few for a law, have white noise at all, not texture."""
    side, m = side_of(pixels), n_quiet(pixels.shape[1])
    unlike, total = 0.0, 0.0
    for own in (0, 1):
        squares = halves[1 - own].coordinates(pixels[side == own])[:, :m].square()
        if len(squares):
            unlike += len(squares) / len(pixels) * unlikeness(squares.mean(0), m)
            total += float(squares.mean(1).sum())
    variance = total / len(pixels)
    return unlike <= MOST_UNLIKE_FEW and variance >= LEAST_NOISE**2


def unlikeness(variances: Tensor, m: int | None = None) -> float:
    """ln of the arithmetic mean over the geometric one of the first m, the quiet ones, of (k,)."""
    quiet = variances[: m or n_quiet(len(variances))].clamp(min=SMALLEST**2)
    return float(quiet.mean().log() - quiet.log().mean())


Law = tuple[float, float]
"""Mean and deviation of a normal law."""


@dataclass(frozen=True)
class SmallNoiseRule(Rule):
    """The mixture of a set of small images.

    Attributes:
        halves: Directions of both halves; None where there are too few images.
        law: Of the noise.
        laws: Of clean and of noisy images, of each of their features.
        rate: Share of noisy images; 0 and 1 judge every image.
        sizes: Share of each of SIZES among the noisy images.
        scale: By which sizes are too large, since directions found from few images hold some of the
            others' texture: from the set's mean s_i^2.
    """

    halves: Halves | None
    law: NoiseLaw = WHITE
    laws: tuple[tuple[Law, ...], ...] = (CLEAN, NOISY)
    rate: float = 0.5
    sizes: tuple[float, ...] = (1 / len(SIZES),) * len(SIZES)
    scale: float = 1.0

    def posterior(self, seen: Tensor, most: float | None = None) -> Tensor:
        """Probability that images of these features (B, 3) are noisy, (B,).

        Args:
            seen: See `features`.
            most: Share of noisy images that this starts from, at most; see MOST_NOISY.
        """
        scores = []
        if self.rate in (0, 1):
            return torch.full((len(seen),), self.rate, dtype=torch.float64)
        if most is None:
            most = MOST_NOISY if self.laws[0][2] == self.laws[1][2] else MOST_NOISY_BY_TWO
        rate = min(self.rate, most)
        for laws, weight in zip(self.laws, (1 - rate, rate), strict=True):
            score = torch.full((len(seen),), math.log(weight), dtype=torch.float64)
            for x, (mean, spread) in zip(seen.unbind(1), laws, strict=True):
                score = score - ((x - mean) / spread).square() / 2 - math.log(spread)
            scores.append(score)
        # more noise than is usual does not make an image clean
        score = torch.where(seen[:, 0] > self.laws[1][0][0], scores[0] - 1e9, scores[0])
        return torch.stack([score, scores[1]], 1).softmax(1)[:, 1]

    def __call__(self, seen: Statistics) -> Columns:
        pixels = seen["noise.pixels"].double()
        names = ("gaussian", "poisson_gaussian", "correlated", "sigma", "slope", "correlation")
        columns: Columns = dict.fromkeys(names, torch.zeros(len(pixels)))
        if self.halves is None or self.rate == 0:
            return columns
        p = self.posterior(features(pixels, self.halves))
        has = (p > 0.5).float()
        sigma = has * self.size(redrawn(pixels, self.halves)[1]).float()
        return columns | {
            self.law.kind: p.float(), "sigma": sigma, "slope": self.law.ratio * sigma.square(),
            "correlation": self.law.correlation * has,
        }  # fmt: skip

    def size(self, likely: Tensor) -> Tensor:
        """Mean size of images of these likelihoods (B, n_sizes), given those of the set, (B,)."""
        return self.by_size(likely) @ SIZES / self.scale

    def by_size(self, likely: Tensor) -> Tensor:
        """Probability of each of SIZES, (B, n_sizes)."""
        return (likely + torch.tensor(self.sizes, dtype=torch.float64).log()).softmax(1)


def fit_small(pixels: Tensor, shape: tuple[int, ...]) -> SmallNoiseRule:
    """The mixture of images (n, k) of a shape (C, H, W): who is noisy, and its law, in turn."""
    side, pixels = side_of(pixels), pixels.double()
    n, k = pixels.shape
    if min((side == 0).sum(), (side == 1).sum()) < LEAST_IMAGES * k / 2:
        return SmallNoiseRule(None)
    rule, none = SmallNoiseRule(None), SmallNoiseRule(None, rate=0.0)
    z, noise, law, simulated = pixels, torch.ones(n, dtype=torch.float64), WHITE, None
    likely, has = torch.zeros(n, len(SIZES)), torch.ones(n, dtype=torch.bool)
    for turn in range(N_TURNS):
        first, second = (side == own for own in (0, 1))
        halves = (
            directions(z[first], noise[first], law, shape),
            directions(z[second], noise[second], law, shape),
        )
        rule = replace(rule, halves=halves, law=law)
        found = features(pixels, halves)
        rule = mixture(found, rule, simulated)
        has = rule.posterior(found) > 0.5
        if rule.rate < LEAST_RATE or has.sum() < LEAST_FOUND:
            return none
        is_asked = turn == N_TURNS - 1 and (~has).sum() >= MANY_IMAGES * k
        if is_asked and law_of(pixels[~has], shape, MOST_UNLIKE_ALL) is not None:
            rule, has = replace(rule, rate=1.0), torch.ones_like(has)
        redone, likely = redrawn(pixels, halves)
        size = SIZES[likely.argmax(1)]
        mean_square = float(size[has].square().mean())
        noisy = (WHITE, mean_square) if is_white(pixels[has], halves) else None
        if has.sum() >= MANY_IMAGES * k:
            noisy = law_of(pixels[has], shape)
        if noisy is None:
            return none
        law, scale = noisy[0], math.sqrt(mean_square / noisy[1])
        rule = replace(rule, scale=scale)
        simulated = level_of_noise(pixels[has], redone[has], size[has] / scale, halves, law, shape)
        z, noise = torch.where(has[:, None], redone, pixels), torch.where(has, size, SMALLEST)
    for _ in range(N_STEPS):
        shares = (rule.by_size(likely[has]).sum(0) + 1 / len(SIZES)) / (has.sum() + 1)
        rule = replace(rule, sizes=tuple(shares.tolist()))
    return rule


def mixture(found: Tensor, rule: SmallNoiseRule, simulated: Law | None) -> SmallNoiseRule:
    """The rule after expectation maximisation over images of these features (n, 3).

    Args:
        found: See `features`.
        rule: Where it starts.
        simulated: Law of the noisy images' level, where known; what is learned takes its place if
            it is wider, as where images have sizes of their own. Before that, nobody knows what
            the share at the ends says, nor where the images called noisy have more of it: weak
            noise alone would look like clean images beside strong noise.
    """
    if rule.rate == 1:
        return rule
    for _ in range(N_STEPS):
        p = rule.posterior(found, 1.0)
        level, homogeneity, ends = found.unbind(1)
        mean, spread = _learned(level, 1 - p, CLEAN[0])
        clean = (mean, min(spread, MOST_SPREAD)), _learned(homogeneity, 1 - p, CLEAN[1])
        noisy = _learned(level, p, NOISY[0]), NOISY[1]
        of_ends = ENDS, ENDS
        if simulated is not None:
            noisy = max(noisy[0], simulated, key=lambda law: law[1]), NOISY[1]
            learned = [_learned(ends, q, ENDS, LEAST_SPREAD_OF_ENDS) for q in (1 - p, p)]
            of_ends = learned if learned[0][0] > learned[1][0] else of_ends
        laws = (*clean, of_ends[0]), (*noisy, of_ends[1])
        rule = replace(rule, laws=laws, rate=float(p.mean()))
    return rule


def level_of_noise(
    pixels: Tensor, z: Tensor, size: Tensor, halves: Halves, law: NoiseLaw, shape: tuple[int, ...]
) -> Law:
    """Of the level of images like these noisy ones (n, k), with new noise.

    An image without noise is the mean of its law given the un-clipped one; s_i Sigma^(1/2) n is
    added, and it is clipped where the image is.
    """
    made, side = pixels.clone(), side_of(pixels)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(2), dtype=z.dtype)
    for own in (0, 1):
        rows, other = side == own, halves[1 - own]
        kept = other.texture / (other.texture + size[rows].square()[:, None])
        w = kept * other.coordinates(z[rows])
        clean = other.mean + torch.linalg.solve(other.across, w.T).T
        root = _root(law.covariance(other.mean, shape))
        made[rows] = clean.clamp(0, 1) + size[rows, None] * (noise[rows] @ root.T)
    made = torch.where(is_cut(pixels), made.clamp(0, 1), made)
    level = levels(made, halves, side)[:, 0]
    return float(level.mean()), max(float(level.std()), LEAST_SPREAD)


def _root(noise: Tensor) -> Tensor:
    """L of L L^T = noise and what rounding adds, (k, k)."""
    return torch.linalg.cholesky(noise + SMALLEST**2 * torch.eye(len(noise), dtype=noise.dtype))


def _learned(x: Tensor, p: Tensor, start: Law, least: float = LEAST_SPREAD) -> Law:
    total = float(p.sum()) + WORTH
    mean = (float((p * x).sum()) + WORTH * start[0]) / total
    variance = (float((p * (x - mean).square()).sum()) + WORTH * start[1] ** 2) / total
    return mean, max(math.sqrt(variance), least)

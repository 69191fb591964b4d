"""Noise of images too small to have windows: it is looked for where the set's images vary least.

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

**Clipping.** Pixels at 0 and 1 are drawn again (`_unclipping`). s_i is then the likeliest size, and
at last its mean given those of the set.

**Doubt.** What was drawn counts as if it had been seen, and no image is exactly normal, so the
likelihood is too sure of itself. Images made like the noisy ones, of known sizes, say by how much:
`doubt` is the variance of ln(size found / size made) over that which the likelihood claims, and
the likelihood's nats are divided by it.

**Who is noisy** is seen without un-clipping: ln rms of the quiet w of the image as it is, and that
of the quieter half's over the other's, are normal for clean images and for noisy ones, and so is
the share of pixels at 0 and 1: noise takes a background away from its end, or half of it.

Directions come from the half of the set to which an image does not belong (which half that is
follows from its pixels), since a sample's own smallest variances are too small.

On the [0, 1] scale. Source: ours; directions after Pyatykh, Hesser and Zheng 2013.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..contract import Columns, Rule, Statistics
from ._quiet_directions import (
    SMALLEST,
    WHITE,
    Halves,
    NoiseLaw,
    directions,
    laws,
    n_quiet,
    root_of,
    unlikeness,
    whitening,
)
from ._unclipping import (
    N_SWEEPS,
    SIZES,
    cut_off,
    is_cut,
    own_quantiles,
    redrawn,
    side_of,
    sweep,
    turned,
)

N_TURNS, N_STEPS, N_SIZES = 4, 40, 200
"""Of the fit; of expectation maximisation, and of that of the sizes' shares, which is slow."""
LEAST_IMAGES, MANY_IMAGES = 4, 6
"""Times the number of pixels: of fewer images no noise is found; of fewer noisy images only white
noise, by the directions of the others."""
LEAST_FOUND, N_LAW = 20, 2048
"""Noisy images without which there is no noise, and the most that decide the law."""
LEAST_NOISE = 2.5 / 255  # below it, rounding and texture are in the way
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
MOST_UNLIKE, MOST_UNLIKE_ALL, MOST_UNLIKE_FEW = 0.09, 0.05, 0.4
"""Unlikeness (see above) beyond chance. Measured on digits: noise 0.005 to 0.08, clean ones 0.1 to
0.4, JPEGs 0.12 to 0.4. Where images called clean have less than the second, all are noisy. By the
directions of the others: noise 0.05 to 0.2, clean ones among blurred ones 1 to 1.6."""
WORTH_A_LAW = 0.01
"""How much more alike another law must make the quiet variances than white noise does."""
LEAST_SLOPE, LEAST_RATIO = 0.04, 1.9
"""Of the variance over brightness, and of it to sigma^2: digits' bright pixels hold texture that
looks like a slope of 0.02."""


def levels(pixels: Tensor, halves: Halves, side: Tensor | None = None) -> Tensor:
    """ln rms in the quiet directions, and in the quieter half of them over the other, (B, 2)."""
    out, side = pixels.new_zeros(len(pixels), 2), side_of(pixels) if side is None else side
    m = n_quiet(pixels.shape[1])
    for own in (0, 1):
        w = halves[1 - own].coordinates(pixels[side == own])[:, :m]
        squares = w.square() + SMALLEST**2
        quiet, rest = squares[:, : m // 2].mean(1), squares[:, m // 2 :].mean(1)
        out[side == own] = torch.stack([squares.mean(1).log(), (quiet / rest).log()], 1) / 2
    return out


def features(pixels: Tensor, halves: Halves) -> Tensor:
    """By which clean and noisy images (B, k) are told apart, (B, 3): levels, share at the ends."""
    ends = ((pixels == 0) | (pixels == 1)).to(pixels.dtype).mean(1, keepdim=True)
    return torch.cat([levels(pixels, halves), ends], 1)


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


Law = tuple[float, float]  # mean and deviation of a normal law


@dataclass(frozen=True)
class SmallNoiseRule(Rule):
    """The mixture of a set of small images."""

    halves: Halves | None  # directions of both halves; None where there are too few images
    law: NoiseLaw = WHITE  # of the noise
    laws: tuple[tuple[Law, ...], ...] = (CLEAN, NOISY)  # of each of their features
    rate: float = 0.5  # share of noisy images; 0 and 1 judge every image
    sizes: tuple[float, ...] = (1 / len(SIZES),) * len(SIZES)  # their shares of the noisy images
    # sizes are too large by it, as directions found from few images hold some of others' texture
    scale: float = 1.0
    doubt: float = 1.0  # variance of the likeliest ln size over what the likelihood claims

    def posterior(self, seen: Tensor, most: float | None = None) -> Tensor:
        """Probability that images of these features (B, 3) are noisy, (B,). It starts from a share
        of noisy images of `most` at most; None: see MOST_NOISY."""
        scores = []
        if self.rate in (0, 1):
            return torch.full((len(seen),), self.rate, dtype=torch.float64)
        if most is None:
            most = MOST_NOISY if self.laws[0][2] == self.laws[1][2] else MOST_NOISY_BY_TWO
        rate = min(self.rate, most)
        for of_class, weight in zip(self.laws, (1 - rate, rate), strict=True):
            score = torch.full((len(seen),), math.log(weight), dtype=torch.float64)
            for x, (mean, spread) in zip(seen.unbind(1), of_class, strict=True):
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
        mean_size = self.by_size(redrawn(pixels, self.halves)[1]) @ SIZES / self.scale
        sigma = has * mean_size.float()
        return columns | {
            self.law.kind: p.float(), "sigma": sigma, "slope": self.law.ratio * sigma.square(),
            "correlation": self.law.correlation * has,
        }  # fmt: skip

    def by_size(self, likely: Tensor) -> Tensor:
        """Probability of each of SIZES for images of these likelihoods, (B, n_sizes), given the
        set's."""
        shares = torch.tensor(self.sizes, dtype=torch.float64)
        return (likely / self.doubt + shares.log()).softmax(1)


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
        is_last = turn == N_TURNS - 1
        own, other = ((z[side == half], noise[side == half]) for half in (0, 1))
        halves = directions(*own, law, shape), directions(*other, law, shape)
        rule = replace(rule, halves=halves, law=law)
        found = features(pixels, halves)
        rule = mixture(found, rule, simulated)
        has = rule.posterior(found) > 0.5
        if rule.rate < LEAST_RATE or has.sum() < LEAST_FOUND:
            return none
        is_asked = is_last and (~has).sum() >= MANY_IMAGES * k
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
        made = made_like(pixels[has], redone[has], size[has] / scale, halves, law, shape)
        simulated = level_of(made, halves, side[has])
        if is_last:
            doubt = doubt_of(made, size[has] / scale, halves, side[has])
            rule = replace(rule, doubt=doubt)
        z, noise = torch.where(has[:, None], redone, pixels), torch.where(has, size, SMALLEST)
    for _ in range(N_SIZES):
        shares = (rule.by_size(likely[has]).sum(0) + 1 / len(SIZES)) / (has.sum() + 1)
        rule = replace(rule, sizes=tuple(shares.tolist()))
    return rule


def mixture(found: Tensor, rule: SmallNoiseRule, simulated: Law | None) -> SmallNoiseRule:
    """The rule after expectation maximisation over images of these features (n, 3).

    `simulated` is the law of the noisy images' level, where known; what is learned takes its place
    if it is wider, as where images have sizes of their own. Before that, nobody knows what the
    share at the ends says, nor where the images called noisy have more of it: weak noise alone
    would look like clean images beside strong noise.
    """
    if rule.rate == 1:
        return rule
    level, homogeneity, ends = found.unbind(1)
    for _ in range(N_STEPS):
        p = rule.posterior(found, 1.0)
        mean, spread = learned(level, 1 - p, CLEAN[0])
        clean = (mean, min(spread, MOST_SPREAD)), learned(homogeneity, 1 - p, CLEAN[1])
        noisy = learned(level, p, NOISY[0])
        of_ends = ENDS, ENDS
        if simulated is not None:
            noisy = max(noisy, simulated, key=lambda law: law[1])
            seen = [learned(ends, q, ENDS, LEAST_SPREAD_OF_ENDS) for q in (1 - p, p)]
            of_ends = seen if seen[0][0] > seen[1][0] else of_ends
        laws = (*clean, of_ends[0]), (noisy, NOISY[1], of_ends[1])
        rule = replace(rule, laws=laws, rate=float(p.mean()))
    return rule


def made_like(
    pixels: Tensor, z: Tensor, size: Tensor, halves: Halves, law: NoiseLaw, shape: tuple[int, ...]
) -> Tensor:
    """Images like these noisy ones (n, k), with new noise of known sizes (n,). An image without
    noise is the mean of its law given the un-clipped one; s_i Sigma^(1/2) n is added, and it is
    clipped where the image is."""
    made, side = pixels.clone(), side_of(pixels)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(2), dtype=z.dtype)
    for own in (0, 1):
        rows, other = side == own, halves[1 - own]
        kept = other.texture / (other.texture + size[rows].square()[:, None])
        w = kept * other.coordinates(z[rows])
        clean = other.mean + torch.linalg.solve(other.across, w.T).T
        root = root_of(law.covariance(other.mean, shape))
        made[rows] = clean.clamp(0, 1) + size[rows, None] * (noise[rows] @ root.T)
    return torch.where(is_cut(pixels), made.clamp(0, 1), made)


def level_of(made: Tensor, halves: Halves, side: Tensor) -> Law:
    """The law of the level of images (n, k)."""
    level = levels(made, halves, side)[:, 0]
    return float(level.mean()), max(float(level.std()), LEAST_SPREAD)


def doubt_of(made: Tensor, size: Tensor, halves: Halves, side: Tensor) -> float:
    """Variance of ln(size found / size made) over that which the likelihood claims, at least 1, for
    images (n, k) made with these sizes (n,)."""
    likely, ln = redrawn(made, halves, side)[1], SIZES.log()
    p = likely.softmax(1)
    claimed = (p @ ln.square() - (p @ ln).square()).mean()
    return max(1.0, float((ln[likely.argmax(1)] - size.log()).var() / claimed))


def learned(
    x: Tensor, p: Tensor, start: Law, least: float = LEAST_SPREAD, worth: float = WORTH
) -> Law:
    """Of x (B,) with weights p; the start is worth so many images."""
    total = float(p.sum()) + worth
    mean = (float((p * x).sum()) + worth * start[0]) / total
    variance = (float((p * (x - mean).square()).sum()) + worth * start[1] ** 2) / total
    return mean, max(math.sqrt(variance), least)

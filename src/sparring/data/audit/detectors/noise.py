"""Noise of a camera or of a random generator: its size, its dependence on brightness, its grain.

    y = x + n,   var n = sigma^2 + slope * brightness,   n white or blurred by `correlation` pixels

**One image.** Differences of differences see little of an image and all of white noise,

    HH_d = (y[p] - y[p + (0, d)] - y[p + (d, 0)] + y[p + (d, d)]) / 2
    var HH_d = (1 - rho_d)^2 var n,   rho_d the noise's correlation at d pixels along an axis.

Of colour images the differences of the channels (over sqrt 2) show less still. `white` is Huber's
scale of HH_1: texture is rare and large. Pixels at 0 or 1 are un-clipped around the blurred image,
with the scale found so far, a few times over. The draws are fixed for a shape, each with its mirror
image, so an image looks the same in every batch.

**Where is it?** Noise is everywhere, texture is not. Energies of HH are averaged over small
windows, the windows sorted into `N_BINS` of brightness, and of each bin there is the low quantile
(`floor`) and the median (`middle`), each divided by what unit white noise has in such images.

- homogeneity = ln floor / middle: 0 for noise, below for texture;
- peaks = ln of the high quantile over the middle one: 0 for noise, above where edges stand out;
- grain = ln of the middle at a large d over that at 1: 0 for white noise;
- tint = ln of the channels' own floor over that of their differences: 0 for independent channels;
- trend = ln of the middle in the brightest bin over that in the darkest;
- flat = 2 x 2 pixels that are all black, over the black ones: noise that was cut off at 0 leaves
  every second pixel of a black area above it, and one quad of sixteen.

**The set.** A mixture of clean images, white noise of each image's own size, Poisson noise of a
shared law, correlated noise, and what a camera's JPEG files hold (weak, coarse, alike in all
channels), by expectation maximisation. Each class is a normal law of each of these numbers; what
noise has of them is known, what clean images have is learned from the set. The size of an image's
white noise is drawn towards the set's mean as far as sizes differ by no more than chance makes
them: in a set of noise of one size nearly all the way, in large images not at all. A blurred image
has none of the fine detail by which a camera's noise is known, and is not called that.

On the [0, 1] scale. Source: ours; HH after Donoho and Johnstone 1994, un-clipping after Chib 1992.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..contract import HAS, SAID, Columns, Detector, Rule, Statistics, said
from ._small_noise import fit_small, learned
from ._unclipping import ends, quantiles, unclipped
from ._windows import (
    HIGH,
    LOW,
    MIDDLE,
    SMALLEST,
    blurred,
    far_lag,
    haar,
    huber_scale,
    line,
    quantile,
    tintless,
    unit_quantiles,
    windows,
)

N_ROUNDS = 3  # of un-clipping; each overshoots a little more where the image is dark but not black
N_WINDOWS = 4
"""In a bin; with fewer (images below 12x12) they say nothing, and _small_noise looks instead."""
Laws = dict[str, dict[str, tuple[float, float]]]
"""Mean and standard deviation of each feature, by class."""
NOISE = {
    "homogeneity": (0.03, 0.1), "peaks": (0.0, 0.12), "grain": (0.12, 0.15), "tint": (0.03, 0.1),
    "homogeneity_c": (-0.02, 0.09), "peaks_c": (0.02, 0.12),
}  # fmt: skip
START: Laws = {
    "clean": {
        "level_c": (-4.5, 1.0), "homogeneity": (-0.45, 0.35), "peaks": (0.5, 0.35),
        "grain": (0.6, 0.3), "tint": (0.7, 0.6), "homogeneity_c": (-0.4, 0.35),
        "peaks_c": (0.5, 0.35), "trend": (0.3, 1.0),
    },
    "gaussian": NOISE | {"level": (-2.2, 0.8), "trend": (0.05, 0.2)},
    "poisson_gaussian": NOISE | {"level_of_law": (0.0, 0.15), "trend_of_law": (0.0, 0.2)},
    "correlated": NOISE
    | {
        "level": (-2.6, 0.6), "homogeneity": (0.03, 0.07), "peaks": (0.0, 0.08),
        "grain": (0.7, 0.18), "trend": (0.1, 0.25),
    },
    "camera": {
        "level_c": (-5.6, 0.35), "homogeneity": (-0.3, 0.25), "peaks": (0.3, 0.2),
        "grain": (0.92, 0.18), "tint": (1.0, 0.3), "homogeneity_c": (-0.27, 0.12),
        "peaks_c": (0.3, 0.2), "trend": (0.0, 0.4),
    },
}  # fmt: skip
"""What clean images and noise have, measured on clothes and photographs of 16 to 512 pixels with
noise of 0.05 to 0.35, correlated over 0.7 to 1 pixels, and on photographs of five cameras."""
LEARNED = {
    "clean": tuple(START["clean"]), "gaussian": ("level",), "correlated": ("level", "grain"),
    "camera": ("homogeneity_c", "peaks", "peaks_c", "tint"),
}  # fmt: skip
OF_COLOUR = ("tint", "homogeneity_c", "peaks_c")
WIDE, MOST_OFF = ("clean", "camera"), 9.0
"""Photographs are of many kinds: what is off by more than 3 deviations, but for the level, says no
more against these two classes than what is off by 3."""
FLATTEST = {
    "gaussian": (0.125, 0.05), "poisson_gaussian": (0.125, 0.05), "correlated": (0.36, 0.05),
}  # fmt: skip
LEAST_BLACK, MOST_FLAT = 0.05, 4.0
"""Of `flatness`: what noise leaves of a black area at most, and its deviation; the share of an
image that must be black; and from how many deviations on nothing more is said, for a camera may
have cut off its own noise in the shadows. Skies cut off to white are too common to be asked."""
CLASSES = tuple(START)
N_STEPS, N_SEARCH = 40, 20
"""Of expectation maximisation; after N_SEARCH a class of less than its LEAST_RATE is dropped."""
LEAST_RATE = {
    "clean": 0.0, "gaussian": 0.05, "poisson_gaussian": 0.07, "correlated": 0.07, "camera": 0.42,
}  # fmt: skip
"""Share of the images below which a class is not believed: a few clean images always look like
noise. Of a camera's images most are noisy, and many clean photographs look like them."""
WORTH = 5.0  # images that a start is worth
LEAST_SIZES = 20  # noisy images that say how sizes differ
MOST_NOISY = 0.5
"""Share of noisy images that a judgement starts from: never does the set alone condemn an image."""
FEW = 0.02
"""Share of the images that does not say what clean ones are like: as many noisy ones pass. So what
clean images have is worth as much before any is seen: where nothing is clean, the class would else
grow from these few and take the weaker half of the noise."""
LEAST_SPREAD, LEAST_TREND = 0.1, 0.42
LEAST_OF_CORRELATED = {"level": -3.0, "grain": 0.5}
LEAST_NOISE = math.log(2.5 / 255)
"""Of the level; below it rounding, and what cameras leave, are in the way (but see camera)."""
FAR_LEFT = {2: 0.68, 4: 0.82}
"""Of a camera's noise, the share of the deviation that HH at the large d sees: its pixels still
correlate at 4 pixels, by 0.24, which no Gaussian blur does."""
GRAIN_QUANTILE = 0.3
"""Texture adds to what is seen at the large d, so a camera's size is read at 1 pixel and carried
over by the grain that the set's images share: a low quantile of theirs, for texture adds to it
too."""


CHANCE = 3.0
"""Variance of ln size of an image, by chance, times the values of HH that it was read from:
measured 2.6 to 3.6 on clothes of 16 and 28 pixels and on photographs of 32, half cut off; 1.6 to
2.3 where nothing is."""


class Noise(Detector):
    """Additive noise: white, brighter where the image is, or correlated."""

    kinds = ("gaussian", "poisson_gaussian", "correlated")
    after = ("blur",)

    def look(self, x: Tensor) -> dict[str, Tensor]:
        """Statistics of images.

        Returns:
            white: Scale of HH_1, un-clipped for noise of one size, (B,).
            brightness, floor, middle: By bin of brightness, (B, N_BINS), un-clipped for noise whose
                variance is a line in brightness: its mean, and the noise's standard deviation by
                the low and the middle quantile of the windows.
            channels: The same of the channels at d = 1, low and middle, and at large d, middle;
                mean logarithms over the bins, (B, 3).
            peaks: Of the channels' differences and of the channels, (B, 2).
            lag: The large d, pixels; 0 for images too small to be judged, (B,).
            is_colour: 1 or 0, (B,).
            flat: `flatness`, (B,).
            pixels, shape: Of images that are too small, (B, C H W), else (B, 0); (C, H, W), (B, 3).
        """
        x = x.float()
        n_windows = windows(x[:1], first_only=True)[1].shape[3]
        lag = float(far_lag(*x.shape[2:]) if n_windows >= N_WINDOWS else 0)
        seen = {
            "lag": torch.full((len(x),), lag),
            "is_colour": torch.full((len(x),), float(x.shape[1] > 1)),
            "flat": flatness(x),
            "pixels": x.flatten(1) if lag == 0 else x.new_zeros(len(x), 0),
            "shape": torch.tensor([x.shape[1:]] * len(x), dtype=torch.float32),
        }
        uniform = quantiles(tuple(x.shape[1:]))
        is_cut = ((x == 0) | (x == 1)).flatten(1).any(1)
        for rows, draws in ((is_cut, (uniform, 1 - uniform)), (~is_cut, ())):
            for name, values in self._energies(x[rows], draws).items():
                whole = seen.setdefault(name, values.new_zeros(len(x), *values.shape[1:]))
                whole[rows] = values
        return seen

    def _energies(self, x: Tensor, draws: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The statistics that need un-clipping: once with each of these draws, of the mean."""
        guesses = [x for _ in draws] or [x]
        at, white = ends(x), self._scale([x])
        for _ in range(N_ROUNDS):
            scale = white[:, None, None, None]
            for k, u in enumerate(draws):
                guesses[k] = unclipped(x, at, blurred(guesses[k]).clamp(0, 1), scale, u)
            white = self._scale(guesses, white)
        low, middle, high = unit_quantiles(tuple(x.shape[1:]))
        for _ in range(N_ROUNDS if draws else 0):
            brightness, energies = self._windows(guesses, first_only=True)
            a, b = line(brightness, quantile(energies[:, 0], MIDDLE) / middle[0])
            a, b = a[:, None, None, None], b[:, None, None, None]
            for k, u in enumerate(draws):
                mean = blurred(guesses[k]).clamp(0, 1)
                scale = (a + b * mean).clamp(min=SMALLEST**2).sqrt()
                guesses[k] = unclipped(x, at, mean, scale, u)
        brightness, energies = self._windows(guesses)
        low = (quantile(energies, LOW) / low).sqrt()
        high = (quantile(energies, HIGH) / high).sqrt()
        middle = (quantile(energies, MIDDLE) / middle).sqrt()
        channels = [low[:, 1], middle[:, 1], middle[:, 2]]
        return {
            "white": white, "brightness": brightness, "floor": low[:, 0], "middle": middle[:, 0],
            "channels": torch.stack([_log(each).mean(1) for each in channels], 1),
            "peaks": (_log(high) - _log(middle)).mean(2)[:, :2],
        }  # fmt: skip

    def _scale(self, guesses: list[Tensor], start: Tensor | None = None) -> Tensor:
        scales = [huber_scale(haar(tintless(guess)), start) for guess in guesses]
        return torch.stack(scales).mean(0)

    def _windows(self, guesses: list[Tensor], first_only: bool = False) -> tuple[Tensor, Tensor]:
        brightness, energies = zip(*(windows(each, first_only) for each in guesses), strict=True)
        return torch.stack(brightness).mean(0), torch.stack(energies).mean(0)

    def fit(self, seen: Statistics) -> Rule:
        """Expectation maximisation; small images have a rule of their own."""
        if seen["noise.pixels"].shape[1]:
            shape = tuple(seen["noise.shape"][0].int().tolist())
            return fit_small(seen["noise.pixels"], shape)
        seen = {name: seen[name].double() for name in seen if name.startswith(("noise.", SAID))}
        n, even = len(seen["noise.white"]), dict.fromkeys(CLASSES, 1 / len(CLASSES))
        rule = NoiseRule({name: dict(START[name]) for name in CLASSES}, even, (0.0, 0.0), 0.0)
        p = rule.posterior(seen)
        bright = p * (features(seen, rule.law)["trend"] > LEAST_TREND)[:, None]
        rule = replace(rule, law=poisson_law(seen, bright[:, 1:].sum(1)))
        for step in range(N_STEPS):
            p = rule.posterior(seen)
            weights = dict(zip(CLASSES, (p.sum(0) / n).tolist(), strict=True))
            if step >= N_SEARCH:
                weights = {k: w if w >= LEAST_RATE[k] else 0.0 for k, w in weights.items()}
            law = poisson_law(seen, p[:, CLASSES.index("poisson_gaussian")])
            rule = replace(rule, law=law, weights=weights)
            f = features(seen, law)
            for name, of_class in LEARNED.items():
                own = p[:, CLASSES.index(name)]
                for feature in of_class:
                    worth = WORTH + (FEW * n if name == "clean" else 0)
                    start = START[name][feature]
                    mean, spread = learned(f[feature], own, start, LEAST_SPREAD, worth)
                    least = LEAST_OF_CORRELATED.get(feature, mean) if name == "correlated" else mean
                    rule.laws[name][feature] = max(mean, least), spread
        clean = (p[:, 0] > 0.5).double()
        enough = clean.sum() + WORTH + FEW * n
        texture = float((clean * seen["noise.white"].square()).sum() / enough)
        noisy = 1 - rule.weights["clean"]
        if noisy > MOST_NOISY:
            shares = {name: w * MOST_NOISY / noisy for name, w in rule.weights.items()}
            rule = replace(rule, weights=shares | {"clean": 1 - MOST_NOISY})
        own = p[:, CLASSES.index("gaussian")] > 0.5
        usual = usual_size(white_size(seen, texture)[own], chance(seen)[own])
        grains = f["grain"][p[:, CLASSES.index("camera")] > 0.5]
        grain = float(grains.quantile(GRAIN_QUANTILE)) if len(grains) else 0.0
        return replace(rule, texture=texture, grain=grain, usual=usual)


def white_size(seen: Statistics, texture: float) -> Tensor:
    """Standard deviation of white noise, (B,), in images that have so much `texture` in HH_1."""
    return (seen["noise.white"].square() - texture).clamp(min=SMALLEST**2).sqrt()


def chance(seen: Statistics) -> Tensor:
    """Variance of ln of that size by chance, (B,)."""
    channels, height, width = seen["noise.shape"].double().unbind(1)
    return CHANCE / ((channels - 1).clamp(min=1) * (height - 1) * (width - 1))


def usual_size(size: Tensor, by_chance: Tensor) -> tuple[float, float]:
    """Mean ln of the sizes (n,) of a set's white noise, and its variance beyond chance (n,)."""
    if len(size) < LEAST_SIZES:
        return 0.0, math.inf
    ln = size.log()
    return float(ln.mean()), max(0.0, float(ln.var() - by_chance.mean()))


def flatness(x: Tensor) -> Tensor:
    """2 x 2 black pixels over the number of black pixels, (B,); 0 for images (B, C, H, W) of which
    less than LEAST_BLACK is black."""
    is_black = (x <= 0).all(1)
    across = is_black[..., 1:] & is_black[..., :-1]
    quads = (across[:, 1:] & across[:, :-1]).sum((1, 2))
    n_black = is_black.sum((1, 2))
    return torch.where(n_black >= LEAST_BLACK * is_black[0].numel(), quads / n_black, 0.0)


def features(seen: Statistics, law: tuple[float, float]) -> dict[str, Tensor]:
    """The numbers that the mixture is of, (B,) each; see above. Those that end in _c are of the
    channels, the others of their differences; level is the mean ln floor, and those of the law are
    middle's level and trend above what the Poisson law predicts."""
    middle = _log(seen["noise.middle"])
    low, mid, far = seen["noise.channels"].unbind(1)
    level, trend = _log(seen["noise.floor"]).mean(1), middle[:, -1] - middle[:, 0]
    predicted = (law[0] + law[1] * seen["noise.brightness"]).clamp(min=SMALLEST**2).log() / 2
    return {
        "level": level, "homogeneity": level - middle.mean(1), "peaks": seen["noise.peaks"][:, 0],
        "level_c": low, "homogeneity_c": low - mid, "peaks_c": seen["noise.peaks"][:, 1],
        "grain": far - mid, "tint": low - level, "trend": trend,
        "level_of_law": (middle - predicted).mean(1),
        "trend_of_law": trend - (predicted[:, -1] - predicted[:, 0]),
    }  # fmt: skip


def poisson_law(seen: Statistics, p: Tensor) -> tuple[float, float]:
    """(a, b) of the variance a + b * brightness that images share, with weights p, (B,)."""
    v, variance = seen["noise.brightness"].flatten(), seen["noise.middle"].square().flatten()
    p = p[:, None].expand_as(seen["noise.brightness"]).flatten() + 1e-9
    a, b = float((p * variance).sum() / p.sum()), 0.0
    for _ in range(4):
        w = p / (a + b * v + SMALLEST**2).square()
        w = w / w.sum()
        mean_v, mean = float((w * v).sum()), float((w * variance).sum())
        spread = float((w * (v - mean_v).square()).sum())
        b = max(0.0, float((w * (v - mean_v) * (variance - mean)).sum()) / (spread + 1e-9))
        a = max(SMALLEST**2, mean - b * mean_v)
    return a, b


def correlation_of(grain: Tensor, lag: Tensor) -> Tensor:
    """Standard deviation, pixels, of the blur of noise of this grain, at most 3 pixels, (B,).

    e^grain = (1 - rho_lag) / (1 - rho_1),   rho_d = exp(-d^2 / (4 correlation^2)).
    """
    correlation = torch.linspace(0.2, 3, 281, dtype=grain.dtype)
    far = 1 - (-lag[:, None].square() / (4 * correlation.square())).exp()
    near = 1 - (-1 / (4 * correlation.square())).exp()
    return correlation[((far / near).log() - grain[:, None]).abs().argmin(1)]


@dataclass(frozen=True)
class NoiseRule(Rule):
    """The mixture of the set."""

    laws: Laws  # of the features
    weights: dict[str, float]  # of the classes, sum about 1; 0 where there are none; see MOST_NOISY
    law: tuple[float, float]  # (a, b) of the Poisson noise: its variance is a + b * brightness
    texture: float  # mean square that clean images have in HH_1
    grain: float = 0.0  # of the camera's noise alone
    usual: tuple[float, float] = (0.0, math.inf)  # of ln size of white noise: mean and variance

    def posterior(self, seen: Statistics) -> Tensor:
        """Probability of each class, (B, n_classes), float64."""
        f, is_colour = features(seen, self.law), seen["noise.is_colour"] > 0
        scores = []
        for name in CLASSES:
            score = torch.full_like(f["level"], math.log(self.weights[name] + 1e-300))
            for feature, (mean, spread) in self.laws[name].items():
                off = ((f[feature] - mean) / spread).square()
                if name in WIDE and not feature.startswith("level"):
                    off = off.clamp(max=MOST_OFF)
                term = -off / 2 - math.log(spread)
                score = score + (is_colour * term if feature in OF_COLOUR else term)
            if name in FLATTEST:
                most, spread = FLATTEST[name]
                off = ((seen["noise.flat"] - most) / spread).clamp(0, MOST_FLAT)
                score = score - off.square() / 2
            scores.append(score)
        a, b = self.law
        trend = math.log((a + 0.8 * b + 1e-12) / (a + 0.1 * b + 1e-12)) / 2
        never = torch.stack([
            seen["noise.lag"] == 0 if name != "clean" else is_colour < 0 for name in CLASSES
        ], 1)  # fmt: skip
        camera = CLASSES.index("camera")
        never[:, 1:camera] |= (f["level"] < LEAST_NOISE)[:, None]
        never[:, camera] |= ~is_colour | (said(seen, ("blur", "enlarged")) > HAS)
        never[:, CLASSES.index("poisson_gaussian")] |= trend < LEAST_TREND
        return torch.stack(scores, 1).masked_fill(never, -1e9).softmax(1)

    def __call__(self, seen: Statistics) -> Columns:
        seen = {name: seen[name].double() for name in seen if name.startswith(("noise.", SAID))}
        f, p = features(seen, self.law), self.posterior(seen)
        by_name = dict(zip(CLASSES, p.unbind(1), strict=True))
        kinds = {name: by_name[name] for name in Noise.kinds}
        kinds["correlated"] = by_name["correlated"] + by_name["camera"]
        best = p.argmax(1)
        correlation = correlation_of(f["grain"], seen["noise.lag"])
        near = seen["noise.channels"][:, 1].exp()
        far_left = torch.where(seen["noise.lag"] > 2, FAR_LEFT[4], FAR_LEFT[2]).to(near)
        sigmas = {
            "clean": torch.zeros_like(near),
            "gaussian": self._drawn_to_the_mean(white_size(seen, self.texture), chance(seen)),
            "poisson_gaussian": torch.full_like(near, math.sqrt(self.law[0])),
            "correlated": near / (1 - (-1 / (4 * correlation.square())).exp()),
            "camera": near * math.exp(self.grain) / far_left,
        }
        sigma = torch.stack([sigmas[name] for name in CLASSES], 1)
        is_poisson = best == CLASSES.index("poisson_gaussian")
        is_correlated = best >= CLASSES.index("correlated")
        columns = kinds | {
            "sigma": sigma.gather(1, best[:, None])[:, 0],
            "slope": is_poisson * self.law[1],
            "correlation": is_correlated * correlation,
        }
        return {name: values.float() for name, values in columns.items()}

    def _drawn_to_the_mean(self, size: Tensor, by_chance: Tensor) -> Tensor:
        """The mean of ln size given those of the set."""
        mean, variance = self.usual
        kept = 1 / (1 + by_chance / max(variance, SMALLEST**2))
        return (mean + kept * (size.log() - mean)).exp()


def _log(x: Tensor) -> Tensor:
    return (x + SMALLEST).log()

r"""How noisy is a set of images, and which of them, when nobody knows: sigma and the rate.

    y_i = x_i + b_i sigma n_i,   b_i = 1 with probability rate,   n_i ~ N(0, I)

**Where to look.** Clean images vary little in some directions, noise varies in all of them alike.
The m principal directions u_j of least variance, of whole small images or of patches of large ones,
hold almost nothing but noise. What an image has there is its residual energy,

    e_i = mean over its patches and j of <y_i - mean, u_j>^2.

The directions come from the other half of the data, never from the image itself (cross-fitting):
the smallest variances of a sample are smaller than they should be, and e_i would be too.

**The mixture.** A clean image has the energy t of its own detail and ln t ~ N(mu, s^2). Noise on
such an image makes a non-central chi square of nu = m times the number of patches degrees:

    ln e ~ (1 - rate) N(mu, s^2) + rate * law of ln(sigma^2 / nu * chi2(nu, nu t / sigma^2))

Maximum likelihood gives rate, sigma, mu and s. Detail counts on dirty images as on clean ones, so
it does not pass for noise. That all images might be dirty is allowed: noise of one size spreads the
energies less than detail does (s >= `LEAST_SPREAD`).

**Clipping.** An image of 8 bits holds nothing outside [0, 1]. At an empty pixel clipping leaves
1/2 - 1/(2 pi) = 0.34 of the noise's variance, far from both ends all of it; with z the share of
noisy images in which a pixel is at an end, 1 - 1.32 z is exact in both cases and near in between.
sigma is divided by the root of what is left in the quiet directions. Clipped noise has a kurtosis
of up to 5.4, so its energies spread like those of nu / 2.2 degrees; the likelier of both is taken.

Works on the [0, 1] scale. Source: ours; the directions after Pyatykh, Hesser and Zheng 2013 ("Image
noise level estimation by principal component analysis"), who take the smallest variance itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.stats import ncx2, norm
from torch import Tensor

from ...randomness import generator
from ..base import Dataset

MAX_VALUES = 1024
"""Whole images of so many values have principal directions of their own; larger ones are cut."""
PATCH_SIDES = (8, 4)
MAX_DIRECTIONS = 64
ROWS_PER_VALUE, MAX_ROWS = 4, 8192
"""Least number of images or patches in a half per value of theirs, and the most that count."""
LEAST_IMAGES = 32
FLOOR = (1 / 255) ** 2 / 12
"""Energy of rounding to 8 bits: no image has less."""
MAX_DEGREES = 256
"""More degrees of freedom than this are not believed: no two images have exactly the same noise."""
LEAST_SPREAD = 0.4
"""Of clean images' ln energy. Clean digits, clothes and photographs have 0.7 to 1.4; directions
learned from noisy data leave 0.5."""
LOST_AT_AN_END = 1 + 1 / np.pi
"""Share of the noise's variance that clipping takes, per share of images at an end: 0.66 / 0.5."""
CLIPPED_KURTOSIS = 5.41
"""Of max(n, 0), n ~ N(0, 1)."""
STRAY = 1e-3
"""Share of images that may lie anywhere, for robustness."""
N_BINS, N_NODES, N_CUTS = 120, 9, 25
NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(N_NODES)
NODE_WEIGHTS = NODE_WEIGHTS / NODE_WEIGHTS.sum()
LEAST_RATE, LEAST_GAIN, LEAST_WHITENESS = 0.05, 0.01, 0.75
"""What counts as noise: a share of the images, log likelihood per image above that of clean images
alone, and the energy in the quieter half of the directions against that in all."""


@dataclass(frozen=True)
class Half:
    """Quiet directions of one half of the data: mean (k,), directions (k, m), quietest first."""

    mean: Tensor
    directions: Tensor

    def squares(self, pieces: Tensor) -> Tensor:
        """Squares in each direction, mean over the patches: (B, m) of (B, n_patches, k)."""
        return ((pieces - self.mean) @ self.directions).square().mean(1)


@dataclass(frozen=True)
class Residual:
    """Measures the energy of images in the directions in which images vary least.

    Attributes:
        patch: Height and width of what has principal directions; the whole image if it is small.
        side: For each image of the data set the half it belongs to, (N,), 0 or 1.
        halves: Directions of half 0 and of half 1.
        degrees: Degrees of freedom of an image's energy, m times the number of its patches.
    """

    patch: tuple[int, int]
    side: Tensor
    halves: tuple[Half, Half]
    degrees: int

    def energy(self, x0: Tensor, index: Tensor) -> np.ndarray:
        """e_i in all directions and in the quieter half of them, (B, 2), images (B, C, H, W)."""
        out = torch.zeros(len(x0), 2)
        pieces = patches(x0, self.patch)
        for own in (0, 1):
            rows, other = self.side[index] == own, self.halves[1 - own]
            squares = other.squares(pieces[rows])
            quiet = squares[:, : max(1, squares.shape[1] // 2)]
            out[rows] = torch.stack([squares.mean(1), quiet.mean(1)], 1)
        return out.double().numpy() + FLOOR

    def kept(self, x0: Tensor) -> float:
        """Share of the noise's variance that clipping has left in noisy images (B, C, H, W)."""
        at_end = ((x0 <= 0) | (x0 >= 1)).float()
        left = 1 - LOST_AT_AN_END * patches(at_end, self.patch).mean((0, 1)).clamp(max=0.5)
        shares = [(half.directions.square() * left[:, None]).sum(0).mean() for half in self.halves]
        return float(sum(shares) / 2)


def quiet_directions(dataset: Dataset, seed: int = 0) -> Residual | None:
    """The directions in which a data set's images vary least, None where there are too few images.

    Args:
        dataset: Images.
        seed: Of the division in halves and of the images that are looked at.
    """
    n, shape = len(dataset), dataset.sample_shape
    patch = _patch(n, shape)
    if patch is None:
        return None
    order = torch.randperm(n, generator=generator("cpu", seed, "halves"))
    side = torch.zeros(n, dtype=torch.long)
    side[order[n // 2 :]] = 1
    n_values = shape[0] * patch[0] * patch[1]
    m = min(max(1, n_values // 4), MAX_DIRECTIONS)
    per_image = (shape[1] // patch[0]) * (shape[2] // patch[1])
    n_images = max(LEAST_IMAGES, -(-MAX_ROWS // per_image))
    halves = [
        _quiet(dataset, half[:n_images].sort().values, patch, m)
        for half in (order[: n // 2], order[n // 2 :])
    ]
    return Residual(patch, side, (halves[0], halves[1]), m * per_image)


def _patch(n: int, shape: Sequence[int]) -> tuple[int, int] | None:
    """The whole image, else the largest square of which there are enough."""
    channels, height, width = shape
    sides = [(side, side) for side in PATCH_SIDES if side <= min(height, width)]
    for h, w in [(height, width), *sides]:
        n_values, n_rows = channels * h * w, n // 2 * (height // h) * (width // w)
        if (
            n >= LEAST_IMAGES
            and 4 <= n_values <= MAX_VALUES
            and n_rows >= ROWS_PER_VALUE * n_values
        ):
            return h, w
    return None


def _quiet(dataset: Dataset, rows: Tensor, patch: tuple[int, int], m: int) -> Half:
    """Principal directions of least variance of the patches of these images."""
    total = torch.zeros((), dtype=torch.float64)
    n, mean, second = 0, total, total
    for chunk in rows.split(chunk_size(dataset)):
        pieces = patches(dataset.__getitems__(chunk.tolist())["x0"], patch).flatten(0, 1).double()
        n += len(pieces)
        mean = mean + pieces.sum(0)
        second = second + pieces.T @ pieces
    mean = mean / n
    _, directions = torch.linalg.eigh(second / n - mean[:, None] * mean)
    return Half(mean.float(), directions[:, :m].float())


def chunk_size(dataset: Dataset) -> int:
    """Images to hold at once: at most 1,024, and 2^24 values."""
    return max(1, min(1024, 2**24 // int(np.prod(dataset.sample_shape))))


def patches(x: Tensor, patch: tuple[int, int]) -> Tensor:
    """Patches side by side, (B, n_patches, C h w), of images (B, C, H, W); what is over is cut."""
    (n, channels, height, width), (h, w) = x.shape, patch
    rows, columns = height // h, width // w
    x = x[:, :, : rows * h, : columns * w].reshape(n, channels, rows, h, columns, w)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(n, rows * columns, channels * h * w)


@dataclass(frozen=True)
class NoiseLevel:
    """The mixture that was found.

    Attributes:
        rate: Share of noisy images.
        sigma_left: Standard deviation of their noise as far as clipping left it, [0, 1] scale.
        mu, spread: Mean and standard deviation of clean images' ln energy.
        degrees: nu, of the chi square.
        gain: Log likelihood per image above that of clean images alone, nats.
        whiteness: Energy of noisy images in the quieter half of the directions against that in all;
            1 for white noise, far below for detail that passes for noise.
        kept: Share of the noise's variance that clipping has left, 1 without.
    """

    rate: float
    sigma_left: float
    mu: float
    spread: float
    degrees: int
    gain: float
    whiteness: float
    kept: float = 1.0

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise that was added, [0, 1] scale."""
        return self.sigma_left / float(np.sqrt(self.kept))

    @property
    def is_found(self) -> bool:
        """Whether there is noise of one size on some share of the images."""
        return (
            self.rate >= LEAST_RATE
            and self.gain >= LEAST_GAIN
            and self.whiteness >= LEAST_WHITENESS
        )

    @property
    def clean_rms(self) -> float:
        """What clean images have in the quiet directions: the root of their median energy."""
        return float(np.exp(self.mu / 2))

    def p_noisy(self, energy: np.ndarray) -> np.ndarray:
        """Probability that images of these energies are noisy, (N,).

        Above sigma^2 + the median clean energy it does not fall again, though a clean image of much
        detail may be as likely there.
        """
        top = np.log(self.sigma_left**2 + np.exp(self.mu))
        c = np.minimum(np.log(energy), top)
        clean = (1 - self.rate) * norm.pdf(c, self.mu, self.spread)
        noisy = self.rate * _noisy_pdf(c, self.sigma_left, self.mu, self.spread, self.degrees)
        return noisy / np.maximum(clean + noisy, 1e-300)

    def sigma_of(self, energy: np.ndarray) -> np.ndarray:
        """sqrt((e - median clean energy) / kept), at least 0: each image's noise, [0, 1] scale."""
        return np.sqrt(np.maximum(energy - np.exp(self.mu), 0) / self.kept)


def fit_noise_level(energy: np.ndarray, degrees: int, is_clipped: bool = False) -> NoiseLevel:
    """Maximum likelihood of the mixture.

    Args:
        energy: Of each image, in all directions and in the quieter half, (N, 2), all >= `FLOOR`.
        degrees: nu.
        is_clipped: Whether no value lies outside [0, 1], so that noise may have been clipped.

    Raises:
        ValueError: for fewer than `LEAST_IMAGES` images.
    """
    if len(energy) < LEAST_IMAGES:
        raise ValueError(f"a noise level needs {LEAST_IMAGES} images, got {len(energy)}")
    degrees = min(degrees, MAX_DEGREES)
    c = np.log(energy[:, 0])
    low, high = float(np.quantile(c, 0.0005)) - 0.05, float(np.quantile(c, 0.9995)) + 0.05
    counts, edges = np.histogram(c.clip(low, high), N_BINS, (low, high))
    middle, share = ((edges[1:] + edges[:-1]) / 2)[counts > 0], counts[counts > 0] / len(c)

    def loss(density: np.ndarray) -> float:
        return -float((share * np.log((1 - STRAY) * density + STRAY / (high - low))).sum())

    def mixture_loss(q: np.ndarray, nu: int, least: float) -> float:
        odds, log_sigma, mu, log_spread = q
        inside = abs(odds) < 9 and -8 < log_sigma < 3 and -15 < mu < 5 and -6 < log_spread < 1.5
        if not inside:
            return 1e3
        rate, spread = 1 / (1 + np.exp(-odds)), least + np.exp(log_spread)
        noisy = _noisy_pdf(middle, np.exp(log_sigma), mu, spread, nu)
        return loss((1 - rate) * norm.pdf(middle, mu, spread) + rate * noisy)

    options = {"maxiter": 400, "xatol": 2e-3, "fatol": 1e-6}
    fits = []
    for nu in (degrees, max(2, round(2 * degrees / (CLIPPED_KURTOSIS - 1))))[: 1 + is_clipped]:
        least = _least_spread(nu)
        starts = sorted(_starts(c, least), key=lambda q: mixture_loss(q, nu, least))[:2]
        for q in starts:
            fit = minimize(mixture_loss, q, (nu, least), method="Nelder-Mead", options=options)
            fits.append((fit.fun, nu, fit.x))
    smallest, degrees, q = min(fits, key=lambda fit: fit[0])
    least = _least_spread(degrees)
    clean = minimize(
        lambda q: loss(norm.pdf(middle, q[0], least + np.exp(min(q[1], 5)))),
        [c.mean(), 0.0], method="Nelder-Mead",
    )  # fmt: skip
    odds, log_sigma, mu, log_spread = map(float, q)
    level = NoiseLevel(
        rate=float(1 / (1 + np.exp(-odds))), sigma_left=float(np.exp(log_sigma)), mu=mu,
        spread=float(least + np.exp(log_spread)), degrees=degrees,
        gain=max(0.0, float(clean.fun - smallest)), whiteness=1.0,
    )  # fmt: skip
    p = level.p_noisy(energy[:, 0])
    total, quiet = p @ energy
    return replace(level, whiteness=float(quiet / max(total, 1e-300)))


def _least_spread(degrees: int) -> float:
    """Least standard deviation of clean images' ln energy: more than noise of one size has."""
    return max(LEAST_SPREAD, 1.25 * float(np.sqrt(2 / degrees)))


def _starts(c: np.ndarray, least: float) -> list[np.ndarray]:
    """(logit rate, ln sigma, mu, ln(spread - least)): a cut at each of many energies, and none."""
    starts = [np.array([4.0, np.median(c) / 2, np.median(c) - 3, np.log(0.8)])]
    for cut in np.linspace(np.quantile(c, 0.002), np.quantile(c, 0.998), N_CUTS):
        below, above = c[c <= cut], c[c > cut]
        if min(len(below), len(above)) < 5:
            continue
        mu, spread = np.median(below), max(below.std(), least + 0.02)
        variance = max(np.exp(np.median(above)) - np.exp(mu), 1e-6)
        odds = np.clip(np.log(len(above) / len(below)), -8, 8)
        starts.append(np.array([odds, np.log(variance) / 2, mu, np.log(spread - least)]))
    return starts


def _noisy_pdf(c: np.ndarray, sigma: float, mu: float, spread: float, degrees: int) -> np.ndarray:
    """Density of ln e of noisy images at c, (N,): a chi square, by quadrature over their detail."""
    scaled = degrees / sigma**2 * np.exp(c)[:, None]
    detail = degrees / sigma**2 * np.exp(mu + spread * NODES)
    return (NODE_WEIGHTS * ncx2.pdf(scaled, degrees, detail) * scaled).sum(1)

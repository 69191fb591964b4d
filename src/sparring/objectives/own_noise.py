r"""The noise that data carry themselves, and what can be learned from them all the same.

Data y = x0 + nu, nu ~ N(0, Sigma), at a noise level s = sigma_t / alpha_t above Sigma's largest
eigenvalue get only the noise that is missing,

    x_t = alpha (y + s A eps),   A = (I - Sigma / s^2)^(1/2),

so that the whole noise in x_t is s n with n ~ N(0, I). eps is a part of n, E[eps | n] = A n, so
|| A eps_hat - eps ||^2 has the denoiser of the clean data as its minimiser. Sigma is diagonal in
the pixels (white, or by the brightness) or in the frequencies of the image (correlated noise).

**Noise that depends on the brightness.** A then depends on x0, and the loss would weigh an element
by its own signal. So its error is divided by A_j^2, and the row's weight is 1 - lambda_max / s^2
instead, with lambda_max that of a white pixel whatever the image shows. The brightness is read off
the smoothed image.

**Cut off.** A pixel at an end of the range was a noisy value beyond it. It is drawn anew in each
step, from the normal law around its clean value, cut off at that end (the Tobit model). The clean
value is that of the smoothed image, but within [-1, 1] and near the end; in an image with a black
or white background it is the end itself.

Source: the white case after Daras et al. 2024 ("Consistent diffusion meets Tweedie"); the others
ours; drawing what was cut off after Chib 1992 ("Bayes inference in the Tobit censored regression").
"""

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.trust.trust import Trust
from ..diffusion.noising import precise, wide
from ..diffusion.parametrization import column

N_ROUNDS = 3  # of smoothing an image and filling in what was cut off: its means stand still then
INSIDE = 0.627  # deviations that a clean value lies inside its end, at most: mean of Phi(-z), z > 0
BACKGROUND = 0.2  # share of values at an end above which it is a background: noise cuts off half
EASE = 2.0  # of an image that teaches nearly as well as a clean one: A^2 is 3/4 in the mean
FURTHEST = 6.0  # deviations between a mean and an end of the range, at most


@dataclass
class OwnNoise:
    """Covariance of the noise in each row of x0 (B, *), by its eigenvalues."""

    variance: Tensor  # data units^2, (B, 1, ...) where all of a row are alike, else (B, *)
    largest: Tensor  # deviation in such a row's noisiest direction, (B,): it teaches above this
    of_frequencies: Tensor | None = None  # rows with those of the image's frequencies, (B,), bool
    follows_data: Tensor | None = None  # rows whose variance depends on the brightness, (B,), bool
    mean: Tensor | None = None  # the smoothed images that give the brightness, where any does

    def gain(self, s: Tensor) -> Tensor:
        """Eigenvalues of A at noise levels s (B, 1, ...), 0 where nothing is missing."""
        return (1 - self.variance / s**2).clamp(min=0).sqrt()

    def apply(self, eigenvalues: Tensor, x: Tensor) -> Tensor:
        """The matrix of these eigenvalues, (B, 1, ...) or (B, *), times x (B, *)."""
        in_elements = eigenvalues * x
        if self.of_frequencies is None:
            return in_elements
        in_frequencies = torch.fft.ifft2(eigenvalues * torch.fft.fft2(precise(x))).real
        return torch.where(column(self.of_frequencies, x), in_frequencies.to(x.dtype), in_elements)


def white(tau: Tensor, like: Tensor) -> OwnNoise:
    """Noise of standard deviation tau, (B,), in every element of `like` (B, *)."""
    tau = tau.to(like)
    return OwnNoise(column(tau**2, like), tau)


def own_noise(trust: Trust, x0: Tensor) -> OwnNoise:
    """What a trust says of images (B, C, H, W), whose own values give the brightness."""
    variance, mean = column(trust.sigma**2, x0), None
    follows, correlated = trust.slope > 0, trust.correlation > 0
    if follows.any():
        mean = uncut_mean(trust, x0)
        variance = variance_at(trust, mean)
    if correlated.any():
        spectrum = blurred_spectrum(trust.correlation, *x0.shape[-2:])
        spectrum = torch.where(column(correlated, x0), spectrum.to(x0), 1.0)
        variance = variance * spectrum
    return OwnNoise(
        variance.to(x0),
        largest_deviation(trust, *x0.shape[-2:]).to(x0),
        correlated if correlated.any() else None,
        follows if follows.any() else None,
        mean,
    )


def largest_deviation(trust: Trust, height: int, width: int) -> Tensor:
    """Standard deviation of the noise in its noisiest direction, in white images, (B,)."""
    variance = trust.sigma**2 + 2 * trust.slope
    if (trust.correlation > 0).any():
        correlation, which = trust.correlation.unique(return_inverse=True)
        peak = torch.stack([_axis(correlation, side).amax(1) for side in (height, width)]).prod(0)
        variance = variance * torch.where(correlation > 0, peak, 1.0)[which]
    return variance.sqrt()


def teaching_levels(trust: Trust, height: int, width: int, ease: float = 1.0) -> Tensor:
    """Noise levels from which on images of this size teach, (B,), infinite for never; with `ease`
    at least so many times the image's own noise, where the mean of A^2 is 1 - 1 / ease^2."""
    level = torch.maximum(largest_deviation(trust, height, width), trust.level)
    level = torch.maximum(level, ease * (trust.sigma**2 + trust.slope).sqrt())  # of a grey image
    return torch.where(trust.weight > 0, level, torch.inf)


def variance_at(trust: Trust, x0: Tensor) -> Tensor:
    """sigma^2 + slope (x0 + 1), the noise's variance at clean values x0 (B, *) in [-1, 1]."""
    brightness = x0.clamp(-1, 1) + 1
    return column(trust.sigma**2, x0) + column(trust.slope, x0) * brightness


def blurred_spectrum(correlation: Tensor, height: int, width: int) -> Tensor:
    r"""Eigenvalues of white noise of variance 1 that was blurred and is of variance 1 again.

        |w_hat(f)|^2 / mean,   w_hat(f) = sum_k exp(-2 pi^2 correlation^2 (f + k)^2),

    on each axis: the transform of a Gaussian kernel with a standard deviation of `correlation`
    pixels, (B,), as of the kind of dirt `correlated`. (B, 1, H, W), in the order of `fft2`.
    """
    down, across = (_axis(correlation, side) for side in (height, width))
    return down[:, None, :, None] * across[:, None, None, :]


def _axis(correlation: Tensor, side: int) -> Tensor:
    """The eigenvalues along one axis, (B, side)."""
    f = torch.fft.fftfreq(side, device=correlation.device, dtype=correlation.dtype)
    aliases = torch.arange(-2, 3).to(correlation)
    w_hat = torch.exp(-2 * (pi * correlation[:, None, None] * (f[:, None] + aliases)) ** 2).sum(-1)
    return w_hat**2 / (w_hat**2).mean(1, keepdim=True)


def uncut(trust: Trust, x0: Tensor, normal: Tensor, mean: Tensor | None = None) -> Tensor:
    """Images (B, C, H, W) in [-1, 1] with what was cut off of their noise drawn anew.

    `normal` are independent normal numbers, like x0; `mean` is the images' `uncut_mean`, if known.
    """
    rows = column(trust.clipped & ((trust.sigma > 0) | (trust.slope > 0)), x0)
    if not rows.any():
        return x0
    mean = uncut_mean(trust, x0) if mean is None else mean
    deviation = variance_at(trust, mean).sqrt()
    end = x0.sign()
    inside = (end * (end - mean)).clamp(min=0).minimum(INSIDE * deviation)
    low, high = ((x0 * side >= 1).flatten(1).float().mean(1) for side in (-1, 1))
    share = torch.where(end < 0, column(low, x0), column(high, x0))
    inside = torch.where(share > BACKGROUND, 0.0, inside)
    return torch.where(rows, tobit(x0, end - end * inside, deviation, normal), x0)


def tobit(x0: Tensor, mean: Tensor, deviation: Tensor, normal: Tensor) -> Tensor:
    r"""Values at -1 and 1 drawn from N(mean, deviation^2) given that they lie beyond; others stay.

    For an end e and z = (e - mean) / deviation, below it mean + deviation Q(u Phi(z)), u = Phi of
    `normal` and Q the inverse of Phi; above 1 the mirror image.
    """
    end = x0.sign()  # of -1 and 1 the number itself
    z = end * (mean - end) / deviation.clamp(min=1e-12)  # how far inside the mean lies, negative
    share = torch.special.ndtr(wide(z.clamp(min=-FURTHEST)))
    u = torch.special.ndtr(wide(normal)).clamp(min=1e-12)
    beyond = -torch.special.ndtri(u * share).to(x0.dtype)
    drawn = mean + end * deviation * beyond
    return torch.where(x0.abs() >= 1, end * torch.maximum(end * drawn, end * end), x0)


def uncut_mean(trust: Trust, x0: Tensor) -> Tensor:
    """The smoothed image, what was cut off being filled in by its mean: (B, C, H, W).

    With the mean m there, a value below the end e has the mean m - d phi(z) / Phi(z),
    z = (e - m) / d.
    """
    mean = smooth(x0)
    for _ in range(N_ROUNDS):
        deviation = variance_at(trust, mean).sqrt().clamp(min=1e-12)
        end = x0.sign()
        z = (end * (mean - end) / deviation).clamp(min=-FURTHEST, max=FURTHEST)
        hazard = torch.exp(-(z**2) / 2 - torch.special.log_ndtr(z)) / (2 * pi) ** 0.5
        beyond = mean + end * deviation * hazard
        at_end = (x0.abs() >= 1) & column(trust.clipped, x0)
        mean = smooth(torch.where(at_end, beyond, x0))
    return mean


def smooth(x: Tensor) -> Tensor:
    """[1 2 1] / 4 along both axes of images (B, C, H, W), the border repeated."""
    for axis in (-1, -2):
        x = x.transpose(-1, axis)
        wide = F.pad(x, (1, 1, 0, 0), mode="replicate")
        x = ((wide[..., :-2] + wide[..., 2:]) / 4 + x / 2).transpose(-1, axis)
    return x


@dataclass
class Incomplete:
    """What of each row of a batch can be learned at the drawn noise levels."""

    noise: OwnNoise  # that x0 carries itself
    gain: Tensor  # eigenvalues of A; 1 where x0 is taken for clean data
    factor: Tensor  # of the squared error of each element, (B, 1, ...) or (B, *)
    level: Tensor  # noise level from which a row teaches, (B,), 0 for whole ones
    as_clean: Tensor  # weight of rows that are taken for clean data as a whole, (B,), 0 for others

    @classmethod
    def at(cls, s: Tensor, noise: OwnNoise, trust: Trust | None, below: float) -> "Incomplete":
        """At noise levels s = sigma_t / alpha_t, (B, 1, ...); see `Draws.carries`."""
        level = noise.largest if trust is None else torch.maximum(noise.largest, trust.level)
        above = s.flatten() > level
        weight = torch.where(above, 1.0, below).to(level)
        if trust is not None:
            weight = weight * trust.weight
        gain = torch.where(column(above, s), noise.gain(s), 1.0)
        factor, as_clean = column(weight, s), weight * (gain == 1).flatten(1).all(1)
        if noise.follows_data is not None:
            even = column(1 - (noise.largest / s.flatten()) ** 2, s) / gain**2
            factor = factor * torch.where(column(noise.follows_data & above, s), even, 1.0)
        if trust is not None and trust.seen is not None:
            factor = factor * trust.seen
            as_clean = as_clean * trust.seen.flatten(1).all(1)
        return cls(noise, gain, factor, level, as_clean)

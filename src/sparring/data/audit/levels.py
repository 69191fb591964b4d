"""The noise level from which an image may be used whose dirt is no noise.

s = sigma_t / alpha_t with images in [-1, 1]: noise of that size hides what compression or blur took
away. With |lost|^2 the sum over an image's elements of (dirty - clean)^2, twice what two noisy
images differ by in nats if it is divided by s^2,

    JPEG: s = |lost| / sqrt(19),   blur: s = |lost| / sqrt(5.5).

**Measured on the set** (`losses_of`): its clean images, or some of them, are compressed and blurred
by the amounts of `QUALITIES` and `WIDTHS`; between these, ln |lost| is a line in the logarithm of
the JPEG's steps and in that of the blur. On digits of 8x8, which are all edges, it is twice what
the published points say.

**Published** (`level_of_jpeg`, `level_of_blur`), for a set without clean images:

    JPEG of quality   90     75     50     25     18      blur, pixels   0.4    0.6    0.8    1.0
    level s           0.63   0.81   1.03   1.27   1.40    level s        0.22   1.38   1.93   2.84

They were found by a classifier of whole images on CIFAR-10 (32x32 pixels, colour), where |lost|^2 /
s^2 is 19 to 20 (JPEG 18 to 75), 15 (90); 4.7 to 6.4 (blur 0.6 to 1), 14 (0.4). A smaller image
loses to JPEG about in proportion to its elements,

    level of n elements = level of the table * sqrt(min(1, n / 3072)),

and to blur as much as a larger one.

Source: Daras et al. 2025, "Ambient diffusion omni" (arXiv 2506.10038); the measured ones are ours.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..base import Dataset
from ..dirt.contract import Corruption
from ..dirt.kinds.blur import Blur
from ..dirt.kinds.jpeg import Jpeg
from .detectors.jpeg import scale_of

JPEG = {90: 0.63, 75: 0.81, 50: 1.03, 25: 1.27, 18: 1.40}
BLUR = {0.4: 0.22, 0.6: 1.38, 0.8: 1.93, 1.0: 2.84}
N_ELEMENTS = 3072  # of an image of CIFAR-10, 3x32x32, to which the points belong
OF_JPEG, OF_BLUR = 19.0, 5.5  # |lost|^2 / s^2 at the level
QUALITIES = (95, 90, 75, 50, 35, 25, 18, 10, 5)
WIDTHS = (0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0)
LEAST_LOST = 1e-3  # of an image that loses nothing, so that it has a logarithm
LEAST_CLEAN, MOST_CLEAN, MOST_VALUES = 16, 128, 2**22
"""Clean images that are enough, as many as are looked at, and how many values these may have."""


def level_of_jpeg(quality: np.ndarray, n_elements: int = N_ELEMENTS) -> np.ndarray:
    """Level of JPEG images of this quality (n,), 1 to 100, float32; 0 where it is 0, for no JPEG.
    `n_elements` are the channels times height times width of the images."""
    size = np.float32(min(1, n_elements / N_ELEMENTS) ** 0.5)
    points = {float(_steps(q)): level for q, level in JPEG.items()}
    level = _on_the_line(_steps(quality), points)
    return size * np.where(np.asarray(quality) > 0, level, np.float32(0))


def level_of_blur(blur_sigma: np.ndarray) -> np.ndarray:
    """Level of images blurred by a kernel of this standard deviation, pixels, float32; 0 for 0."""
    return np.where(np.asarray(blur_sigma) > 0, _on_the_line(blur_sigma, BLUR), np.float32(0))


@dataclass(frozen=True)
class Losses:
    """What JPEG and blur take from the images of a set: |lost|, images in [-1, 1]."""

    jpeg: dict[float, float]  # by the size of the steps, see `_steps`
    blur: dict[float, float]  # by the standard deviation of the kernel, pixels

    def __call__(self, quality: np.ndarray, blur_sigma: np.ndarray) -> np.ndarray:
        """|lost| of images of this quality and this blur, (n,), float32; 0 for neither."""
        of_jpeg = np.where(quality > 0, _on_the_line(_steps(quality), self.jpeg), np.float32(0))
        of_blur = np.where(blur_sigma > 0, _on_the_line(blur_sigma, self.blur), np.float32(0))
        return np.hypot(of_jpeg, of_blur)


def losses_of(dataset: Dataset, clean: np.ndarray) -> Losses | None:
    """Of images in [0, 1], of which those with the numbers `clean` (n,) are clean: measured on some
    of these; None where they are too few."""
    if len(clean) < LEAST_CLEAN:
        return None
    most = min(MOST_CLEAN, MOST_VALUES // math.prod(dataset.sample_shape))
    n = min(len(clean), max(most, LEAST_CLEAN))
    chosen = clean[np.linspace(0, len(clean) - 1, n).round().astype(int)]
    x = dataset.__getitems__(chosen.tolist())["x0"]
    jpeg = {float(_steps(quality)): lost(x, Jpeg(quality)) for quality in QUALITIES}
    return Losses(jpeg, {width: lost(x, Blur(width)) for width in WIDTHS})


def lost(x: Tensor, dirt: Corruption) -> float:
    """Root of the mean over images (B, C, H, W) in [0, 1] of |lost|^2, once they lie in [-1, 1]."""
    rng = torch.Generator()  # that nothing asks
    missing = [2 * (dirt.apply(image, rng, None) - image) for image in x]
    return max(float(torch.stack(missing).square().flatten(1).sum(1).mean().sqrt()), LEAST_LOST)


def level_of_lost(lost: np.ndarray, quality: np.ndarray, blur_sigma: np.ndarray) -> np.ndarray:
    """Level of images that lost so much to JPEG, to blur, or to both; 0 for neither, (n,)."""
    nats = np.where(blur_sigma > 0, OF_BLUR, OF_JPEG).astype(np.float32)
    return np.where((quality > 0) | (blur_sigma > 0), lost / np.sqrt(nats), np.float32(0))


def _steps(quality: np.ndarray | float) -> np.ndarray:
    """Size of the steps, per cent of those of quality 50; at quality 100 they are about 1."""
    nearest = np.clip(np.rint(quality), 1, 100).astype(int)
    return np.maximum(np.vectorize(scale_of, otypes=[float])(nearest), 1)


def _on_the_line(values: np.ndarray, points: dict[float, float]) -> np.ndarray:
    x, y = (np.log(list(one)) for one in (points.keys(), points.values()))
    at = np.log(np.maximum(np.asarray(values, np.float64), 1e-3))
    piece = np.clip(np.searchsorted(x, at) - 1, 0, len(x) - 2)
    slope = (y[piece + 1] - y[piece]) / (x[piece + 1] - x[piece])
    return np.exp(y[piece] + slope * (at - x[piece])).astype(np.float32)

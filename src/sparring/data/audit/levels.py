"""The noise level from which an image may be used whose dirt is no noise.

    JPEG of quality   90     75     50     25     18      blur, pixels   0.4    0.6    0.8    1.0
    level s           0.63   0.81   1.03   1.27   1.40    level s        0.22   1.38   1.93   2.84

s = sigma_t / alpha_t with images in [-1, 1]: noise of that size hides what compression or blur took
away. Between and beyond these points ln s is a line in the logarithm of the JPEG's steps, which for
all five is nearly one line, s about steps^0.3, and in that of the blur.

They were found by a classifier of whole images on CIFAR-10 (32x32 pixels, colour). Measured there
(ours): with |missing|^2 the sum over an image's elements of (dirty - clean)^2, twice what two noisy
images differ by in nats if it is divided by s^2,

    |missing|^2 / s^2 = 19 to 20 (JPEG 18 to 75), 15 (90);   4.7 to 6.4 (blur 0.6 to 1), 14 (0.4)

so on other images the level would be |missing| / sqrt(19) and / sqrt(5.5). |missing|^2 needs clean
images. For the JPEG of a smaller image it is about in proportion to the number of elements,

    level of n elements = level of the table * sqrt(min(1, n / 3072)):

on Fashion-MNIST, 28x28, by that 0.84, 0.64, 0.56 for quality 10, 25, 40, by the clean images 1.09,
0.75, 0.59; at 16x16 0.48, 0.37, 0.32 and 0.54, 0.37, 0.30. On digits of 8x8, which are all edges,
it is half of what it should be. What blur takes away is no smaller in small images (2.66 for 1
pixel on Fashion-MNIST, 28x28), so its points stand.

Source: Daras et al. 2025, "Ambient diffusion omni" (arXiv 2506.10038).
"""

import numpy as np

from .detectors.jpeg import scale_of

JPEG = {90: 0.63, 75: 0.81, 50: 1.03, 25: 1.27, 18: 1.40}
BLUR = {0.4: 0.22, 0.6: 1.38, 0.8: 1.93, 1.0: 2.84}
N_ELEMENTS = 3072  # of an image of CIFAR-10, 3x32x32, to which the points belong


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

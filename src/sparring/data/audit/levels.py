r"""The noise level from which an image may be used whose dirt is no noise.

    JPEG of quality   90     75     50     25     18
    level s           0.63   0.81   1.03   1.27   1.40

    blur, pixels      0.4    0.6    0.8    1.0
    level s           0.22   1.38   1.93   2.84

s = sigma_t / alpha_t with images in [-1, 1]: noise of that size hides what compression or blur took
away. Between and beyond these points ln s is a line in ln quality, and in ln blur. They were found
by a classifier on CIFAR-10 (32x32 pixels); a blur is measured in pixels, so at another resolution
of the same photographs it takes away other things, and these are a first guess.

Source: Daras et al. 2025, "Ambient diffusion omni" (arXiv 2506.10038).
"""

import numpy as np

JPEG: dict[float, float] = {18: 1.40, 25: 1.27, 50: 1.03, 75: 0.81, 90: 0.63}
BLUR = {0.4: 0.22, 0.6: 1.38, 0.8: 1.93, 1.0: 2.84}


def level_of_jpeg(quality: np.ndarray) -> np.ndarray:
    """Level of JPEG images of this quality, 1 to 100, float32; 0 where it is 0, for no JPEG."""
    return _on_the_line(quality, JPEG)


def level_of_blur(blur_sigma: np.ndarray) -> np.ndarray:
    """Level of images blurred by a kernel of this standard deviation, pixels, float32; 0 for 0."""
    return _on_the_line(blur_sigma, BLUR)


def _on_the_line(values: np.ndarray, points: dict[float, float]) -> np.ndarray:
    x, y = (np.log(list(one)) for one in (points.keys(), points.values()))
    at = np.log(np.maximum(np.asarray(values, np.float64), 1e-3))
    piece = np.clip(np.searchsorted(x, at) - 1, 0, len(x) - 2)
    slope = (y[piece + 1] - y[piece]) / (x[piece + 1] - x[piece])
    level = np.exp(y[piece] + slope * (at - x[piece]))
    return np.where(np.asarray(values) > 0, level, 0).astype(np.float32)

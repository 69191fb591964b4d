"""The Gaussian kernel that blurs: what blur does to images, and correlated to noise."""

import math


def gaussian_kernel(sigma: float) -> tuple[range, list[float]]:
    """Offsets, and weights that sum to 1, of a Gaussian cut at 4 standard deviations (pixels)."""
    reach = math.ceil(4 * sigma)
    offsets = range(-reach, reach + 1)
    weights = [math.exp(-((k / sigma) ** 2) / 2) for k in offsets]
    total = sum(weights)
    return offsets, [weight / total for weight in weights]

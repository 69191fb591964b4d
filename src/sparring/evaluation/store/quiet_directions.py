r"""Directions in which the images of a set vary least: what they have there is nearly all noise.

    m principal directions u_j of least variance, of whole small images or of patches of large ones

They are learned from one half of the data and used on other images, on the [0, 1] scale: the
smallest variances of a sample are smaller than they should be. Source: ours; the directions after
Pyatykh, Hesser and Zheng 2013 ("Image noise level estimation by principal component analysis"), who
take the smallest variance itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...data.base import Dataset
from ...diffusion.randomness import generator

MAX_VALUES = 1024  # whole images of so many values have directions of their own
PATCH_SIDES = (8, 4)
MAX_DIRECTIONS = 64
ROWS_PER_VALUE, MAX_ROWS = 4, 8192
"""Least number of images or patches in a half per value of theirs, and the most that count."""
LEAST_IMAGES = 32
MAX_OTHERS = 2000  # images of the other half whose own rms in the directions is taken


@dataclass(frozen=True)
class Directions:
    """Quiet directions of one half of a data set."""

    patch: tuple[int, int]  # sides of what has directions; the whole image if it is small
    mean: Tensor  # of the patches, (k,)
    directions: Tensor  # (k, m), quietest first
    others: Tensor  # numbers of the images of the other half, rising

    def squares(self, x: Tensor) -> Tensor:
        """Mean square of each image (B, C, H, W) over its patches and all directions, (B,)."""
        pieces = patches(x.float().cpu(), self.patch)
        return ((pieces - self.mean) @ self.directions).square().mean(1).mean(1).double()


def quiet_directions(dataset: Dataset, seed: int = 0) -> Directions | None:
    """The directions in which a data set's images vary least, None where these are too few."""
    n, shape = len(dataset), dataset.sample_shape
    patch = _patch(n, shape)
    if patch is None:
        return None
    order = torch.randperm(n, generator=generator("cpu", seed, "halves"))
    n_values = shape[0] * patch[0] * patch[1]
    m = min(max(1, n_values // 4), MAX_DIRECTIONS)
    per_image = (shape[1] // patch[0]) * (shape[2] // patch[1])
    n_images = max(LEAST_IMAGES, -(-MAX_ROWS // per_image))
    rows = order[: n // 2][:n_images].sort().values
    mean, directions = _quiet(dataset, rows, patch, m)
    return Directions(patch, mean, directions, order[n // 2 :].sort().values)


def rms_of_others(quiet: Directions, dataset: Dataset) -> float:
    """What images of the other half have in the directions, root mean square."""
    found = [
        quiet.squares(dataset.__getitems__(chunk.tolist())["x0"])
        for chunk in quiet.others[:MAX_OTHERS].split(chunk_size(dataset))
    ]
    return torch.cat(found).mean().sqrt().item()


def _patch(n: int, shape: Sequence[int]) -> tuple[int, int] | None:
    """The whole image, else the largest square of which there are enough."""
    channels, height, width = shape
    sides = [(side, side) for side in PATCH_SIDES if side <= min(height, width)]
    for h, w in [(height, width), *sides]:
        n_values, n_rows = channels * h * w, n // 2 * (height // h) * (width // w)
        are_enough = n >= LEAST_IMAGES and n_rows >= ROWS_PER_VALUE * n_values
        if are_enough and 4 <= n_values <= MAX_VALUES:
            return h, w
    return None


def _quiet(dataset: Dataset, rows: Tensor, patch: tuple[int, int], m: int) -> tuple[Tensor, Tensor]:
    """Mean of the patches of these images, and their principal directions of least variance."""
    total = torch.zeros((), dtype=torch.float64)
    n, mean, second = 0, total, total
    for chunk in rows.split(chunk_size(dataset)):
        pieces = patches(dataset.__getitems__(chunk.tolist())["x0"], patch).flatten(0, 1).double()
        n += len(pieces)
        mean = mean + pieces.sum(0)
        second = second + pieces.T @ pieces
    mean = mean / n
    _, directions = torch.linalg.eigh(second / n - mean[:, None] * mean)
    return mean.float(), directions[:, :m].float()


def chunk_size(dataset: Dataset) -> int:
    """Images to hold at once: at most 1,024, and 2^24 values."""
    return max(1, min(1024, 2**24 // int(np.prod(dataset.sample_shape))))


def patches(x: Tensor, patch: tuple[int, int]) -> Tensor:
    """Patches side by side, (B, n_patches, C h w), of images (B, C, H, W); what is over is cut."""
    (n, channels, height, width), (h, w) = x.shape, patch
    rows, columns = height // h, width // w
    x = x[:, :, : rows * h, : columns * w].reshape(n, channels, rows, h, columns, w)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(n, rows * columns, channels * h * w)

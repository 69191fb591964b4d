"""Dirt as a table says that the images of a set have it, made on other images.

    dirty = AsMeasured(dataset, table, seed=0)
    dirty.made(samples, first=0)          # sample i gets what a random image of the set has

    y = round_255(put(jpeg_q(noise(blur(x)))))

The image whose dirt a sample gets is dealt out in a random order of the set, so the mixture of many
samples is the set's own. Blur, noise and JPEG are made anew by the kinds of `kinds`. Holes are put
on as that image shows them, place and values. Impulses are made anew with the share that the image
has, since it hides some of its own: a black one on black says nothing, and the sample may be bright
there. With n found and f the image without them,

    share = n / mean over pixels of 1/2 ([f can be told from black] + [f can be told from white])

Images of which the table says more than can be made are left out: outliers and all of weight 0, a
kind without its size, a level without a kind. Source: ours.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...diffusion.randomness import generator
from .. import transforms
from ..audit.filling import filled
from ..audit.registry import hidden_pixels, hiding_kinds
from ..audit.table import SIZES, Table
from ..base import Dataset
from .contract import Corruption
from .kinds.blur import Blur
from .kinds.correlated import Correlated
from .kinds.gaussian import Gaussian
from .kinds.jpeg import Jpeg
from .kinds.poisson_gaussian import PoissonGaussian
from .kinds.salt_and_pepper import SaltAndPepper

TOLD_APART = 0.25  # from an impulse, [0, 1] scale: a pixel this far from black shows a black one
MAX_PHOTONS, MAX_QUALITY = 1e6, 95  # what the kinds take; beyond that there is nothing to be seen


def corruptions(
    sigma: float, slope: float, correlation: float, quality: float, blur_sigma: float
) -> list[Corruption]:
    """The kinds that make dirt of a table's sizes, in the order in which a file gets it."""
    found: list[Corruption] = []
    if blur_sigma > 0:
        found.append(Blur(blur_sigma))
    if sigma > 0 and correlation > 0:
        found.append(Correlated(sigma, correlation))
    elif slope > 0:
        found.append(PoissonGaussian(min(1 / slope, MAX_PHOTONS), sigma))
    elif sigma > 0:
        found.append(Gaussian(sigma))
    if quality > 0:
        found.append(Jpeg(min(max(round(quality), 1), MAX_QUALITY)))
    return found


class AsMeasured:
    """Makes images dirty as those of a set in [0, 1] are by its table; the seed says who gets what.
    `rows` are those of the table whose dirt can be made, (m,); ValueError if there is none."""

    def __init__(self, dataset: Dataset, table: Table, seed: int = 0) -> None:
        self.dataset, self.table, self.seed = dataset, table, seed
        self.rows = np.flatnonzero(can_be_made(table))
        if not len(self.rows):
            raise ValueError("the table has no image whose dirt can be made")
        order = torch.randperm(len(self.rows), generator=generator("cpu", seed, "dirt dealt"))
        self.order = self.rows[order.numpy()]

    def rows_of(self, first: int, n: int) -> np.ndarray:
        """Rows of the table whose dirt the samples first to first + n - 1 get, (n,)."""
        return self.order[np.arange(first, first + n) % len(self.order)]

    def made(self, x: Tensor, first: int = 0) -> Tensor:
        """Clean samples first, first + 1, ..., (B, C, H, W), cut off to [0, 1] and made dirty. They
        are in 8 bits where the image is whose dirt it is; a sample gets the same in any batch."""
        made, rows = [], self.rows_of(first, len(x))
        rngs = [generator("cpu", self.seed, "dirt made", first + i) for i in range(len(x))]
        for image, row, rng in zip(x.clamp(0, 1), rows, rngs, strict=True):
            sizes = {name: float(getattr(self.table, name)[row]) for name in SIZES}
            for corruption in corruptions(**sizes):
                image = corruption.apply(image, rng, None)
            made.append(image)
        for kind in sorted(hiding_kinds()):
            for i in np.flatnonzero(self.table.has(kind)[rows]):
                shown = self.dataset[int(self.table.index[rows[i]])]["x0"]
                hidden = hidden_pixels(shown[None], {kind: torch.tensor([True])})
                if kind == "salt_and_pepper":
                    share = impulse_share(shown[None], hidden)[0].item()
                    made[i] = SaltAndPepper(share).apply(made[i], rngs[i], None)
                else:
                    made[i] = torch.where(hidden[0], shown, made[i])
        out, clipped = torch.stack(made), torch.from_numpy(self.table.clipped[rows])
        in_8_bits = transforms.to_float(transforms.to_uint8(out))
        return torch.where(clipped.view(-1, 1, 1, 1), in_8_bits, out)


def can_be_made(table: Table) -> np.ndarray:
    """Whether the dirt of each row can be made on another image, (n,), bool."""
    sized = {kind for kinds in SIZES.values() for kind in kinds}
    size = np.any([getattr(table, name) > 0 for name in SIZES], 0)
    made, hiding = size.copy(), hiding_kinds()
    possible = table.weight > 0
    for kind in table.kinds:
        if kind in hiding:
            made |= table.has(kind)
        elif kind in sized:
            own = [getattr(table, name) > 0 for name, kinds in SIZES.items() if kind in kinds]
            possible &= ~table.has(kind) | np.any(own, 0)
        else:
            possible &= ~table.has(kind)
    return possible & (made | (table.level == 0))


def impulse_share(x: Tensor, hidden: Tensor) -> Tensor:
    """Share of the pixels of images (B, C, H, W) in [0, 1] that are impulses, (B,) in [0, 1]. Those
    found, `hidden` (B, 1, H, W), bool, are made up for those that could not be, see above."""
    around = filled(x, hidden)
    shows_black = around.amax(1) > TOLD_APART
    shows_white = around.amin(1) < 1 - TOLD_APART
    found = hidden.double().mean((1, 2, 3))
    can_be_found = (shows_black.double() + shows_white.double()).mean((1, 2)) / 2
    return (found / can_be_found).clamp(max=1)  # a pixel shows at least one of the two

r"""What an engineer would do with dirty images instead: throw them away, or denoise them first.

    Chosen(dataset, numbers)             the images that a table calls clean, alone
    Denoised(dataset, ByTable(table))    every image cleaned by a library, then taken for clean

These are controls: robust training that is not better than both is not worth its lines.
"""

import numpy as np
import torch
from torch import Tensor

from ...support.cache import key_of
from ...support.errors import UserError
from ..audit.table import Table
from ..base import Batch, Dataset, Wrapper, absent_classes, digest
from .trusted import Source

PATCH, DISTANCE, STRENGTH = 5, 6, 0.6
"""Of non-local means: side of the patches, how far they are looked for (pixels), and h / sigma. Of
4 settings and of total variation the nearest to the clean images, on digits and Fashion-MNIST with
clipped noise of 0.1 to 0.3."""
HOLD_NUMBERS = 2**26  # values of denoised images that a process keeps for the next time


class Chosen(Wrapper):
    """Some samples of a data set, by their numbers (n,), int64, numbered anew from 0. UserError if
    there are none, or the data are a stream."""

    def __init__(self, dataset: Dataset, numbers: np.ndarray) -> None:
        super().__init__(dataset)
        check_any_order(dataset)
        if len(numbers) == 0:
            raise UserError(f"no image of {dataset.name} is called clean, so none is left")
        self.numbers = torch.from_numpy(np.asarray(numbers, np.int64))
        self.own = torch.full((len(dataset),), -1)
        self.own[self.numbers] = torch.arange(len(numbers))
        if dataset.labels is not None:
            self.labels = dataset.labels[self.numbers]
            self.absent_classes = absent_classes(self.labels, self.num_classes)
        if dataset.captions is not None:
            self.captions = [dataset.captions[i] for i in self.numbers.tolist()]

    def __len__(self) -> int:
        return len(self.numbers)

    def rows(self, indices: Tensor, positions: Tensor) -> Batch:
        batch = self.dataset.rows(self.numbers[indices], positions)
        return {**batch, "index": self.own[batch["index"]]}

    def where(self, index: int) -> str | None:
        return self.dataset.where(int(self.numbers[index]))

    def fingerprint(self) -> str:
        return digest("chosen", self.dataset.fingerprint(), self.numbers.numpy().tobytes())


class Denoised(Wrapper):
    """Images in [0, 1] denoised by scikit-image: non-local means where they are noisy, by as much
    as is known, and biharmonic inpainting where pixels say nothing. The rest stays.

    Noise that depends on the brightness is taken for that of the image's mean. An image that comes
    again, to the bit, is not denoised again.

    Source: Buades, Coll and Morel 2005 (non-local means).
    """

    def __init__(self, dataset: Dataset, source: Source) -> None:
        super().__init__(dataset)
        try:
            import skimage  # noqa: F401  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError(
                "objective denoise_first needs scikit-image: pip install 'sparring[denoise]'"
            ) from error
        self.source = source
        self.done: dict[str, Tensor] = {}

    def rows(self, indices: Tensor, positions: Tensor) -> Batch:
        batch = self.dataset.rows(indices, positions)
        x = batch["x0"]
        rows = self.source.rows(x, batch["index"])
        hidden = self.source.hidden(x, rows) if self.source.hides else None
        variance = rows.sigma**2 + rows.slope * x.flatten(1).mean(1).numpy()
        holes = [None] * len(x) if hidden is None else list(hidden[:, 0])
        sigmas = [value**0.5 for value in variance.tolist()]
        each = zip(x, sigmas, holes, strict=True)
        return {**batch, "x0": torch.stack([self._denoised(*one) for one in each])}

    def _denoised(self, x: Tensor, sigma: float, holes: Tensor | None) -> Tensor:
        if sigma == 0 and (holes is None or not holes.any()):
            return x
        key = key_of(x)
        if key not in self.done:
            found = denoised(x, sigma, holes)
            if len(self.done) * x.numel() >= HOLD_NUMBERS:
                return found
            self.done[key] = found
        return self.done[key]

    def fingerprint(self) -> str:
        return digest("denoised", self.dataset.fingerprint(), self.source.fingerprint())


def denoised(x: Tensor, sigma: float, holes: Tensor | None = None) -> Tensor:
    """An image (C, H, W) in [0, 1] without noise of this sigma and without holes (H, W), bool."""
    from skimage import restoration  # pyright: ignore[reportMissingImports]

    is_grey = len(x) == 1
    pixels = x[0].numpy() if is_grey else x.permute(1, 2, 0).numpy()
    axis = None if is_grey else 2
    if holes is not None and holes.any() and not holes.all():
        pixels = restoration.inpaint_biharmonic(pixels, holes.numpy(), channel_axis=axis)
    if sigma > 0:
        pixels = restoration.denoise_nl_means(
            pixels, PATCH, DISTANCE, STRENGTH * sigma, False, sigma=sigma, channel_axis=axis
        )
    found = torch.from_numpy(np.asarray(pixels, np.float32)).clamp(0, 1)
    return found[None] if is_grey else found.permute(2, 0, 1).contiguous()


def check_any_order(dataset: Dataset) -> None:
    """Refuse to take samples out of a stream."""
    if dataset.sharding is not None:
        raise UserError(
            f"no image of {dataset.name} can be thrown away: a stream is read as it is; copy the "
            "clean images to a folder, or read a table with data.streaming=false"
        )


def clean_numbers(table: Table) -> np.ndarray:
    """Numbers of the samples that a table says nothing against, (n,), int64."""
    return table.index[table.is_clean]

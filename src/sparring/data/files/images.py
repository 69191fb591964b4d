"""Images from files: folders, parquet files and Hugging Face data sets.

An unreadable image is replaced by the next readable one (the batch's `index` says which one, so
labels and contamination stay right) and its place is listed in the batch. Files are only read.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...diffusion.randomness import generator
from ...support.errors import UserError
from .. import transforms
from ..base import Batch, Dataset, digest
from ..captions import drawn
from .allowed_files import Unreadable
from .decoding import MAX_PIXELS, pixels, with_channels
from .source import Source
from .survey import fits, survey

HOLD_BYTES = 2**28
"""Images that already have their size, in 8 bits, are held in memory up to this many bytes; others
are decoded when they are asked for, by the loader's workers."""


class SizesDiffer(UserError):  # noqa: N818 - the state of a data set
    """The images have no common size, and none was asked for."""


class ImageDataset(Dataset):
    """Images decoded from files, resized and cropped to one square size.

    Args:
        name, source: See `Dataset`; the files, at least one, and what is known of them.
        resolution: Side in pixels: the shorter side is resized to it and a square is cropped. None:
            all images must have one size (else `SizesDiffer`), and keep it.
        center_crop: False: each square is cropped at a place drawn from (seed, position in the
            stream).
        n_channels: 1 or 3: every image is converted. None: 3 if any image looked at is in colour,
            else 1; then an image in colour that was not looked at counts as unreadable.
        seed: Of the random crops, and of the captions of images that have several.
    """

    is_image = True

    def __init__(
        self,
        name: str,
        source: Source,
        *,
        resolution: int | None = None,
        center_crop: bool = True,
        n_channels: int | None = None,
        seed: int = 0,
    ) -> None:
        self.name, self.files, self.captions = name, source.files, source.captions
        self.set_classes(source.labels, source.class_names)
        self.resolution, self.center_crop, self.seed = resolution, center_crop, seed
        seen = survey(self.files, self.files.surveyed())
        self.n_channels = n_channels or seen.n_channels
        self.may_lose_colour = n_channels is not None
        first = self._next_readable(0, [])[1]
        self.n_channels = len(first)
        said = seen.remarks(self.files, resolution, self.may_lose_colour)
        self.remarks = [*source.remarks, *said]
        size = first.shape[1:] if resolution is None else (resolution, resolution)
        self.sample_shape = (len(first), *size)
        self.held, self.stand_in = self._hold()
        self.is_decoded = self.held is None

    def __len__(self) -> int:
        return len(self.files)

    def rows(self, indices: Tensor, positions: Tensor) -> Batch:
        unreadable: list[str] = []
        if self.held is not None:
            index = self.stand_in[indices]
            x0 = transforms.to_float(self.held[index])
            framing = torch.tensor([[*self.sample_shape[1:], 0, 0, 0]]).repeat(len(index), 1)
            for asked, used in zip(indices.tolist(), index.tolist(), strict=True):
                skipped = range(asked, asked + (used - asked) % len(self))  # around the end
                unreadable += [self.files.where(i % len(self)) for i in skipped]
        else:
            read = [self._next_readable(i, unreadable) for i in indices.tolist()]
            index = torch.tensor([i for i, _ in read], dtype=torch.long)
            fitted = [
                self._fit(image, position, self.files.where(i))
                for (i, image), position in zip(read, positions.tolist(), strict=True)
            ]
            x0 = _stacked([image for image, _ in fitted])
            framing = torch.tensor([place for _, place in fitted])
        batch: Batch = {"x0": x0, "index": index, "framing": framing, "unreadable": unreadable}
        if self.labels is not None:
            batch["label"] = self.labels[index]
        if self.captions is not None:
            pairs = zip(index.tolist(), positions.tolist(), strict=True)
            batch["caption"] = [drawn(self.captions[i], self.seed, place) for i, place in pairs]
        return batch

    def fingerprint(self) -> str:
        return digest(
            self.name, len(self), self.sample_shape, self.resolution, self.center_crop or self.seed,
            [] if self.labels is None else self.labels.tolist(), self.class_names,
            *([] if self.captions is None else [list(self.captions)]),
            *([self.seed] if any(isinstance(one, tuple) for one in self.captions or ()) else []),
            *(self._raw(i) for i in self.files.probes()),
        )  # fmt: skip

    def where(self, index: int) -> str:
        return self.files.where(index)

    def _raw(self, index: int) -> bytes:
        try:
            file = self.files.open(index)
            return file if isinstance(file, bytes) else Path(file).read_bytes()
        except (OSError, Unreadable):
            return b"unreadable"

    def _next_readable(self, index: int, unreadable: list[str]) -> tuple[int, Tensor]:
        """The first readable image from `index` on (around the end), with its index."""
        reasons = []
        for i in range(index, index + len(self)):
            try:
                return i % len(self), self._read(i % len(self))
            except Unreadable as reason:
                unreadable.append(self.files.where(i % len(self)))
                reasons.append(str(reason))
        raise UserError(
            f"no readable image in {self.files.origin}: tried {len(self)} file(s), the first is "
            f"{self.files.where(index)} ({reasons[0]})"
        )

    def _read(self, index: int) -> Tensor:
        """One image at its own size, with the data's channels, see `pixels`."""
        image = pixels(self.files.open(index))
        height, width = image.shape[1:]
        if self.resolution is not None and not fits(height, width, self.resolution):
            raise Unreadable(f"more than {MAX_PIXELS:,} pixels after resizing")
        if len(image) == 3 and self.n_channels == 1 and not self.may_lose_colour:
            raise Unreadable("it is in colour, and the data are grey: set data.n_channels")
        return with_channels(image, self.n_channels)

    def _fit(self, image: Tensor, position: int, where: str) -> tuple[Tensor, list[int]]:
        """One image at its size, shape `sample_shape`, and its row of the batch's `framing`."""
        height, width = image.shape[1:]
        if self.resolution is None:
            self._check_size(image, where)
            return image, [height, width, 0, 0, 0]
        tall, wide = transforms.resized(height, width, self.resolution)
        if self.center_crop:
            top, left = transforms.center(tall, wide, self.resolution)
        else:
            rng = generator("cpu", self.seed, "crop", position)
            top, left = transforms.anywhere(tall, wide, self.resolution, rng)
        right = wide - self.resolution - left
        if min(height, width) != self.resolution:
            image = transforms.to_float(image)
        square = transforms.square(image, self.resolution, top, left)
        return square, [height, width, top, left, right]

    def _check_size(self, image: Tensor, where: str) -> None:
        if tuple(image.shape) != self.sample_shape:
            raise SizesDiffer(
                f"images of {self.files.origin} differ in size ({where} is "
                f"{_size(image.shape)}, the first {_size(self.sample_shape)}): "
                f"set data.resolution={min(self.sample_shape[1:])} or so"
            )

    def _hold(self) -> tuple[Tensor | None, Tensor]:
        """All images as uint8 (n, C, H, W) and who stands in for whom, if that changes no pixel."""
        n, shape = len(self), self.sample_shape
        everyone = torch.arange(n)
        if n * shape[0] * shape[1] * shape[2] > HOLD_BYTES:
            return None, everyone
        held = np.empty((n, *shape), dtype=np.uint8)  # writing a row costs a fifth of torch's
        readable = torch.ones(n, dtype=torch.bool)
        for i in range(n):
            try:
                image = self._read(i)
            except Unreadable:
                readable[i] = False
                continue
            if self.resolution is None:
                self._check_size(image, self.files.where(i))
            elif image.shape[1:] != shape[1:]:
                return None, everyone
            if image.is_floating_point():
                floats, image = image, transforms.to_uint8(image)
                if not torch.equal(transforms.to_float(image), floats):
                    return None, everyone
            held[i] = image.numpy()
        good = everyone[readable]
        return torch.from_numpy(held), good[torch.searchsorted(good, everyone) % len(good)]


def _stacked(images: Sequence[Tensor]) -> Tensor:
    """Images of one shape, of 8 bits (uint8) or float, as one batch in [0, 1]."""
    if not all(image.dtype == torch.uint8 for image in images):
        images = [transforms.to_float(image) for image in images]
    return transforms.to_float(torch.stack(list(images)))


def _size(shape: Sequence[int]) -> str:
    return f"{shape[2]}x{shape[1]}"

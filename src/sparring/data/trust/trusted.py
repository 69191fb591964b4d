r"""Images that come with what each of them can teach: from knowledge of dirt to `batch["trust"]`.

    ModelRange(Trusted(dataset, ByTable(table)))       an audit's table, or a person's
    ModelRange(Trusted(dataset, ByJudge(judge, ...)))  a stream: each image is judged as it comes
    ModelRange(Trusted(dataset, ByTruth(dataset)))     what was really done: the oracle's
    images, trust = trusted(images, columns)           a batch of anybody's own loader

A source says what is known of an image as a row of a table, on the [0, 1] scale, and which pixels
say nothing. The trust is in the model's units, where images lie in [-1, 1] and a value v of the
[0, 1] scale is v' = 2 v - 1:

    sigma' = 2 sigma,   var' = 4 (sigma^2 + slope v) = sigma'^2 + 2 slope (v' + 1)

Hidden pixels of x0 are filled from what is around them. All of it follows from the image and its
index alone, so it is the same in any batch, worker and process.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..audit.filling import filled
from ..audit.judging import Judge
from ..audit.levels import level_of_blur, level_of_jpeg, level_of_lost, losses_of
from ..audit.registry import hidden_pixels, hiding_kinds
from ..audit.table import NUMBERS, PROBABILITY, SIZES, Table, clean_table, consistent
from ..base import Batch, Dataset, Wrapper, digest
from ..dirt import kinds as known_kinds
from ..dirt.contaminated import layers
from ..dirt.contract import NOTHING, Knowledge
from .trust import Trust

SCALE = 2.0  # the model's units in one of the data's, of images
ALIEN = ("outlier", "adversarial")  # kinds of dirt of which nothing is left that training could use


class Source(ABC):
    """What is known of images."""

    hides: bool  # whether pixels of some image may say nothing
    table: Table  # of the data set, or of the sample of it that was looked at

    def rows(self, x: Tensor, index: Tensor) -> Table:
        """What is known of images x (B, *), numbers index (B,): by default the table's rows."""
        return self.table.select(index.numpy())

    def hidden(self, x: Tensor, rows: Table) -> Tensor:
        """Pixels of images (B, C, H, W) that say nothing, (B, 1, H, W), bool: by what they show."""
        return hidden_pixels(x, {kind: torch.from_numpy(rows.has(kind)) for kind in rows.kinds})

    @abstractmethod
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with what is known."""


class ByTable(Source):
    """A table with a row for every image of the data set, in their order."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.hides = any(table.has(kind).any() for kind in hiding_kinds() & table.kinds.keys())

    def fingerprint(self) -> str:
        return fingerprint_of(self.table)


class ByJudge(Source):
    """Rules that judge each image when it is read; the table of their sample tells them apart."""

    def __init__(self, judge: Judge, sample: Table) -> None:
        self.judge, self.table = judge, sample
        self.hides = bool(hiding_kinds() & set(judge.kinds))

    def rows(self, x: Tensor, index: Tensor) -> Table:
        return self.judge(x, index)

    def fingerprint(self) -> str:
        return digest("judged", fingerprint_of(self.table))


class ByTruth(Source):
    """What contamination really did: no training but a control may know this."""

    def __init__(self, dataset: Dataset) -> None:
        self.layers, n = layers(dataset), len(dataset)
        dirty = sum((layer.dirty.long() for layer in self.layers), torch.zeros(n, dtype=torch.long))
        self.table, self.hides = clean_table(n), False
        for index in dirty.nonzero().flatten().tolist():  # masks are large: one at a time
            kind, known = self._what_was_done(index)
            self.table.kinds.setdefault(kind, np.zeros(n, np.float32))[index] = 1
            for name in (*SIZES, "weight"):
                getattr(self.table, name)[index] = getattr(known, name)
            self.hides = self.hides or known.hidden is not None
        if (self.table.quality > 0).any() or (self.table.blur_sigma > 0).any():
            losses = losses_of(dataset, np.flatnonzero(self.table.is_clean))
            if losses is not None:
                self.table.lost[:] = losses(self.table.quality, self.table.blur_sigma)

    def hidden(self, x: Tensor, rows: Table) -> Tensor:
        hidden = torch.zeros(len(x), 1, *x.shape[2:], dtype=torch.bool)
        for row, index in enumerate(rows.index.tolist()):
            known = self._what_was_done(index)[1]
            if known.hidden is not None:
                hidden[row, 0] = known.hidden
        return hidden

    def fingerprint(self) -> str:
        return digest("truth", fingerprint_of(self.table))

    def _what_was_done(self, index: int) -> tuple[str, Knowledge]:
        """The kind of a sample's dirt and what is true of it: of two layers, nobody says what is
        left."""
        mine = [layer for layer in self.layers if layer.dirty[index]]
        if not mine:
            return "", Knowledge()
        known = mine[0].knowledge(index) if len(mine) == 1 else NOTHING
        return mine[-1].corruption(index).kind, known


class LevelsOnly(Source):
    """What of a source's knowledge is about images that are seen as latents: levels and weights."""

    hides = False

    def __init__(self, source: Source) -> None:
        self.source, self.table = source, _without_noise(source.table)

    def rows(self, x: Tensor, index: Tensor) -> Table:
        return _without_noise(self.source.rows(x, index))

    def hidden(self, x: Tensor, rows: Table) -> Tensor:
        return torch.zeros(len(x), 1, *x.shape[2:], dtype=torch.bool)

    def fingerprint(self) -> str:
        return digest("levels", self.source.fingerprint())


class Trusted(Wrapper):
    """A data set, images in [0, 1] or vectors, whose batches say what each sample can teach."""

    def __init__(self, dataset: Dataset, source: Source) -> None:
        super().__init__(dataset)
        self.source = source
        self.scale = SCALE if dataset.is_image else 1.0

    def rows(self, indices: Tensor, positions: Tensor) -> Batch:
        batch = self.dataset.rows(indices, positions)
        rows = self.source.rows(batch["x0"], batch["index"])
        x, trust = _with_trust(batch["x0"], rows, self.source, is_image=self.is_image)
        return {**batch, "x0": x, "trust": trust}

    def fingerprint(self) -> str:
        return digest("trusted", self.dataset.fingerprint(), self.source.fingerprint())


def trusted(images: Tensor, columns: Mapping[str, Any]) -> tuple[Tensor, Trust]:
    """A batch of anybody's own loader, and what is known of each of its images.

        images, trust = sparring.trusted(batch["image"], batch)
        for loss in objective(denoiser, images, step=step, trust=trust): ...

    Args:
        images: (B, C, H, W) in [-1, 1], at the size at which they were audited, since shrinking an
            image shrinks its noise. They may be mirrored.
        columns: What `sparring export` has written of each image, by the column's name: a tensor or
            a list of B numbers. Other names are not looked at, and a column that is not there says
            nothing against any image.

    Returns:
        The images, in which pixels that say nothing are filled from those around them, and the
        trust, on the device of the images.

    Raises:
        ValueError: if no name is a column of a table of dirt, or a column has not B numbers of its
            range.
    """
    source = ByTable(_rows_of(columns, len(images)))
    x, trust = _with_trust((images.cpu() + 1) / 2, source.table, source, is_image=True)
    if trust.seen is not None:
        images = (2 * x - 1).to(images)
    return images, Trust(*(None if one is None else one.to(images.device) for one in trust))  # pyright: ignore


def known(columns: Mapping[str, Any], sample_shape: Sequence[int]) -> Trust:
    """What these columns, as of `trusted`, say of n images (C, H, W) that nobody has read."""
    n = max((len(values) for values in columns.values()), default=0)
    everyone = torch.ones(n, dtype=torch.bool)
    return trust_of(_rows_of(columns, n), everyone, None, SCALE, sample_shape)


def _rows_of(columns: Mapping[str, Any], n: int) -> Table:
    kinds = [name for name in known_kinds.names() if name in columns]
    numbers = [name for name in (*NUMBERS, "clipped") if name in columns]
    if not kinds and not numbers:
        raise ValueError(f"no column says anything of dirt, got {', '.join(columns) or 'none'}")
    rows = clean_table(n, kinds)
    for name in (*kinds, *numbers):
        own = rows.kinds[name] if name in kinds else getattr(rows, name)
        values = np.asarray(torch.as_tensor(columns[name]).cpu(), np.float32)
        allowed = NUMBERS.get(name, PROBABILITY)
        if values.shape != own.shape or not allowed.allows(values):
            raise ValueError(
                f"{name} must have {allowed.words()} for each of {n} images, got "
                f"{values.tolist()!s:.60}"
            )
        own[:] = values
    return consistent(rows)


def _with_trust(x: Tensor, rows: Table, source: Source, *, is_image: bool) -> tuple[Tensor, Trust]:
    """Samples (B, *) on the data's scale, hidden pixels filled, and their trust."""
    hidden = None
    if is_image and source.hides:
        hidden = source.hidden(x, rows)
        x = filled(x, hidden)
    is_inside = is_image & ((x >= 0) & (x <= 1)).flatten(1).all(1)
    return x, trust_of(rows, is_inside, hidden, SCALE if is_image else 1.0, x.shape[1:])


def trust_of(
    rows: Table, is_inside: Tensor, hidden: Tensor | None, scale: float, shape: Sequence[int]
) -> Trust:
    """Rows of a table, of samples of this shape and on their scale, as training takes them.

    Args:
        is_inside: Whether no value of each leaves [0, 1], (B,), bool.
        hidden: (B, 1, H, W), bool; None for nothing.
        scale: Model's units in one of the data's: 2 for images.
    """
    sigma, slope = torch.from_numpy(rows.sigma), torch.from_numpy(rows.slope)
    return Trust(
        sigma=scale * sigma,
        slope=scale * slope,
        correlation=torch.from_numpy(rows.correlation),
        clipped=((sigma > 0) | (slope > 0)) & torch.from_numpy(rows.clipped) & is_inside,
        level=torch.from_numpy(levels_besides_noise(rows, shape)),
        weight=torch.from_numpy(weights_of(rows)),
        seen=None if hidden is None else ~hidden,
    )


def levels_besides_noise(rows: Table, shape: Sequence[int]) -> np.ndarray:
    """Noise level from which each image of this shape may be used if it has no noise, (n,): what
    the table says, or, where it says none, what its JPEG and its blur ask."""
    of_jpeg = level_of_jpeg(rows.quality, math.prod(shape))
    asked = np.maximum(of_jpeg, level_of_blur(rows.blur_sigma))
    measured = level_of_lost(rows.lost, rows.quality, rows.blur_sigma)
    return np.where(rows.level > 0, rows.level, np.where(rows.lost > 0, measured, asked))


def weights_of(rows: Table) -> np.ndarray:
    """Weight of each image, (n,): 0 for those that do not belong to the data."""
    alien = np.any([rows.has(kind) for kind in ALIEN], 0)
    return np.where(alien, np.float32(0), rows.weight)


def _without_noise(table: Table) -> Table:
    zero = np.zeros(len(table), np.float32)
    return replace(table, sigma=zero, slope=zero, correlation=zero)


def fingerprint_of(table: Table) -> str:
    """Sixteen hex digits that change with any value of a table."""
    parts: list[object] = []
    for field in fields(table):
        value = getattr(table, field.name)
        for name, values in (value if isinstance(value, dict) else {field.name: value}).items():
            parts += [name, np.ascontiguousarray(values).tobytes()]
    return digest(*parts)

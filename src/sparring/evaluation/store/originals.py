"""Training images that samples may be copies of, and the distances to the nearest of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...data.base import Dataset
from ..feature_sets import nearest
from ..networks.classifier import MAX_SIDE, shrink
from ..networks.extractors import Extractor

N_ORIGINALS = 3  # training images at least: one, and two others
RATIO = 1 / 3
SAME = 1e-5  # of the length of the features: rounding in float32, not a difference


@dataclass(frozen=True)
class Neighbours:
    """Distances (M,) to the nearest and second nearest point, and which the nearest is, (M,)."""

    nearest: Tensor
    second: Tensor
    index: Tensor

    @property
    def is_within_ratio(self) -> Tensor:
        """d1 < d2 / 3, shape (M,)."""
        return self.nearest < RATIO * self.second


def two_nearest(queries: Tensor, points: Tensor, own: Tensor | None = None) -> Neighbours:
    """The two nearest points (N, D) of each query (M, D); see `nearest`."""
    distances, rows = nearest(queries, points, 2, own)
    first, second = distances.T.contiguous()
    return Neighbours(first, second, rows[:, 0])


Read = Callable[[Dataset, Extractor, Sequence[int]], tuple[Tensor, Tensor]]
"""Features (N, D) and indices (N,) of a data set's images at some rows."""


class Originals:
    """Training images that samples may be copies of; read once for any number of models.

    Args:
        training: Images, about [0, 1]; what lies outside is clipped, as samples are.
        held_out: Images that training never saw; None or none: each training image stands in, among
            the others.
        extractor: What gives the features that are compared.
        rows: Which training images; None: all.
        clean: The same images before they were contaminated, which then stand in; None: `training`
            is clean.
        read: `read_features`, or what does the same and keeps it.

    Raises:
        ValueError: for fewer than 3 training images.
    """

    def __init__(
        self,
        training: Dataset,
        held_out: Dataset | None,
        extractor: Extractor,
        rows: Sequence[int] | None = None,
        clean: Dataset | None = None,
        read: Read | None = None,
    ) -> None:
        self.training, self.held_out, self.extractor = training, held_out, extractor
        self.clean, self.read = clean, read or read_features
        self.rows = list(range(len(training)) if rows is None else rows)
        if len(self.rows) < N_ORIGINALS:
            raise ValueError(f"needs at least {N_ORIGINALS} training images, got {len(self.rows)}")

    @cached_property
    def _read(self) -> tuple[Tensor, Tensor]:
        return self.read(self.training, self.extractor, self.rows)

    @property
    def features(self) -> Tensor:
        """Features (N, D) of the training images, float32."""
        return self._read[0]

    @property
    def indices(self) -> Tensor:
        """Each one's index (N,) in the data set: unreadable images are left out."""
        return self._read[1]

    @property
    def source(self) -> str:
        """What calibrates the distances, in words."""
        if self.held_out:
            return "held-out images"
        return "each training image and its nearest other one"

    def prepare(self) -> None:
        """Read the training images, then what calibrates: processes that share the reading wait for
        each other, so all must read in this order."""
        _ = self.features
        _ = self._calibrated

    def neighbours(self, features: Tensor) -> Neighbours:
        """Of samples by their features (M, D)."""
        return two_nearest(features.float(), self.features)

    @cached_property
    def _calibrated(self) -> tuple[Neighbours, int]:
        features = self.features
        if self.held_out:
            rows = range(len(self.held_out))
            features, _ = self.read(self.held_out, self.extractor, rows)
            found = two_nearest(features, self.features)
        else:
            if self.clean is not None:
                features, _ = self.read(self.clean, self.extractor, self.indices.tolist())
            found = two_nearest(features, self.features, torch.arange(len(features)))
        differs = found.nearest > SAME * features.double().norm(dim=1)
        if not differs.any():
            return found, 0
        kept = Neighbours(found.nearest[differs], found.second[differs], found.index[differs])
        return kept, int((~differs).sum())

    @property
    def calibration(self) -> Neighbours:
        """Neighbours of the images that calibrate, of held-out ones or of training images, but of
        those that are in the training set as well: they would set the thresholds to 0."""
        return self._calibrated[0]

    @property
    def n_repeated(self) -> int:
        """How many images are not used for that reason."""
        return self._calibrated[1]

    @cached_property
    def _radii(self) -> Tensor:
        return torch.full((len(self.features),), torch.nan, dtype=torch.float64)

    def radii(self, rows: Tensor) -> Tensor:
        """Distance r of these training images to their nearest other one; each is found once."""
        wanted = torch.unique(rows)
        wanted = wanted[self._radii[wanted].isnan()]
        if len(wanted):
            found = two_nearest(self.features[wanted], self.features, wanted)
            self._radii[wanted] = found.nearest
        return self._radii[rows]

    def is_authentic(self, found: Neighbours) -> Tensor:
        """d1 > r, shape (M,): the nearest training image has another one nearer than the query."""
        return found.nearest > self.radii(found.index)


def small_pixels() -> Extractor:
    """The image itself, averaged down to at most 32 pixels a side."""
    return Extractor(
        "pixels",
        lambda images: shrink(images).flatten(1),
        checksum="none",
        resize=f"area to at most {MAX_SIDE} pixels",
    )


def read_features(
    data: Dataset, extractor: Extractor, rows: Sequence[int], batch_size: int = 256
) -> tuple[Tensor, Tensor]:
    """Features (N, D), float32, and indices (N,) of the readable images, clipped to [0, 1]."""
    features, indices = [], []
    for batch in data.chunks(rows, batch_size):
        features.append(extractor(batch["x0"].float().clamp(0, 1)).float())
        indices.append(batch["index"])
    return torch.cat(features), torch.cat(indices)

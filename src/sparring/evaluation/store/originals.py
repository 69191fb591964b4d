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


def read_features(
    data: Dataset, extractor: Extractor, rows: Sequence[int], batch_size: int = 256
) -> tuple[Tensor, Tensor]:
    """Features (N, D), float32, and indices (N,) of the readable images, clipped to [0, 1]."""
    features, indices = [], []
    for batch in data.chunks(rows, batch_size):
        features.append(extractor(batch["x0"].float().clamp(0, 1)).float())
        indices.append(batch["index"])
    return torch.cat(features), torch.cat(indices)


@dataclass(eq=False)
class Originals:
    """Training images that samples may be copies of; read once for any number of models."""

    training: Dataset  # images, about [0, 1]; what lies outside is clipped, as samples are
    held_out: Dataset | None  # that training never saw; without, each training image stands in
    extractor: Extractor  # what gives the features that are compared
    rows: Sequence[int] = ()  # which training images; (): all
    clean: Dataset | None = None  # dirty images before they were contaminated, which stand in
    # or what does the same and keeps it
    read: Callable[[Dataset, Extractor, Sequence[int]], tuple[Tensor, Tensor]] = read_features

    def __post_init__(self) -> None:
        self.rows = self.rows or range(len(self.training))
        if len(self.rows) < N_ORIGINALS:
            raise ValueError(f"needs at least {N_ORIGINALS} training images, got {len(self.rows)}")

    @property
    def source(self) -> str:
        """What calibrates the distances, in words."""
        others = "each training image and its nearest other one"
        return "held-out images" if self.held_out else others

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

    def prepare(self) -> None:
        """Read the training images, then what calibrates: in this order, as processes wait."""
        _ = self._calibrated

    def neighbours(self, features: Tensor) -> Neighbours:
        """Of samples by their features (M, D)."""
        return two_nearest(features.float(), self.features)

    @cached_property
    def _calibrated(self) -> tuple[Neighbours, int]:
        features, own = self.features, None
        if self.held_out:
            features, _ = self.read(self.held_out, self.extractor, range(len(self.held_out)))
        else:
            own = torch.arange(len(features))
            if self.clean is not None:
                features, _ = self.read(self.clean, self.extractor, self.indices.tolist())
        found = two_nearest(features, self.features, own)
        differs = found.nearest > SAME * features.double().norm(dim=1)
        if not differs.any():
            return found, 0
        kept = (one[differs] for one in (found.nearest, found.second, found.index))
        return Neighbours(*kept), int((~differs).sum())

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

r"""Does a model copy its training images? Distances to the nearest of them, and what they mean.

    originals = Originals(training, held_out, extractor)
    found = originals.neighbours(extractor(samples01.clamp(0, 1)))
    memorization(found, originals)                               # {"near_duplicates": 0.97, ...}

A small distance alone says nothing: in a dense set every new image lies near some old one. Held-out
images, which the model never saw, say how near new images come by themselves:

| figure | a sample counts if | source |
|---|---|---|
| `near_duplicates` | d1 <= the 1 % quantile of held-out images' d1 | ours |
| `within_5_percent` | d1 <= their 5 % quantile | ours |
| `within_a_third` | d1 < d2 / 3 | Yoon et al., 2023 |
| `authentic` (AuthPct) | d1 > r | Alaa et al., 2022, section 3 |

d1, d2: distance of a sample to its nearest and second nearest training image; r: distance of that
nearest one to its own nearest other training image. Of a model that copies nothing 1 % are near
duplicates, more where its samples keep to the middle of the data (a held-out image may be odd, a
sample seldom is); beside every share stands that of the held-out images themselves. Training
images that occur twice have d1 = d2 and r = 0: only the quantiles find copies of those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..data.base import Dataset
from .networks.classifier import MAX_SIDE, shrink
from .networks.extractors import Extractor
from .resampling import half_samples, interval

N_ORIGINALS = 3  # training images at least: one, and two others
N_PAIRS = 24  # most copied images that are shown
N_BINS = 40  # of the distribution
QUANTILES = {"near_duplicates": 0.01, "within_5_percent": 0.05}
RATIO = 1 / 3
SAME = 1e-5  # of the length of the features: rounding in float32, not a difference
FLAGGED_FROM = 0.1
"""Share of near duplicates, at the lower end of its interval, from which a model is flagged."""

_QUERIES, _POINTS = 1024, 8192  # distances held at once: 64 MiB of float64


# --- Neighbours ------------------------------------------------------------------------------


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
    """The two nearest points (N, D) of each query (M, D), block by block: memory does not grow
    with M * N.

    Args:
        queries: (M, D).
        points: (N, D), N >= 2, or 3 with `own`.
        own: Row (M,) of each query among the points, which is not its neighbour; None: no query is
            one of the points.

    Raises:
        ValueError: for too few points.
    """
    if len(points) < 2 + (own is not None):
        raise ValueError(f"needs two other points, got {len(points)} in all")
    found = []
    for start in range(0, len(queries), _QUERIES):
        chunk = queries[start : start + _QUERIES].double()
        rows = None if own is None else own[start : start + _QUERIES]
        distances, places = torch.empty(len(chunk), 0).double(), torch.empty(len(chunk), 0).long()
        for first in range(0, len(points), _POINTS):
            block = points[first : first + _POINTS].double()
            here = torch.cdist(chunk, block)
            if rows is not None:
                inside = (rows >= first) & (rows < first + len(block))
                here[inside.nonzero().flatten(), rows[inside] - first] = torch.inf
            near = here.topk(min(2, len(block)), largest=False)
            distances = torch.cat([distances, near.values], 1)
            places = torch.cat([places, near.indices + first], 1)
            best = distances.topk(min(2, distances.shape[1]), largest=False)
            distances, places = best.values, places.gather(1, best.indices)
        found.append((distances[:, 0], distances[:, 1], places[:, 0]))
    nearest, second, index = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Neighbours(nearest, second, index)


Read = Callable[[Dataset, Extractor, Sequence[int]], tuple[Tensor, Tensor]]
"""Features (N, D) and indices (N,) of a data set's images at some rows."""


# --- Originals -------------------------------------------------------------------------------


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


# --- Figures ---------------------------------------------------------------------------------


def memorization(
    found: Neighbours, originals: Originals, n_resamples: int = 10, seed: int = 0
) -> dict[str, Any]:
    """Shares of samples that are near duplicates of training images, beside held-out images'.

    Quantiles for which there are too few calibrating images (less than one lies below) are left
    out. So is `authentic` where the training images are dirty: a clean sample is nearer to a dirty
    image than another dirty one is.

    Args:
        found: `originals.neighbours` of the samples' features.
        originals: The training images, and what calibrates.
        n_resamples: Resamples behind each interval.
        seed: Of the resamples.

    Returns:
        `near_duplicates` and the other shares of the table above, each with its `..._interval` and
        `..._of_calibration`; `thresholds` of the distance by share; the `histogram` of both
        distributions; the `pairs` most alike; `is_flagged`: the lower end of the share of near
        duplicates is above a tenth; and the `verdict` in words.
    """
    known = originals.calibration
    figures: dict[str, Any] = {
        "extractor": originals.extractor.name,
        "calibration": originals.source,
        "n_calibration": len(known.nearest),
        "n_repeated": originals.n_repeated,
        "n_train": len(originals.features),
        "n_samples": len(found.nearest),
    }

    def add(name: str, of_samples: Tensor, of_calibration: Tensor) -> None:
        def share_of(half: Tensor) -> float:
            return half.mean().item()

        counted = of_samples.double()
        halves = half_samples(share_of, counted, n_resamples, seed)
        ends = interval(share_of(counted), halves)
        figures[name] = share_of(counted)
        figures[f"{name}_interval"] = [min(max(end, 0.0), 1.0) for end in ends]
        figures[f"{name}_of_calibration"] = share_of(of_calibration.double())

    thresholds = {
        name: torch.quantile(known.nearest, level, interpolation="lower").item()
        for name, level in QUANTILES.items()
        if level * len(known.nearest) >= 1
    }
    for name, threshold in thresholds.items():
        add(name, found.nearest <= threshold, known.nearest <= threshold)
    add("within_a_third", found.is_within_ratio, known.is_within_ratio)
    if originals.clean is None:
        add("authentic", originals.is_authentic(found), originals.is_authentic(known))
    main = next(iter(thresholds), "within_a_third")
    is_flagged = figures[f"{main}_interval"][0] > FLAGGED_FROM
    return figures | {
        "thresholds": thresholds,
        "is_flagged": is_flagged,
        "verdict": _verdict(figures, main, is_flagged, originals),
        "histogram": histogram(found.nearest, known.nearest),
        "pairs": most_copied(found, originals, thresholds.get(main)),
    }


def _verdict(figures: dict[str, Any], main: str, is_flagged: bool, originals: Originals) -> str:
    low, high = (100 * end for end in figures[f"{main}_interval"])
    whose = "training images" if originals.clean is None else "dirty training images"
    what = f"copies its {whose}" if is_flagged else f"no sign of copied {whose}"
    if main == "within_a_third":
        nearer = f"three times nearer to one of {figures['n_train']:,} than to any other"
    else:
        than = "held-out images are" if originals.held_out else "training images to another one"
        share = f"{100 * QUANTILES[main]:g} %"
        nearer = f"as near to one of {figures['n_train']:,} as the nearest {share} of {than}"
    said = f"{what}: {100 * figures[main]:.1f} % of the samples ({low:.1f} to {high:.1f} %) are"
    said = f"{said} {nearer}"
    if not originals.held_out:
        said = f"{said} (there are no held-out images, which would calibrate better)"
    elif originals.n_repeated:
        said = f"{said} ({originals.n_repeated} held-out images are training images too: left out)"
    return said


def distance_figures(
    found: Neighbours, originals: Originals, n_resamples: int = 10, seed: int = 0
) -> dict[str, Any]:
    """Distance of samples to their nearest training image, in feature space: mean and median.

    A model that copies is nearer to its training images than unseen images are: compare with the
    calibration's.
    """
    nearest, calibration = found.nearest, originals.calibration.nearest
    halves = half_samples(lambda half: half.mean().item(), nearest, n_resamples, seed)
    return {
        "mean": nearest.mean().item(),
        "mean_interval": interval(nearest.mean().item(), halves),
        "median": nearest.median().item(),
        "calibration": originals.source,
        "calibration_mean": calibration.mean().item(),
        "calibration_median": calibration.median().item(),
        "n_train": len(originals.features),
    }


def histogram(samples: Tensor, calibration: Tensor, n_bins: int = N_BINS) -> dict[str, Any]:
    """Shares of both sets by distance: bins of equal width from 0; the last one holds all beyond
    the upper 0.5 % of the wider set."""
    top = max(torch.quantile(one, 0.995).item() for one in (samples, calibration)) or 1.0
    edges = torch.linspace(0, top, n_bins + 1, dtype=torch.float64)

    def shares(of: Tensor) -> list[float]:
        place = torch.bucketize(of, edges[1:-1], right=True)
        return (torch.bincount(place, minlength=n_bins) / len(of)).tolist()

    return {
        "edges": edges.tolist(),
        "samples": shares(samples),
        "calibration": shares(calibration),
    }


def most_copied(
    found: Neighbours, originals: Originals, threshold: float | None, n_pairs: int = N_PAIRS
) -> list[dict[str, Any]]:
    """The training images with the nearest samples, each with the nearest of these, by distance.

    Args:
        found: Neighbours of the samples.
        originals: Where they were found.
        threshold: Below it a sample is a near duplicate; None: not known.
        n_pairs: At most so many.

    Returns:
        For each pair: number of the `sample`, index and file of the `training` image, d1, d2, and
        how many samples are near duplicates of it.
    """
    pairs, seen = [], set()
    for sample in found.nearest.argsort().tolist():
        row = int(found.index[sample])
        if row in seen:
            continue
        seen.add(row)
        copies = (found.index == row) & (found.nearest <= (threshold or 0.0))
        index = int(originals.indices[row])
        pairs.append({
            "sample": sample,
            "training": index,
            "where": originals.training.where(index),
            "distance": found.nearest[sample].item(),
            "second_distance": found.second[sample].item(),
            "n_near_duplicates": None if threshold is None else int(copies.sum()),
        })  # fmt: skip
        if len(pairs) == n_pairs:
            break
    return pairs

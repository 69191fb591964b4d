"""Measure samples of one model against clean reference data: every figure that the data allow.

    evaluate(samples, reference, training, settings)
    -> {"frechet_distance": 4.9, ..., "protocol": {...}}

Vectors with a known truth get the exact errors, images the distances on features and the leftover
noise; images with a known truth get both. The result is plain JSON.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..cache import key_of
from ..data.base import Dataset
from ..errors import UserError
from ..randomness import generator
from .analytic import N_PROJECTIONS, analytic_figures
from .features import Extractor, image_batches, make_extractor
from .kept import code_key
from .leftover import EMPTY_SHARE, count_empty, rms_of, squares_in
from .metrics import (
    Gaussian,
    frechet_distance,
    frechet_distance_infinity,
    frechet_distance_of_halves,
    frechet_distance_of_resamples,
    inception_score,
    kernel_distance_of_subsets,
    nearest_distances,
    neighbour_radii,
    precision_recall_density_coverage,
    subset_size_for,
)
from .parts import Parts, Processes
from .protocol import versions
from .resampling import half_samples, interval
from .statistics import CLAIMS, check_features, load_statistics, save_statistics

log = logging.getLogger(__name__)

MAX_FOR_NEIGHBOURS = 10_000
N_COMPUTED_AGAIN = 16
PART = 256  # images of a data set that are held at once
N_SPLITS = 10


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        extractor: `classifier`, `pixels`, `inception` or `path/to/file.py:function`, see
            `features`; None: `classifier` where the reference has labels, else `pixels`.
        weights: File of the Inception weights; None: from the cache or the public address.
        statistics: File of saved features of the reference, checked before use; None: they are
            computed.
        n_resamples: Resamples behind each interval and each floor; at least 2.
        seed: Of subsets, resamples, directions and fresh samples.
        k: Neighbours that make the balls of precision, recall, density and coverage.
        max_reference: A larger reference is replaced by a random subset of this size.
        device: Where features are computed.
    """

    extractor: str | None = None
    n_resamples: int = 10
    seed: int = 0
    k: int = 5
    max_reference: int = 50_000
    device: str = "cpu"
    weights: str | None = None
    statistics: str | None = None

    def __post_init__(self) -> None:
        if self.n_resamples < 2:
            raise UserError(f"evaluation.n_resamples must be >= 2, got {self.n_resamples}")


class Reference:
    """Clean reference data read once: features and empty pixels, for any number of models.

    Args:
        dataset: Clean data, images in [0, 1] (not `ModelRange`, not contaminated).
        settings: How to measure.
        split: What the data set's split is called, for the protocol.
        read_as: Size and channels of its images and what made them so, for the protocol.
        kept: Folder of features that are kept; None: they are held in memory.
        processes: Who shares the reading; several need `kept`.
    """

    def __init__(
        self,
        dataset: Dataset,
        settings: Settings,
        split: str = "not said",
        read_as: str | None = None,
        *,
        kept: Path | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.dataset, self.settings, self.split, self.read_as = dataset, settings, split, read_as
        self.kept, self.processes = kept, processes or Processes()
        self._known: dict[str, Parts] = {}
        if not dataset.is_image and dataset.truth is None:
            raise UserError(
                f"{dataset.name} has neither images nor a known truth: nothing to compare with"
            )

    def __len__(self) -> int:
        return min(len(self.dataset), self.settings.max_reference)

    @cached_property
    def extractor(self) -> Extractor:
        settings = self.settings
        return make_extractor(settings.extractor, self.dataset, settings.device, settings.weights)

    @cached_property
    def _read(self) -> tuple[Tensor, Tensor, Tensor | None]:
        if self.settings.statistics is not None:
            return self._load(self.settings.statistics)
        parts = self.parts(self.dataset)
        labels = self._labels if self.dataset.num_classes else None
        return parts.read("features"), self.empty_pixels, labels

    def parts(self, data: Dataset) -> Parts:
        """Features, empty pixels and labels of a data set's images, this process's share done."""
        settings, extractor = self.settings, self.extractor
        key = key_of(
            data.fingerprint(), settings.max_reference, settings.seed, self.device_type,
            extractor.name, extractor.checksum, extractor.resize, extractor.range, code_key(),
        )  # fmt: skip
        if key in self._known:
            return self._known[key]
        rows = _rows(data, settings)
        folder = None if self.kept is None else self.kept / key
        parts = Parts(len(rows), PART, folder, self.processes)

        def read(part: range) -> dict[str, Tensor]:
            chosen = rows[part.start : part.stop]
            images, labels = next(image_batches(data, chosen, len(chosen)))
            found = {
                "features": extractor(images.clamp(0, 1)),
                "n_empty": count_empty(images)[None],
                "n_images": torch.tensor([len(images)]),
            }
            return found if labels is None else found | {"labels": labels}

        parts.compute(read)
        self._known[key] = parts
        return parts

    @property
    def device_type(self) -> str:
        return torch.device(self.settings.device).type

    def save(self, path: str | Path) -> None:
        """Write features, statistics and labels, with what they were computed from.

        Raises:
            UserError: for data that are no images.
        """
        if not self.dataset.is_image:
            raise UserError(f"{self.dataset.name} has no images: it needs no saved statistics")
        features, is_empty, labels = self._read
        save_statistics(path, features, is_empty, labels, self.claims())

    def _load(self, path: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """What `save` wrote, if it is of these data; the first rows are computed again."""
        features, is_empty, labels = load_statistics(path, self.claims())
        rows = _rows(self.dataset, self.settings)[:N_COMPUTED_AGAIN]
        images, _ = next(image_batches(self.dataset, rows))
        check_features(path, features[: len(images)], self.extractor(images.clamp(0, 1)))
        return features, is_empty, labels

    def claims(self) -> dict[str, Any]:
        """What decides the features: the protocol's share of it, and which rows were read."""
        protocol, settings = self.protocol(0), self.settings
        is_whole = len(self.dataset) <= settings.max_reference
        return {key: protocol[key] for key in CLAIMS if key in protocol} | {
            "rows": "all" if is_whole else f"{len(self)} by seed {settings.seed}"
        }

    @property
    def labels(self) -> Tensor | None:
        """Classes (N,) of the images in a random order, None without labels."""
        if not self.dataset.num_classes:
            return None
        labels = self._labels
        random = generator("cpu", self.settings.seed, "labels")
        return labels[torch.randperm(len(labels), generator=random)]

    @cached_property
    def _labels(self) -> Tensor:
        if self.dataset.is_image and self.settings.statistics is None:
            return self.parts(self.dataset).read("labels")
        saved = self._read[2] if self.dataset.is_image else None
        return self.dataset.read_all()["label"] if saved is None else saved

    @cached_property
    def captions(self) -> list[str]:
        """Captions in a random order, without the images that have none; [] without captions."""
        captions = self.dataset.captions
        if captions is None:
            return []
        rows = torch.tensor(_rows(self.dataset, self.settings))
        random = generator("cpu", self.settings.seed, "captions")
        order = rows[torch.randperm(len(rows), generator=random)].tolist()
        found = (captions[i] for i in order)
        return [caption for caption in found if caption is not None]

    @property
    def features(self) -> Tensor:
        """Features (N, D)."""
        return self._read[0]

    @cached_property
    def empty_pixels(self) -> Tensor:
        """Pixels (C, H, W) that are 0 in at least 97 % of the images."""
        if self.settings.statistics is not None:
            return self._read[1]
        parts = self.parts(self.dataset)
        return parts.read("n_empty").sum(0).double() / parts.read("n_images").sum() >= EMPTY_SHARE

    def protocol(self, n_fake: int) -> dict[str, Any]:
        """The measurement's half of the protocol."""
        protocol: dict[str, Any] = {
            "data": self.dataset.name,
            "data_fingerprint": self.dataset.fingerprint(),
            "split": self.split,
            "n_real": len(self),
            "n_fake": n_fake,
        }
        if self.dataset.is_image:
            protocol |= {
                **({} if self.read_as is None else {"read_as": self.read_as}),
                "resize": self.extractor.resize,
                "range": self.extractor.range,
                "extractor": self.extractor.name,
                "extractor_checksum": self.extractor.checksum,
                "k": self.settings.k,
                **self.extractor.details,
            }
        if self.dataset.truth is not None:
            protocol["n_projections"] = N_PROJECTIONS
        return protocol | {
            "n_resamples": self.settings.n_resamples,
            "seeds": {"evaluation": self.settings.seed},
            "versions": versions(),
        }


def evaluate(
    samples: Tensor,
    reference: Dataset | Reference,
    training: Dataset | None = None,
    settings: Settings | None = None,
    *,
    held_out: Dataset | None = None,
    generation: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Every figure that the data allow, and the protocol.

    Args:
        samples: Samples (N, *sample_shape) in the model's range: images in [-1, 1], vectors in data
            units.
        reference: Clean data, images in [0, 1]; a `Reference` is read once for several models.
        training: Clean training images, for the distance to the nearest of them.
        settings: How to measure; those of `reference` if that is a `Reference`.
        held_out: Clean images that training never saw; they calibrate that distance. Without them
            each training image's distance to its nearest other one does.
        generation: How the samples were drawn, for the protocol: sampler, steps, guidance, seeds...

    Returns:
        JSON-ready figures by name: distances and shares of images, exact errors where the truth is
        known, the Inception Score where the extractor has classes. `frechet_distance` and
        `sliced_wasserstein` stand beside their floors (`..._of_reference`) and 95 % intervals
        (`..._interval`) over random halves of the samples.

    Raises:
        UserError: for samples that are too few, not finite, or shaped unlike the reference.
    """
    if not isinstance(reference, Reference):
        reference = Reference(reference, settings or Settings())
    check_count(len(samples), reference.dataset, reference.settings)
    seen = look(samples, reference)
    return measure(seen, reference, training, held_out=held_out, generation=generation)


def look(samples: Tensor, reference: Reference, first: int = 0) -> dict[str, Tensor]:
    """What the figures need of samples, (N, *) each; of many samples part by part.

    Args:
        samples: Samples (N, *sample_shape) in the model's range.
        reference: What they will be compared with.
        first: Number of the first of them, for messages.

    Returns:
        features (N, D) and, where the reference has empty pixels, squares (N,) of images; x0
        (N, *sample_shape) in data units where the truth is known.

    Raises:
        UserError: for samples that are not finite or shaped unlike the reference.
    """
    data = reference.dataset
    check_samples(samples, data, first)
    samples = samples.float().cpu()
    seen: dict[str, Tensor] = {}
    if data.is_image:
        samples = (samples + 1) / 2
        seen["squares"] = squares_in(samples, reference.empty_pixels)
        seen["features"] = reference.extractor(samples.clamp(0, 1))
    if data.truth is not None:
        seen["x0"] = samples
    return seen


def measure(
    seen: Mapping[str, Tensor],
    reference: Reference,
    training: Dataset | None = None,
    *,
    held_out: Dataset | None = None,
    generation: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """`evaluate` of samples that were looked at; see there."""
    data, settings = reference.dataset, reference.settings
    figures: dict[str, Any] = {}
    if data.is_image:
        figures |= image_figures(seen["features"], seen["squares"], reference)
        if training is not None:
            figures["nearest_training_distance"] = memorisation(
                seen["features"], training, held_out, reference
            )
    if data.truth is not None:
        figures |= analytic_figures(seen["x0"], data.truth, settings.n_resamples, settings.seed)
    protocol = reference.protocol(len(next(iter(seen.values()))))
    extra = dict(generation or {})
    seeds = protocol["seeds"] | dict(extra.pop("seeds", {}))
    return figures | {"protocol": protocol | extra | {"seeds": seeds}}


def check_samples(samples: Tensor, data: Dataset, first: int = 0) -> None:
    """Refuse samples that cannot be measured.

    Raises:
        UserError: one line that says what is wrong with them.
    """
    if samples.ndim < 2 or tuple(samples.shape[1:]) != tuple(data.sample_shape):
        raise UserError(
            f"samples have shape {tuple(samples.shape[1:])} but {data.name} has "
            f"{tuple(data.sample_shape)}: name the model's own data, such as data.name=..."
        )
    finite = torch.isfinite(samples).flatten(1).all(1)
    if not finite.all():
        raise UserError(
            f"{int((~finite).sum())} of {len(samples)} samples are not finite (the first is sample "
            f"{first + int((~finite).nonzero()[0])}): the model or its sampler is broken"
        )


def check_count(n_samples: int, data: Dataset, settings: Settings) -> None:
    """Refuse fewer samples or reference samples than the figures need."""
    needed = settings.k + 1 if data.is_image else 2
    for what, n in (("samples", n_samples), (f"reference samples in {data.name}", len(data))):
        if n < needed:
            raise UserError(
                f"{n} {what} are too few: needs at least {needed} (evaluation.k = {settings.k} "
                "neighbours and the sample itself)" if data.is_image
                else f"{n} {what} are too few: needs at least {needed}"
            )  # fmt: skip


def image_figures(fake: Tensor, squares: Tensor, reference: Reference) -> dict[str, Any]:
    """Frechet and kernel distance, precision, recall, density, coverage, leftover noise.

    Args:
        fake: Features (N, D) of the samples.
        squares: Sums of squares (N,) of the samples on the [0, 1] scale in the empty pixels.
        reference: What they are compared with.
    """
    settings, real = reference.settings, reference.features
    n, n_dims = min(len(real), len(fake)), real.shape[1]
    if n <= n_dims:
        log.warning(
            "%d images for %d features: the covariance is singular and the Frechet distance means "
            "little; use more samples or an extractor with fewer features",
            n, n_dims,
        )  # fmt: skip
    if n < reference.extractor.n_enough:
        log.warning(
            "%d images are few for FID, which needs %d: it is too high, and comparable only at the "
            "same number of images; frechet_distance_infinity is extrapolated (and too low below "
            "%d images)",
            n, reference.extractor.n_enough, 4 * n_dims,
        )  # fmt: skip
    whole = Gaussian.of(real)
    seed, n_resamples = settings.seed, settings.n_resamples
    distance = frechet_distance(whole, fake)
    halves = half_samples(lambda half: frechet_distance(whole, half), fake, n_resamples, seed)
    floors = frechet_distance_of_resamples(real, len(fake), n_resamples, seed)
    kernel = kernel_distance_of_subsets(real, fake, seed=seed)
    n_empty = int(reference.empty_pixels.sum())
    kernel_mean, subset_size = kernel.mean().item(), subset_size_for(len(real), len(fake))
    return {
        "frechet_distance": distance,
        "frechet_distance_interval": interval(distance, halves),
        "frechet_distance_of_reference": floors.mean().item(),
        "frechet_distance_of_halves": frechet_distance_of_halves(real, n_resamples, seed),
        "kernel_distance": kernel_mean,
        "kernel_distance_interval": interval(kernel_mean, kernel, subset_size, n),
        **_neighbour_figures(real, fake, settings),
        **_few_image_figures(whole, fake, n, reference),
        **_inception_scores(real, fake, reference),
        "empty_pixel_rms": rms_of(squares, n_empty) if n_empty else None,
        "n_empty_pixels": n_empty,
    }


def _few_image_figures(
    real: Gaussian, fake: Tensor, n: int, reference: Reference
) -> dict[str, float]:
    """FID-infinity where the extractor says that n images are few."""
    if n >= reference.extractor.n_enough:
        return {}
    seed = reference.settings.seed
    return {"frechet_distance_infinity": frechet_distance_infinity(real, fake, seed=seed)}


def _inception_scores(real: Tensor, fake: Tensor, reference: Reference) -> dict[str, Any]:
    """The Inception Score where the extractor has classes, beside that of the reference."""
    logits = reference.extractor.logits
    if logits is None:
        return {}
    n_splits, seed = min(N_SPLITS, len(real), len(fake)), reference.settings.seed
    mean, deviation = inception_score(logits(fake), n_splits, seed)
    return {
        "inception_score": mean,
        "inception_score_std": deviation,
        "inception_score_of_reference": inception_score(logits(real), n_splits, seed)[0],
    }


def _neighbour_figures(real: Tensor, fake: Tensor, settings: Settings) -> dict[str, Any]:
    """Precision, recall, density and coverage with their intervals.

    Their cost grows with N * M, so at most 10,000 of each take part (as many as in Naeem et al.).
    """
    random = generator("cpu", settings.seed, "neighbours")
    real, fake = (
        one[torch.randperm(len(one), generator=random)[:MAX_FOR_NEIGHBOURS]] for one in (real, fake)
    )
    radii = neighbour_radii(real, settings.k)
    figures: dict[str, Any] = precision_recall_density_coverage(real, fake, settings.k, radii)
    halves = []
    if len(fake) // 2 <= settings.k:
        return figures  # a half has too few samples for its balls
    for _ in range(settings.n_resamples):
        half = fake[torch.randperm(len(fake), generator=random)[: len(fake) // 2]]
        halves.append(precision_recall_density_coverage(real, half, settings.k, radii))
    for name in list(figures):
        values = torch.tensor([half[name] for half in halves], dtype=torch.float64)
        figures[f"{name}_interval"] = interval(figures[name], values)
    return figures


def memorisation(
    fake: Tensor, training: Dataset, held_out: Dataset | None, reference: Reference
) -> dict[str, Any]:
    """Distance of samples to their nearest clean training image, in feature space.

    A model that copies is nearer to its training images than unseen images are: compare `mean` and
    `median` with those of the calibration.

    Args:
        fake: Features (N, D) of the samples.
        training: Clean training images.
        held_out: Clean images that training never saw, or None.
        reference: Whose extractor and settings are used.
    """
    settings = reference.settings
    train = reference.parts(training).read("features")
    if held_out is not None and len(held_out):
        calibration = nearest_distances(reference.parts(held_out).read("features"), train)
        source = "held-out images"
    else:
        calibration = neighbour_radii(train, 1)
        source = "each training image and its nearest other one"
    distances = nearest_distances(fake, train)
    halves = half_samples(
        lambda half: half.mean().item(), distances, settings.n_resamples, settings.seed
    )
    return {
        "mean": distances.mean().item(),
        "mean_interval": interval(distances.mean().item(), halves),
        "median": distances.median().item(),
        "calibration": source,
        "calibration_mean": calibration.mean().item(),
        "calibration_median": calibration.median().item(),
        "n_train": len(train),
    }


def _rows(data: Dataset, settings: Settings) -> list[int]:
    """All rows, or a seeded subset of a data set with more than `max_reference`."""
    if len(data) <= settings.max_reference:
        return list(range(len(data)))
    random = generator("cpu", settings.seed, "reference rows")
    chosen = torch.randperm(len(data), generator=random)[: settings.max_reference]
    return chosen.sort().values.tolist()

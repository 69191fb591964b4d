"""Measure samples of one model against clean reference data: every figure that the data allow.

    evaluate(samples, reference, training, settings)
    -> {"frechet_distance": 4.9, ..., "protocol": {...}}

Vectors with a known truth get the exact errors, images the distances on features and the leftover
noise; images with a known truth get both. The result is plain JSON.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.base import Dataset
from ..diffusion.randomness import generator
from ..support.errors import UserError
from .analytic import analytic_figures
from .leftover_noise import rms_of, squares_in
from .memorization import (
    distance_figures,
    memorization,
    small_pixels,
)
from .metrics import (
    Gaussian,
    frechet_distance,
    frechet_distance_infinity,
    frechet_distance_of_halves,
    frechet_distance_of_resamples,
    inception_score,
    kernel_distance_of_subsets,
    neighbour_radii,
    precision_recall_density_coverage,
    subset_size_for,
)
from .networks.lpips import MAX_PAIRS, diversity_figures
from .resampling import half_samples, interval
from .store.proximal import FEATURES, Proximal
from .store.reference import Reference, Settings

log = logging.getLogger(__name__)

MAX_FOR_NEIGHBOURS = 10_000
N_SPLITS = 10
THUMB_SIDE = 128
JUDGED = "judged: "  # before what a judge says of samples


def evaluate(
    samples: Tensor,
    reference: Dataset | Reference,
    training: Dataset | None = None,
    settings: Settings | None = None,
    *,
    held_out: Dataset | None = None,
    captions: Sequence[str] | None = None,
    dirty: Dataset | None = None,
    proximal: Proximal | None = None,
    generation: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Every figure that the data allow, and the protocol.

    Args:
        samples: Samples (N, *sample_shape) in the model's range: images in [-1, 1], vectors in data
            units.
        reference: Clean data, images in [0, 1]; a `Reference` is read once for several models.
        training: Clean training images, of which samples may be copies.
        settings: How to measure; those of `reference` if that is a `Reference`.
        held_out: Clean images that training never saw; they calibrate the distance to the nearest
            training image. Without them each training image's distance to its nearest other one
            does.
        dirty: The training images as the model saw them, where they were contaminated: a model may
            copy them with their noise.
        proximal: The dirty training images and their table, for `proximal_distance`.
        captions: What each sample was to show (N,), for `settings.judges`.
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
    seen = look(
        samples, reference, captions=captions, with_pixels=dirty is not None, proximal=proximal
    )
    return measure(
        seen, reference, training, held_out=held_out, dirty=dirty, proximal=proximal,
        generation=generation,
    )  # fmt: skip


def look(
    samples: Tensor,
    reference: Reference,
    first: int = 0,
    *,
    captions: Sequence[str] | None = None,
    with_pixels: bool = False,
    proximal: Proximal | None = None,
) -> dict[str, Tensor]:
    """What the figures need of samples, (N, *) each; of many samples part by part.

    Args:
        samples: Samples (N, *sample_shape) in the model's range.
        reference: What they will be compared with.
        first: Number of the first of them: for messages, and only the first 2,000 are for LPIPS.
        captions: What each was to show (N,), for the judges.
        with_pixels: Also the pixels, in which copies of dirty images are looked for.
        proximal: Also the features of the samples made dirty like its images.

    Returns:
        Of images features (N, D), squares (N,) in the reference's empty pixels and in its quiet
        directions, thumbs (N, C, h, w) to be looked at, and what the other figures need; x0
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
        small = samples.clamp(0, 1)
        seen["squares"] = squares_in(samples, reference.empty_pixels)
        if (quiet := reference.quiet.squares(samples)) is not None:
            seen["quiet_squares"] = quiet
        seen["features"] = reference.extractor(small)
        seen["thumbs"] = thumbs(small)
        if reference.memorization_extractor is not reference.extractor:
            seen["memorization_features"] = reference.memorization_extractor(small)
        if with_pixels:
            seen["pixels"] = small_pixels()(small)
        if proximal is not None:
            seen[FEATURES] = proximal.look(small, first)
        if reference.lpips is not None:
            seen["lpips_images"] = small[: max(0, 2 * MAX_PAIRS - first)]
        if reference.panel is not None:
            said = reference.panel.read(small, captions)
            seen |= {f"{JUDGED}{name}": value for name, value in said.items()}
    if data.truth is not None:
        seen["x0"] = samples
    return seen


def thumbs(images01: Tensor) -> Tensor:
    """Images (N, C, H, W) in [0, 1] in 8 bits, averaged down to at most `THUMB_SIDE` a side."""
    if (side := max(images01.shape[2:])) > THUMB_SIDE:
        images01 = F.interpolate(images01, scale_factor=THUMB_SIDE / side, mode="area")
    return (255 * images01).round().to(torch.uint8)


def measure(
    seen: Mapping[str, Tensor],
    reference: Reference,
    training: Dataset | None = None,
    *,
    held_out: Dataset | None = None,
    dirty: Dataset | None = None,
    proximal: Proximal | None = None,
    generation: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """`evaluate` of samples that were looked at; see there."""
    data, settings = reference.dataset, reference.settings
    figures: dict[str, Any] = {}
    if data.is_image:
        figures |= image_figures(seen["features"], seen["squares"], reference)
        if proximal is not None:
            figures |= proximal.figures(seen[FEATURES])
        if "quiet_squares" in seen:
            figures["quiet_rms"] = seen["quiet_squares"].mean().sqrt().item()
            figures["quiet_rms_of_clean"] = reference.quiet.rms_of_clean
        if reference.lpips is not None:
            figures |= diversity_figures(seen["lpips_images"], data, reference.lpips, settings.seed)
        if reference.panel is not None:
            said = {k.removeprefix(JUDGED): v for k, v in seen.items() if k.startswith(JUDGED)}
            figures |= reference.panel.figures(said)
        if training is not None:
            figures |= _memorization_figures(seen, reference, training, held_out, dirty)
    if data.truth is not None:
        figures |= analytic_figures(seen["x0"], data.truth, settings.n_resamples, settings.seed)
    protocol = reference.protocol(len(next(iter(seen.values()))))
    protocol |= {} if proximal is None else proximal.protocol()
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


def _memorization_figures(
    seen: Mapping[str, Tensor],
    reference: Reference,
    training: Dataset,
    held_out: Dataset | None,
    dirty: Dataset | None,
) -> dict[str, Any]:
    """Distance to the nearest clean training image, and shares of copies: of clean images, and of
    dirty ones with their noise, which only pixels are sure to show."""
    sets = reference.all_originals(training, held_out, dirty)
    if not sets:
        log.info("%d training images are too few to look for copies of them", len(training))
        return {}
    for one in sets.values():
        one.prepare()
    n_resamples, seed = reference.settings.n_resamples, reference.settings.seed
    found = {name: one.neighbours(seen[name]) for name, one in sets.items()}
    nearest = distance_figures(found["features"], sets["features"], n_resamples, seed)
    main = "memorization_features" if "memorization_features" in sets else "features"
    figures = {
        "nearest_training_distance": nearest,
        "memorization": memorization(found[main], sets[main], n_resamples, seed),
    }
    if "pixels" in sets:
        figures["memorization_of_dirty"] = memorization(
            found["pixels"], sets["pixels"], n_resamples, seed
        )
    return figures

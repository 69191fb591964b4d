"""Measure samples of one model: every figure that the data allow.

`evaluate(samples, Comparison(reference, training))` gives {"frechet_distance": 4.9, ...}.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.base import Dataset
from ..support.errors import UserError
from .metrics.base import Batch
from .metrics.registry import find, metrics_of, own_codes
from .store.comparison import Comparison
from .store.reference import Settings

THUMB_SIDE = 128


def evaluate(
    samples: Tensor,
    against: Comparison,
    captions: Sequence[str] | None = None,
    generation: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Every figure of the metrics that suit what samples are compared with, and the protocol.

    Args:
        samples: (N, *sample_shape) in the model's range: images in [-1, 1], vectors in data units.
        against: What they are compared with.
        captions: What each sample was to show (N,), for `Settings.judges`.
        generation: How the samples were drawn, for the protocol: sampler, steps, guidance, seeds...

    Returns:
        JSON-ready figures by name, see `Metric.measure`. `own_figures`: how those of the user's own
        metrics are labelled.

    Raises:
        UserError: for samples that are too few, not finite, or shaped unlike the reference.
    """
    check_count(len(samples), against.reference.dataset, against.reference.settings)
    return measure(look(samples, against, captions=captions), against, generation)


def look(
    samples: Tensor, against: Comparison, first: int = 0, captions: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """What each metric keeps of samples, a row a sample, and of images thumbs (N, C, h, w).

    Many samples come part by part; `first` is the number of the first of them. For the other
    arguments see `evaluate`. Raises UserError for samples that are not finite or shaped unlike the
    reference.
    """
    data = against.reference.dataset
    check_samples(samples, data, first)
    samples = samples.float().cpu()
    batch = Batch((samples + 1) / 2 if data.is_image else samples, against, first, captions)
    seen: dict[str, Tensor] = {}
    if data.is_image:
        _ = against.reference.empty_pixels  # first, so that a reference that is wrong is found
        seen["thumbs"] = thumbs(batch.images)
    for metric in metrics_of(against):
        seen |= metric.look(batch)
    return seen


def thumbs(images01: Tensor) -> Tensor:
    """Images (N, C, H, W) in [0, 1] in 8 bits, averaged down to at most `THUMB_SIDE` a side."""
    if (side := max(images01.shape[2:])) > THUMB_SIDE:
        images01 = F.interpolate(images01, scale_factor=THUMB_SIDE / side, mode="area")
    return (255 * images01).round().to(torch.uint8)


def prepare(against: Comparison) -> None:
    """Read what several processes read together."""
    for metric in metrics_of(against):
        metric.prepare(against)


def measure(
    seen: Mapping[str, Tensor], against: Comparison, generation: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """`evaluate` of samples that were looked at; see there."""
    prepare(against)
    figures: dict[str, Any] = {}
    for metric in metrics_of(against):
        figures |= metric.measure(seen, against)
    if own := against.reference.settings.metrics:
        labelled = [figure for name in own for figure in find(name).figures]
        figures["own_figures"] = {figure.key: asdict(figure) for figure in labelled}
    protocol = protocol_of(against, max(map(len, seen.values())))
    extra = dict(generation or {})
    seeds = protocol["seeds"] | dict(extra.pop("seeds", {}))
    return figures | {"protocol": protocol | extra | {"seeds": seeds}}


def protocol_of(against: Comparison, n_fake: int) -> dict[str, Any]:
    """The measurement's half of the protocol, of so many samples."""
    protocol = against.reference.protocol(n_fake)
    for metric in metrics_of(against):
        protocol |= metric.protocol(against)
    own = against.reference.settings.metrics
    return protocol | ({"metrics": own_codes(own)} if own else {})


def looks(against: Comparison) -> dict[str, Any]:
    """What decides how samples are looked at, and for what labels and captions."""
    reference = against.reference
    protocol = protocol_of(against, 0)
    apart = reference.protocol(0).keys()
    has_images = reference.dataset.is_image
    return reference.claims() | {
        "seed": reference.settings.seed,
        "device": reference.device_type,
        "memorization": reference.memorization_extractor.checksum if has_images else None,
        "dirty": against.dirty is not None,
        **{key: value for key, value in protocol.items() if key not in apart},
    }


def check_samples(samples: Tensor, data: Dataset, first: int = 0) -> None:
    """Refuse samples that cannot be measured, by a UserError."""
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
    needed, why = 2, ""
    if data.is_image:
        needed = settings.k + 1
        why = f" (evaluation.k = {settings.k} neighbours and the sample itself)"
    for what, n in (("samples", n_samples), (f"reference samples in {data.name}", len(data))):
        if n < needed:
            raise UserError(f"{n} {what} are too few: needs at least {needed}{why}")

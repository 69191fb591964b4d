r"""Does a model copy its training images? Distances to the nearest of them, and what they mean.

In a dense set every new image lies near some old one. Held-out images, which the model never saw,
say how near new images come by themselves:

| figure | a sample counts if | source |
|---|---|---|
| `near_duplicates` | d1 <= the 1 % quantile of held-out images' d1 | ours |
| `within_5_percent` | d1 <= their 5 % quantile | ours |
| `within_a_third` | d1 < d2 / 3 | Yoon et al., 2023 |
| `authentic` (AuthPct) | d1 > r | Alaa et al., 2022, section 3 |

d1, d2: distance of a sample to its nearest and second nearest training image; r: distance of that
nearest one to its own nearest other training image. Of a model that copies nothing 1 % are near
duplicates, more where its samples keep to the middle of the data; beside every share stands that of
the held-out images. Training images that occur twice have d1 = d2 and r = 0: only the quantiles
find copies of those.
"""

import logging
from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ..resampling import mean_of, with_interval
from ..store.originals import Neighbours, Originals, small_pixels
from .base import Batch, Comparison, Figure, Metric, given

log = logging.getLogger(__name__)

N_PAIRS = 24  # most copied images that are shown
N_BINS = 40  # of the distribution
QUANTILES = {"near_duplicates": 0.01, "within_5_percent": 0.05}
FLAGGED_FROM = 0.1  # share of near duplicates, at the lower end of its interval
SUSPECTED_FROM = 2.0  # the same over the share that is expected: held-out images', 1 % at least


def _figure(key: str, label: str, hint: str, at: str, other: str = "_of_calibration") -> Figure:
    places = at.format(""), at.format(other)
    return Figure(key, label, hint, beside="images that calibrate it", at=places)


class Memorization(Metric):
    """Copies of clean training images, and of dirty ones with their noise, which pixels show."""

    needs, place = ("training",), 80
    figures = (
        _figure(
            "nearest_training_distance", "Distance to nearest training image",
            "median; near 0 means copies", "nearest_training_distance.{}median", "calibration_",
        ),
        _figure(
            "near_duplicates", "Near duplicates of training images",
            "share; as near as the nearest 1 % of held-out ones", "memorization.near_duplicates{}",
        ),
        _figure(
            "authentic", "Authentic samples", "AuthPct; few where training images are copied",
            "memorization.authentic{}",
        ),
    )  # fmt: skip

    def prepare(self, against: Comparison) -> None:
        for one in against.originals().values():
            one.prepare()

    def look(self, batch: Batch) -> dict[str, Tensor]:
        reference, found = batch.against.reference, {"features": batch.features}
        if reference.memorization_extractor is not reference.extractor:
            found["memorization_features"] = reference.memorization_extractor(batch.images)
        if batch.against.dirty is not None:
            found["pixels"] = small_pixels()(batch.images)
        return found

    def measure(self, seen: Mapping[str, Tensor], against: Comparison) -> dict[str, Any]:
        sets, settings = against.originals(), against.reference.settings
        if not sets:
            n_training = len(given(against.training))
            log.info("%d training images are too few to look for copies of them", n_training)
            return {}
        how = settings.n_resamples, settings.seed
        pairs = {name: (one.neighbours(seen[name]), one) for name, one in sets.items()}
        main = pairs.get("memorization_features", pairs["features"])
        figures = {
            "nearest_training_distance": distance_figures(*pairs["features"], *how),
            "memorization": memorization(*main, *how),
        }
        if "pixels" in pairs:
            figures["memorization_of_dirty"] = memorization(*pairs["pixels"], *how)
        return figures


def memorization(
    found: Neighbours, originals: Originals, n_resamples: int = 10, seed: int = 0
) -> dict[str, Any]:
    """Shares of samples that are near duplicates of training images, beside held-out images'.

    Quantiles for which there are too few calibrating images (less than one lies below) are left
    out. So is `authentic` where the training images are dirty: a clean sample is nearer to a dirty
    image than another dirty one is. `found` is `originals.neighbours` of the samples' features.

    Returns:
        `near_duplicates` and the other shares of the table above, each with its `..._interval` and
        `..._of_calibration`; `thresholds` of the distance by share; the `histogram` of both
        distributions; the `pairs` most alike; `is_flagged`, see `FLAGGED_FROM`, and `is_suspected`,
        see `SUSPECTED_FROM`; the `verdict`.
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
        figures.update(with_interval(name, mean_of, of_samples.double(), n_resamples, seed))
        figures[f"{name}_interval"] = [min(max(x, 0.0), 1.0) for x in figures[f"{name}_interval"]]
        figures[f"{name}_of_calibration"] = mean_of(of_calibration.double())

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
    low, expected = figures[f"{main}_interval"][0], max(figures[f"{main}_of_calibration"], 0.01)
    figures["is_flagged"] = low > FLAGGED_FROM
    figures["is_suspected"] = low > SUSPECTED_FROM * expected
    return figures | {
        "thresholds": thresholds,
        "verdict": _verdict(figures, main, originals),
        "histogram": histogram(found.nearest, known.nearest),
        "pairs": most_copied(found, originals, thresholds.get(main)),
    }


def _verdict(figures: dict[str, Any], main: str, originals: Originals) -> str:
    low, high = (100 * end for end in figures[f"{main}_interval"])
    whose = "training images" if originals.clean is None else "dirty training images"
    what = f"no sign of copied {whose}"
    if figures["is_flagged"] or figures["is_suspected"]:
        what = f"{'copies' if figures['is_flagged'] else 'may copy some of'} its {whose}"
    if main == "within_a_third":
        nearer = f"three times nearer to one of {figures['n_train']:,} than to any other"
    else:
        than = "held-out images are" if originals.held_out else "training images to another one"
        share = f"{100 * QUANTILES[main]:g} %"
        nearer = f"as near to one of {figures['n_train']:,} as the nearest {share} of {than}"
    rest = ""
    if not originals.held_out:
        rest = " (there are no held-out images, which would calibrate better)"
    elif originals.n_repeated:
        rest = f" ({originals.n_repeated} held-out images are training images too: left out)"
    share = f"{100 * figures[main]:.1f} % of the samples ({low:.1f} to {high:.1f} %)"
    return f"{what}: {share} are {nearer}{rest}"


def distance_figures(
    found: Neighbours, originals: Originals, n_resamples: int = 10, seed: int = 0
) -> dict[str, Any]:
    """Distance of samples to their nearest training image, in feature space: mean and median."""
    nearest, calibration = found.nearest, originals.calibration.nearest
    return with_interval("mean", mean_of, nearest, n_resamples, seed) | {
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

    return {"edges": edges.tolist(), "samples": shares(samples), "calibration": shares(calibration)}


def most_copied(
    found: Neighbours, originals: Originals, threshold: float | None, n_pairs: int = N_PAIRS
) -> list[dict[str, Any]]:
    """The training images with the nearest samples, each with the nearest of these, by distance.
    For each pair: number of the `sample`, index and file of the `training` image, d1, d2, and how
    many samples are near duplicates of it, which lie below the threshold if there is one."""
    nearest: dict[int, int] = {}
    for sample in found.nearest.argsort().tolist():
        nearest.setdefault(int(found.index[sample]), sample)
    pairs = []
    for row, sample in islice(nearest.items(), n_pairs):
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
    return pairs

r"""Frechet distance: do mean and covariance of the features agree? With Inception's it is FID.

d = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1^(1/2) S2 S1^(1/2))^(1/2)
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...diffusion.randomness import generator
from ..feature_sets import Gaussian, check_alike, checked, roots
from ..resampling import with_interval
from ..store.reference import Settings
from .base import Batch, Comparison, Figure, Metric, given

log = logging.getLogger(__name__)


class FrechetDistance(Metric):
    """Beside what a resample of the reference and half of it reach; of few images extrapolated."""

    place = 10
    figures = (
        Figure(
            "frechet_distance", "Fréchet distance", "lower is better", better="lower",
            drawn=1, decides=True,
        ),
        Figure(
            "frechet_distance_infinity", "Fréchet distance, extrapolated",
            "to infinitely many samples", better="lower",
        ),
    )  # fmt: skip

    def measure(self, seen: Mapping[str, Tensor], against: Comparison) -> dict[str, Any]:
        reference, fake = against.reference, seen["features"]
        real, settings = reference.features, reference.settings
        n, n_dims, n_enough = min(len(real), len(fake)), real.shape[1], reference.extractor.n_enough
        if n <= n_dims:
            log.warning(
                "%d images for %d features: the covariance is singular and the Frechet distance "
                "means little; use more samples or an extractor with fewer features", n, n_dims,
            )  # fmt: skip
        if n < n_enough:
            log.warning(
                "%d images are few for FID, which needs %d: it is too high, and comparable only at "
                "the same number of images; frechet_distance_infinity is extrapolated (and too low "
                "below %d images)", n, n_enough, 4 * n_dims,
            )  # fmt: skip
        seed = settings.seed
        halves = frechet_distance_of_halves(real, settings.n_resamples, seed)
        figures = frechet_figures("frechet_distance", real, fake, settings)
        figures["frechet_distance_of_halves"] = halves
        if n < n_enough:
            figures["frechet_distance_infinity"] = frechet_distance_infinity(real, fake, seed=seed)
        return figures


class ProximalDistance(Metric):
    """Of samples made dirty, to the dirty training images; see `store.proximal`."""

    looks_at, needs, place = "images", ("proximal",), 20
    figures = (
        Figure("proximal_distance", "Proximal distance",
               "samples made dirty, to the dirty training images", better="lower"),
    )  # fmt: skip

    def prepare(self, against: Comparison) -> None:
        _ = given(against.proximal).features

    def look(self, batch: Batch) -> dict[str, Tensor]:
        proximal = given(batch.against.proximal)
        return {"proximal_features": proximal.look(batch.images, batch.first)}

    def measure(self, seen: Mapping[str, Tensor], against: Comparison) -> dict[str, Any]:
        proximal = given(against.proximal)
        fake, settings = seen["proximal_features"], proximal.dirty.settings
        return frechet_figures("proximal_distance", proximal.features, fake, settings)

    def protocol(self, against: Comparison) -> dict[str, Any]:
        return given(against.proximal).protocol()


def frechet_figures(key: str, real: Tensor, fake: Tensor, settings: Settings) -> dict[str, Any]:
    """The distance, its interval over halves of the fakes, and its floor, under a name."""
    whole, n, seed = Gaussian.of(real), settings.n_resamples, settings.seed
    floors = frechet_distance_of_resamples(real, len(fake), n, seed)
    figures = with_interval(key, lambda half: frechet_distance(whole, half), fake, n, seed)
    return figures | {f"{key}_of_reference": floors.mean().item()}


def frechet_distance(real: Tensor | Gaussian, fake: Tensor | Gaussian) -> float:
    r"""Squared Frechet (2-Wasserstein) distance between the Gaussians of two sets of features.

    The matrix in the formula's last term is symmetric and positive, so its root follows from its
    eigenvalues, also where a covariance is singular. Finite samples bias d upwards by about
    1/N + 1/M: compare only figures with the same N and M, and beside them the distance of a
    resample of the real set itself (`frechet_distance_of_resamples`).

    Features are (N, D) and (M, D), N, M >= 2, or their `Gaussian` (faster where it is used again).
    d >= 0, in squared units of the features. Raises ValueError for non-finite features, too few of
    them, or unlike D.

    Source: Heusel et al., "GANs trained by a two time-scale update rule", 2017, eq. 6.
    """
    first, second = (one if isinstance(one, Gaussian) else Gaussian.of(one) for one in (real, fake))
    check_alike(len(first.mean), len(second.mean))
    product = first.root @ second.covariance @ first.root
    trace_of_root = roots(torch.linalg.eigvalsh(product)).sum()
    distance = (first.mean - second.mean).square().sum()
    distance += first.covariance.trace() + second.covariance.trace() - 2 * trace_of_root
    return max(distance.item(), 0.0)


def frechet_distance_of_resamples(
    real: Tensor, n_fake: int, n_resamples: int = 10, seed: int = 0
) -> Tensor:
    """Frechet distances between the real set and resamples of itself, (n_resamples,): the floor of
    a generator that repeats the reference perfectly with `n_fake` samples. Source: ours."""
    real = checked(real, at_least=2)
    whole, random = Gaussian.of(real), generator("cpu", seed, "resamples of the reference")
    rows = (torch.randint(len(real), (n_fake,), generator=random) for _ in range(n_resamples))
    distances = [frechet_distance(whole, real[chosen]) for chosen in rows]
    return torch.tensor(distances, dtype=torch.float64)


def frechet_distance_of_halves(real: Tensor, n_splits: int = 10, seed: int = 0) -> float:
    """Mean Frechet distance between two random halves of the real set, as of unseen real images."""
    real = checked(real, at_least=4)
    random, half, total = generator("cpu", seed, "halves"), len(real) // 2, 0.0
    for _ in range(n_splits):
        first, second, *_ = torch.randperm(len(real), generator=random).split(half)
        total += frechet_distance(real[first], real[second])
    return total / n_splits


def frechet_distance_infinity(
    real: Tensor | Gaussian, fake: Tensor, n_points: int = 10, seed: int = 0
) -> float:
    r"""Frechet distance extrapolated to infinitely many fakes ("FID-infinity").

    d(n) = d_inf + b / n,   least squares over random subsets of n = M/2 ... M fakes

    Use it beside a distance of few samples: d(M) grows as M falls, d_inf much less. It scatters
    more than d(M), may be negative, is too low where M < 4 D (for D = 64 Gaussian features by 7 %
    at M = 4 D, by 27 % at M = 2 D), and keeps the bias of the real set's own number. `real` (N, D),
    or its `Gaussian`, is used whole at each of the n_points sizes of `fake` (M, D), M >= 8.

    Source: Chong and Forsyth, "Effectively unbiased FID and Inception Score and where to find
    them", 2020, section 4. Differs from it in: sizes from M/2 and not 5,000; no Sobol sequences.
    """
    fake, random = checked(fake, at_least=8), generator("cpu", seed, "infinity")
    whole = real if isinstance(real, Gaussian) else Gaussian.of(real)
    sizes = np.linspace(len(fake) // 2, len(fake), n_points).astype(int)
    rows = (torch.randperm(len(fake), generator=random)[:n] for n in sizes)
    distances = [frechet_distance(whole, fake[chosen]) for chosen in rows]
    _, d_inf = np.polyfit(1 / sizes, distances, 1)
    return float(d_inf)

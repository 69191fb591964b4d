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
from ..feature_sets import Gaussian, checked, roots
from ..resampling import with_interval
from ..store.reference import Settings
from .base import Comparison, Figure, Metric

log = logging.getLogger(__name__)


class FrechetDistance(Metric):
    """Beside it what a resample of the reference reaches, and what half of it does; of few images
    also the extrapolated distance."""

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
        halves = frechet_distance_of_halves(real, settings.n_resamples, settings.seed)
        figures = frechet_figures("frechet_distance", real, fake, settings)
        figures["frechet_distance_of_halves"] = halves
        if n < n_enough:
            distance = frechet_distance_infinity(Gaussian.of(real), fake, seed=settings.seed)
            figures["frechet_distance_infinity"] = distance
        return figures


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

    Args:
        real: Features (N, D), N >= 2, or their `Gaussian` (faster where it is used again).
        fake: Features (M, D), M >= 2, or their `Gaussian`.

    Returns:
        The distance, >= 0, in squared units of the features.

    Raises:
        ValueError: for non-finite features, too few of them, or unlike D.

    Source: Heusel et al., "GANs trained by a two time-scale update rule", 2017, eq. 6.
    """
    first = real if isinstance(real, Gaussian) else Gaussian.of(real)
    second = fake if isinstance(fake, Gaussian) else Gaussian.of(fake)
    if first.mean.shape != second.mean.shape:
        raise ValueError(
            f"real and fake features differ in size: {len(first.mean)} and {len(second.mean)}"
        )
    product = first.root @ second.covariance @ first.root
    trace_of_root = roots(torch.linalg.eigvalsh(product)).sum()
    distance = (first.mean - second.mean).square().sum()
    distance += first.covariance.trace() + second.covariance.trace() - 2 * trace_of_root
    return max(distance.item(), 0.0)


def frechet_distance_of_resamples(
    real: Tensor, n_fake: int, n_resamples: int = 10, seed: int = 0
) -> Tensor:
    """Frechet distances between the real set and resamples of itself, (n_resamples,).

    Each resample draws `n_fake` features with replacement from `real`. This is what a generator
    that repeats the reference perfectly would reach with as many samples: the floor at this N, M.

    Source: ours.
    """
    real = checked(real, at_least=2)
    whole, random = Gaussian.of(real), generator("cpu", seed, "resamples of the reference")
    distances = []
    for _ in range(n_resamples):
        rows = torch.randint(len(real), (n_fake,), generator=random).to(real.device)
        distances.append(frechet_distance(whole, real[rows]))
    return torch.tensor(distances, dtype=torch.float64)


def frechet_distance_of_halves(real: Tensor, n_splits: int = 10, seed: int = 0) -> float:
    """Mean Frechet distance between two random halves of the real set: what unseen real images of
    half the number would score. Source: ours."""
    real = checked(real, at_least=4)
    random, half = generator("cpu", seed, "halves"), len(real) // 2
    distances = []
    for _ in range(n_splits):
        order = torch.randperm(len(real), generator=random).to(real.device)
        distances.append(frechet_distance(real[order[:half]], real[order[half : 2 * half]]))
    return sum(distances) / n_splits


def frechet_distance_infinity(
    real: Tensor | Gaussian, fake: Tensor, n_points: int = 10, seed: int = 0
) -> float:
    r"""Frechet distance extrapolated to infinitely many fakes ("FID-infinity").

    d(n) = d_inf + b / n,   least squares over random subsets of n = M/2 ... M fakes

    Use it beside a distance of few samples: d(M) grows as M falls, d_inf much less. It scatters
    more than d(M), may be negative, is too low where M < 4 D (for D = 64 Gaussian features by 7 %
    at M = 4 D, by 27 % at M = 2 D), and keeps the bias of the real set's own number.

    Args:
        real: Features (N, D), or their `Gaussian`; all are used at each n.
        fake: Features (M, D), M >= 8.
        n_points: Sizes of subset, evenly spaced.
        seed: Of the subsets.

    Source: Chong and Forsyth, "Effectively unbiased FID and Inception Score and where to find
    them", 2020, section 4. Differs from it in: sizes start at M/2 and not at 5,000, so that it fits
    few samples; independent noise, not Sobol sequences.
    """
    fake, random = checked(fake, at_least=8), generator("cpu", seed, "infinity")
    whole = real if isinstance(real, Gaussian) else Gaussian.of(real)
    sizes = np.linspace(len(fake) // 2, len(fake), n_points).astype(int)
    distances = []
    for n in sizes:
        rows = torch.randperm(len(fake), generator=random)[:n].to(fake.device)
        distances.append(frechet_distance(whole, fake[rows]))
    _, d_inf = np.polyfit(1 / sizes, distances, 1)
    return float(d_inf)

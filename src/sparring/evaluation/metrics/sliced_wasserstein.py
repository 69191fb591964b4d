r"""Sliced Wasserstein distance: do all one-dimensional shadows of the samples agree?

d = mean_theta integral_0^1 |F^-1_real(u) - F^-1_fake(u)| du,   theta uniform on the unit sphere
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.analytic import Truth
from ...diffusion.randomness import generator
from ..feature_sets import checked_pair, rows_at_once
from ..resampling import with_interval
from .base import Comparison, Figure, Metric, given

N_PROJECTIONS = 500


class SlicedWasserstein(Metric):
    """To as many fresh clean samples of the known truth; the floor is that of two clean sets, what
    a perfect generator has with this number of samples."""

    looks_at, place = "x0", 130
    figures = (
        Figure(
            "sliced_wasserstein", "Sliced Wasserstein distance", "lower is better", better="lower",
            drawn=3, decides=True,
        ),
    )  # fmt: skip

    def measure(self, seen: Mapping[str, Tensor], against: Comparison) -> dict[str, Any]:
        settings, truth = against.reference.settings, given(against.reference.dataset.truth)
        samples, seed = seen["x0"].flatten(1), settings.seed
        fresh, another = fresh_sets(truth, len(samples), seed)
        figures = with_interval(
            "sliced_wasserstein",
            lambda half: sliced_wasserstein(fresh, half, N_PROJECTIONS, seed),
            samples, settings.n_resamples, seed,
        )  # fmt: skip
        floor = sliced_wasserstein(fresh, another, N_PROJECTIONS, seed)
        return figures | {"sliced_wasserstein_of_reference": floor}

    def protocol(self, against: Comparison) -> dict[str, Any]:
        return {"n_projections": N_PROJECTIONS}


def fresh_sets(truth: Truth, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two sets of n clean samples (n, D); those of different seeds never share a stream."""
    first, second = (truth.sample(n, 2 * seed + i).flatten(1) for i in (0, 1))
    return first, second


def sliced_wasserstein(
    real: Tensor, fake: Tensor, n_projections: int = N_PROJECTIONS, seed: int = 0
) -> float:
    r"""Mean over random directions of the one-dimensional Wasserstein-1 distance.

    The integral is a mean over max(N, M) levels u; the smaller set's quantile function is
    interpolated linearly between its sorted values. For N = M this is the exact W1 of the two sets.
    Samples (N, D) and (M, D) and the distance are in data units; finite samples leave a floor of
    about the spread / sqrt(N).

    Source: Bonneel et al., "Sliced and Radon Wasserstein barycenters", 2015, with p = 1.
    """
    real, fake = checked_pair(real, fake, at_least=1)
    theta = directions(real.shape[1], n_projections, seed).to(real.device)
    total = 0.0
    for part in theta.split(rows_at_once(max(len(real), len(fake)))):
        shadows = (
            torch.cat([rows.double() @ part.T for rows in one.split(rows_at_once(one.shape[1]))])
            for one in (real, fake)
        )
        total += len(part) * wasserstein_of_shadows(*shadows)
    return total / n_projections


def directions(dim: int, n_projections: int, seed: int = 0) -> Tensor:
    """Unit vectors (n_projections, dim), uniform on the sphere, float64."""
    random = generator("cpu", seed, "directions")
    theta = torch.randn(n_projections, dim, generator=random, dtype=torch.float64)
    return torch.nn.functional.normalize(theta, dim=1)


def wasserstein_of_shadows(real: Tensor, fake: Tensor) -> float:
    """Mean over columns of the Wasserstein-1 distance between the columns of (N, P) and (M, P).
    With shadows `x @ directions(...).T` this is `sliced_wasserstein`."""
    real, fake = checked_pair(real, fake, at_least=1)
    n_levels = max(len(real), len(fake))
    of_real, of_fake = (_quantiles(one.T, n_levels) for one in (real, fake))
    return (of_real - of_fake).abs().mean().item()


def _quantiles(rows: Tensor, n_levels: int) -> Tensor:
    """Values at levels (j + 1/2) / n_levels of rows (P, N), whose own levels, once sorted, are
    (i + 1/2) / N; linear in between, constant beyond the ends."""
    if rows.device.type == "cpu":  # numpy's sort takes a third of torch's time
        ordered = torch.from_numpy(np.sort(rows.contiguous().numpy(), axis=1))
    else:
        ordered = rows.sort(1).values
    n = ordered.shape[1]
    if n == n_levels:
        return ordered
    levels = (torch.arange(n_levels, dtype=torch.float64, device=ordered.device) + 0.5) / n_levels
    place = (levels * n - 0.5).clamp(0, n - 1)
    below = place.long()
    above = (below + 1).clamp(max=n - 1)
    return torch.lerp(ordered[:, below], ordered[:, above], place - below)

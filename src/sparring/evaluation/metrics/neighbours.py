"""Precision, recall, density, coverage: do samples lie among real images, and these among samples?

A ball reaches from a point to its k-th neighbour in its own set.

| figure | of | source |
|---|---|---|
| `precision` | fakes: the share inside at least one real ball | Kynkaanniemi et al., 2019, eq. 1 |
| `recall` | reals: the share inside at least one fake ball | the same with the roles exchanged |
| `density` | fakes: the number of real balls around each, over k | Naeem et al., 2020, eq. 3 |
| `coverage` | reals: the share of their balls that hold a fake | Naeem et al., 2020, eq. 4 |

Sources: "Improved precision and recall metric"; "Reliable fidelity and diversity metrics".
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...diffusion.randomness import generator
from ..feature_sets import (
    block_pairs,
    checked_pair,
    nearest_squares,
    squared_distances,
    squared_lengths,
    strips,
)
from ..resampling import interval
from .base import Comparison, Figure, Metric

MAX_FOR_NEIGHBOURS = 10_000


class Neighbours(Metric):
    """Their cost grows with N * M, so at most 10,000 of each take part, as in Naeem et al."""

    place = 70
    figures = (
        Figure("precision", "Precision", "share of samples that look real", better="higher"),
        Figure("recall", "Recall", "share of real images within reach", better="higher"),
        Figure("density", "Density", "about 1 where samples lie as real ones do", better="higher"),
        Figure("coverage", "Coverage", "share of real images with a sample near", better="higher"),
    )

    def measure(self, seen: Mapping[str, Tensor], against: Comparison) -> dict[str, Any]:
        settings = against.reference.settings
        random = generator("cpu", settings.seed, "neighbours")
        real, fake = (
            one[torch.randperm(len(one), generator=random)[:MAX_FOR_NEIGHBOURS]]
            for one in (against.reference.features, seen["features"])
        )
        radii = squared_radii(real, settings.k)
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

    def protocol(self, against: Comparison) -> dict[str, Any]:
        return {"k": against.reference.settings.k}


def squared_radii(points: Tensor, k: int) -> Tensor:
    """Squared distance of each point (N, D) to its k-th nearest other point, (N,); N > k >= 1."""
    own = torch.arange(len(points), device=points.device)
    return nearest_squares(points, points, k, own)[0][:, -1]


def precision_recall_density_coverage(
    real: Tensor, fake: Tensor, k: int = 5, real_radii: Tensor | None = None
) -> dict[str, float]:
    """The four figures from one look at all distances of features (N, D) and (M, D), N, M > k.
    `real_radii` are `squared_radii(real, k)` where they are known already."""
    real, fake = checked_pair(real, fake, at_least=1)
    real_radii = squared_radii(real, k) if real_radii is None else real_radii
    fake_radii = squared_radii(fake, k)
    of_reals, of_fakes = squared_lengths(real), squared_lengths(fake)
    real_is_met, real_is_covered = (
        torch.zeros(len(real), dtype=torch.bool, device=real.device) for _ in range(2)
    )
    n_real_balls = torch.zeros(len(fake), dtype=torch.long, device=fake.device)
    for i, j in block_pairs(len(real), len(fake)):
        block = squared_distances(real[i].double(), fake[j].double(), of_reals[i], of_fakes[j])
        for rows, squares in strips(block):
            in_real_ball = squares <= real_radii[i][rows, None]
            real_is_covered[i][rows] |= in_real_ball.any(1)
            real_is_met[i][rows] |= (squares <= fake_radii[j]).any(1)
            n_real_balls[j] += in_real_ball.sum(0)
    return {
        "precision": _share(n_real_balls > 0),
        "recall": _share(real_is_met),
        "density": n_real_balls.double().mean().item() / k,
        "coverage": _share(real_is_covered),
    }


def _share(true: Tensor) -> float:
    return true.double().mean().item()

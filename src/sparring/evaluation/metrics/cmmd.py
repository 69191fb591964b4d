r"""CMMD: how unlike two sets of images are to CLIP.

    d = 1000 (mean_ij k(x_i, x_j) + mean_ij k(y_i, y_j) - 2 mean_ij k(x_i, y_j))
    k(x, y) = exp(-|x - y|^2 / (2 * 10^2)),   x and y unit vectors of CLIP

This is a quadratic form, d = 1000 w' K w over both sets at once, with w = 1/N on the real points
and -1/M on the fakes, so one pass over the kernel gives the figure, its halves and its floor.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...diffusion.randomness import generator
from ..feature_sets import rows_at_once
from ..resampling import interval
from .base import Batch, Comparison, Figure, Metric, given

BANDWIDTH = 10.0
SCALE = 1000.0


class CMMD(Metric):
    """Of images, with evaluation.clip; needs no captions."""

    looks_at, needs, place = "images", ("panel",), 50
    figures = (Figure("cmmd", "CMMD", "distance as CLIP sees it", better="lower"),)

    def suits(self, against: Comparison) -> bool:
        return against.panel is not None and "clip" in against.panel.judges.named

    def look(self, batch: Batch) -> dict[str, Tensor]:
        return {"embeddings": batch.readings["embeddings"]}

    def measure(self, seen: Mapping[str, Tensor], against: Comparison) -> dict[str, Any]:
        real, settings = given(against.panel).reference["embeddings"], against.reference.settings
        return cmmd_figures(real, seen["embeddings"], settings.n_resamples, settings.seed)

    def protocol(self, against: Comparison) -> dict[str, Any]:
        return {"clip": given(against.panel).described("clip")}


def cmmd(real: Tensor, fake: Tensor) -> float:
    r"""1,000 times the squared maximum mean discrepancy of unit vectors, real (N, D), fake (M, D).

    Both sums take i = j in, as in the reference code, so d >= 0, and sets of one distribution have
    about 1000 (1 - mean k) (1/N + 1/M): compare only figures with the same N and M.

    Source: Jayasumana et al., "Rethinking FID", 2024, section 4; the estimator is that of their
    code (Gretton et al. 2012, eq. 5), the paper writes the unbiased one, without i = j.
    """
    weights = _weights(len(real), torch.ones(1, len(fake)))
    return SCALE * _quadratic(torch.cat([real, fake]), weights)[0].item()


def cmmd_figures(
    real: Tensor, fake: Tensor, n_resamples: int = 10, seed: int = 0
) -> dict[str, Any]:
    r"""`cmmd`, its interval over random halves of the fakes, and its floor.

    floor = 1000 (1 - mean_ij k(x_i, x_j)) / M,

    the expectation over resamples of M real points, drawn with replacement. Source: ours.
    """
    n, m = len(real), len(fake)
    random = generator("cpu", seed, "cmmd")
    halves = torch.zeros(n_resamples, m)
    for row in halves:
        row[torch.randperm(m, generator=random)[: max(m // 2, 1)]] = 1
    weights = _weights(n, torch.cat([torch.ones(1, m), halves, torch.zeros(1, m)]))
    figures = SCALE * _quadratic(torch.cat([real, fake]), weights)
    figure, *of_halves, of_real = figures.tolist()
    return {
        "cmmd": figure,
        "cmmd_interval": interval(figure, torch.tensor(of_halves)),
        "cmmd_of_reference": (SCALE - of_real) / m,
    }


def _weights(n: int, chosen: Tensor) -> Tensor:
    """Rows w of n times 1/n, and -1/sum on the fakes that are chosen (R, M) with 1, (R, n + M)."""
    share = chosen.double() / chosen.double().sum(1, keepdim=True).clamp(min=1)
    return torch.cat([torch.full((len(chosen), n), 1 / n, dtype=torch.float64), -share], dim=1)


def _quadratic(points: Tensor, weights: Tensor) -> Tensor:
    """w' K w for each row of weights (R, N), with the kernel K of points (N, D)."""
    points = points.double()
    total = torch.zeros(len(weights), dtype=torch.float64)
    for rows in torch.arange(len(points)).split(rows_at_once(len(points))):
        kernel = torch.cdist(points[rows], points).square_().div_(-2 * BANDWIDTH**2).exp_()
        total += ((weights[:, rows] @ kernel) * weights).sum(1)
    return total

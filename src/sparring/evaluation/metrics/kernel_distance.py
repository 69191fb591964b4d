r"""Kernel distance: do all moments of the features up to the third agree? Times 1,000 it is KID.

    d = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)

This is the unbiased squared maximum mean discrepancy: its expectation is 0 for equal distributions
whatever N and M, so single values may be negative.

Source: Gretton et al., "A kernel two-sample test", 2012, eq. 3.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...diffusion.randomness import generator
from ..feature_sets import (
    checked,
    checked_pair,
    rows_at_once,
    squared_distances,
    squared_lengths,
    strips,
    sum_over_pairs,
)
from ..resampling import interval
from .base import Comparison, Figure, Metric

MAX_FOR_MEDIAN = 4096  # points all of whose distances fit


class KernelDistance(Metric):
    """The mean over 50 subsets of at most 1,000."""

    place = 40
    figures = (Figure("kernel_distance", "Kernel distance", "lower is better", better="lower"),)

    def measure(self, seen: Mapping[str, Tensor], against: Comparison) -> dict[str, Any]:
        real, fake = against.reference.features, seen["features"]
        subsets = kernel_distance_of_subsets(real, fake, seed=against.reference.settings.seed)
        size, n = subset_size_for(len(real), len(fake)), min(len(real), len(fake))
        mean = subsets.mean().item()
        return {
            "kernel_distance": mean,
            "kernel_distance_interval": interval(mean, subsets, size, n),
        }


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    r"""Unbiased squared maximum mean discrepancy with k(x, y) = (x . y / D + 1)^3.

    Features (N, D) and (M, D), N, M >= 2.

    Source: Binkowski et al., "Demystifying MMD GANs", 2018, eq. 4 and section 4.
    """

    def total(x: Tensor, y: Tensor | None) -> float:
        one = torch.ones((), dtype=torch.float64, device=x.device)
        other = x if y is None else y

        def of_block(i: slice, j: slice) -> Tensor:
            block = torch.addmm(one, x[i].double(), other[j].double().T, alpha=1 / x.shape[1])
            return torch.stack([part.pow_(3).sum() for _, part in strips(block)]).sum()

        return sum_over_pairs(x, y, of_block)

    def diagonal(x: Tensor) -> float:
        chunks = (chunk.double() for chunk in x.split(rows_at_once(x.shape[1])))
        return sum((x_i.square().mean(1) + 1).pow(3).sum().item() for x_i in chunks)

    return _unbiased(*checked_pair(real, fake, at_least=2), total, diagonal)


def _unbiased(
    real: Tensor,
    fake: Tensor,
    total: Callable[[Tensor, Tensor | None], float],
    diagonal: Callable[[Tensor], float],
) -> float:
    """The formula above, from sums of the kernel over all pairs of two sets (None: of a set with
    itself), and of i with i."""
    n, m = len(real), len(fake)
    within_real = (total(real, None) - diagonal(real)) / (n * (n - 1))
    within_fake = (total(fake, None) - diagonal(fake)) / (m * (m - 1))
    return within_real + within_fake - 2 * total(real, fake) / (n * m)


def kernel_distance_of_subsets(
    real: Tensor, fake: Tensor, n_subsets: int = 50, subset_size: int = 1000, seed: int = 0
) -> Tensor:
    """Kernel distances of random subsets (without replacement) of both sets, (n_subsets,).

    Their mean is the usual figure and is unbiased as well, at a cost that does not grow with N * M.
    Smaller sets lower `subset_size` to half their own (`subset_size_for`), so that the subsets
    differ and their spread gives an `interval`. Source: Binkowski et al., 2018, section 4.
    """
    real, fake = checked_pair(real, fake, at_least=2)
    size = subset_size_for(len(real), len(fake), subset_size)
    random = generator("cpu", seed, "kernel distance")
    distances = []
    for _ in range(n_subsets):
        sets = (one[torch.randperm(len(one), generator=random)[:size]] for one in (real, fake))
        distances.append(kernel_distance(*sets))
    return torch.tensor(distances, dtype=torch.float64)


def subset_size_for(n_real: int, n_fake: int, subset_size: int = 1000) -> int:
    """The size of `kernel_distance_of_subsets`: at most half of the smaller set, at least 2."""
    return max(min(subset_size, min(n_real, n_fake) // 2), 2)


def gaussian_mmd(real: Tensor, fake: Tensor, bandwidth: float | None = None) -> float:
    r"""Unbiased squared maximum mean discrepancy with a sum of three Gaussian kernels.

    k(x, y) = sum over h in (b/2, b, 2b) of exp(-|x - y|^2 / (2 h^2))

    It is positive in expectation for all unequal distributions; between 0 and 6. Samples (N, D) and
    (M, D), N, M >= 2; the bandwidth b is in their units, None: the median distance between two real
    ones. Raises ValueError where it is not positive: half of the real samples are one point.

    Source: Gretton et al., 2012, section 8. Differs from it in: the median is that of the real
    samples, not of both, so that one kernel measures all fakes.
    """
    real, fake = checked_pair(real, fake, at_least=2)
    b = median_distance(real) if bandwidth is None else bandwidth
    if not b > 0:
        raise ValueError(f"the kernel's bandwidth must be > 0, got {b}: are the samples all alike?")

    def total(x: Tensor, y: Tensor | None) -> float:
        other = x if y is None else y
        of_x, of_other = squared_lengths(x), squared_lengths(other)

        def of_block(i: slice, j: slice) -> Tensor:
            block = squared_distances(x[i].double(), other[j].double(), of_x[i], of_other[j])
            sums = []
            for _, part in strips(block):
                kernel = part.clamp_(min=0).mul_(-1 / (8 * b**2)).exp_().flatten()  # h = 2b
                sums.append(kernel.sum())
                for _ in range(2):  # h half as wide: the 4th power, whose sum is that of squares'
                    square = kernel.square_()
                    sums.append(square.dot(square))
                    kernel = square.square_()
            return torch.stack(sums).sum()

        return sum_over_pairs(x, y, of_block)

    return _unbiased(real, fake, total, lambda x: 3 * len(x))


def median_distance(points: Tensor) -> float:
    """The median Euclidean distance between two different points of (N, D).
    Of more than `MAX_FOR_MEDIAN` points, at most so many evenly spaced ones are asked."""
    points = checked(points, at_least=2)
    some = points[:: -(-len(points) // MAX_FOR_MEDIAN)].double()
    lengths, pairs = squared_lengths(some), torch.triu_indices(len(some), len(some), 1)
    squares = squared_distances(some, some, lengths, lengths)[pairs[0], pairs[1]]
    i, j = pairs[:, squares.median(0).indices.cpu()].tolist()
    return (some[i] - some[j]).norm().item()  # else rounding would part two equal points

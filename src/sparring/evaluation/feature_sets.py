"""Sets of features (N, D): checked, read in chunks, their moments and their nearest neighbours.

Sums are float64. Features are read in chunks: what is needed besides them does not grow with N.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**24  # numbers held at once: 128 MiB of float64
BLOCK = 4096  # rows of both sets whose distances are held at once, as many
QUERIES, POINTS = 1024, 8192  # of whose distances some are kept: 64 MiB of float64


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and covariance (D, D) of a set of features, float64."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Self:
        """The Gaussian with the features' mean and unbiased covariance; features (N, D), N >= 2."""
        features = checked(features, at_least=2)
        n, n_dims = features.shape
        mean = torch.zeros(n_dims, dtype=torch.float64, device=features.device)
        covariance = mean.new_zeros(n_dims, n_dims)
        for chunk in features.split(rows_at_once(n_dims)):
            mean += chunk.double().sum(0) / n
        for chunk in features.split(rows_at_once(n_dims)):
            centred = chunk.double() - mean
            covariance.addmm_(centred.T, centred, alpha=1 / (n - 1))
        return cls(mean, covariance)

    @cached_property
    def root(self) -> Tensor:
        """The symmetric square root of the covariance, (D, D)."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return (vectors * roots(values)) @ vectors.T


def roots(eigenvalues: Tensor) -> Tensor:
    """Square roots of a positive matrix's eigenvalues. What is rounding error (of a singular
    matrix) is 0: the root would turn 1e-16 into 1e-8, in hundreds of directions."""
    noise = len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps * eigenvalues.abs().max()
    return torch.where(eigenvalues > noise, eigenvalues, 0).sqrt()


def nearest(
    queries: Tensor, points: Tensor, k: int, own: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Euclidean distances (M, k), rising, float64, and rows (M, k) of each query's nearest points.
    Queries are (M, D), points (N, D); `own` (M,) is the row of each query among the points, which
    is not its neighbour, None: no query is one of the points. N >= k, or k + 1 with `own`."""
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")
    queries, points = checked(queries, 0), checked(points, k + (own is not None))
    found = []
    for start in range(0, len(queries), QUERIES):
        chunk = queries[start : start + QUERIES].double()
        rows = None if own is None else own[start : start + QUERIES]
        distances, places = chunk.new_empty(len(chunk), 0), chunk.new_empty(len(chunk), 0).long()
        for first in range(0, len(points), POINTS):
            block = points[first : first + POINTS].double()
            here = torch.cdist(chunk, block)
            if rows is not None:
                inside = (rows >= first) & (rows < first + len(block))
                here[inside.nonzero().flatten(), rows[inside] - first] = torch.inf
            near = here.topk(min(k, len(block)), largest=False)
            distances = torch.cat([distances, near.values], 1)
            places = torch.cat([places, near.indices + first], 1)
            best = distances.topk(min(k, distances.shape[1]), largest=False)
            distances, places = best.values, places.gather(1, best.indices)
        found.append((distances, places))
    of_all = [torch.cat(parts) for parts in zip(*found, strict=True)]
    return of_all[0], of_all[1]


def checked(features: Tensor, at_least: int) -> Tensor:
    """The features, if they are finite, (N, D), and N is so large; else a ValueError."""
    if features.ndim != 2:
        raise ValueError(f"features must have shape (N, D), got {tuple(features.shape)}")
    if len(features) < at_least:
        raise ValueError(f"needs at least {at_least} samples, got {len(features)}")
    n_bad = sum(int((~chunk.isfinite().all(1)).sum()) for chunk in features.split(BLOCK))
    if n_bad:
        raise ValueError(f"{n_bad} of {len(features)} feature rows are not finite")
    return features


def checked_pair(real: Tensor, fake: Tensor, at_least: int) -> tuple[Tensor, Tensor]:
    """Both `checked`, and of as many features."""
    real, fake = checked(real, at_least), checked(fake, at_least)
    check_alike(real.shape[1], fake.shape[1])
    return real, fake


def check_alike(n_real: int, n_fake: int) -> None:
    if n_real != n_fake:
        raise ValueError(f"real and fake features differ in size: {n_real} and {n_fake}")


def block_pairs(n: int, m: int) -> Iterator[tuple[slice, slice]]:
    """Rows of two sets of n and m whose distances are held at once."""
    for i in range(0, n, BLOCK):
        for j in range(0, m, BLOCK):
            yield slice(i, i + BLOCK), slice(j, j + BLOCK)


def blocks(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """All such pairs of chunks of x (N, D) and y (M, D), in float64."""
    return ((x[i].double(), y[j].double()) for i, j in block_pairs(len(x), len(y)))


def rows_at_once(n_columns: int) -> int:
    """Rows of so many numbers that are held at once."""
    return max(1, CHUNK_ELEMENTS // max(n_columns, 1))

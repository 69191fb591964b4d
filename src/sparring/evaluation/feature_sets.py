"""Sets of features (N, D): checked, read in chunks, their moments and their nearest neighbours.

Sums are float64. Features are read in chunks: what is needed besides them does not grow with N.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**24  # numbers held at once: 128 MiB of float64
BLOCK = 4096  # rows of both sets whose distances are held at once, as many
STRIP_ELEMENTS = 2**20  # of a block, which what is done to each number finds in the cache: 8 MiB


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
    squares, rows = nearest_squares(queries, points, k, own)
    return squares.sqrt(), rows


def nearest_squares(
    queries: Tensor, points: Tensor, k: int, own: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`nearest` with squared distances; the root of all costs as much as a fifth of the products
    that they are made of."""
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")
    queries, points = checked(queries, 0), checked(points, k + (own is not None))
    lengths = squared_lengths(points)
    found = []
    for start in range(0, len(queries), BLOCK):
        chunk = queries[start : start + BLOCK].double()
        rows = None if own is None else own[start : start + BLOCK]
        squares, places = chunk.new_empty(len(chunk), 0), chunk.new_empty(len(chunk), 0).long()
        of_chunk = squared_lengths(chunk)
        for first in range(0, len(points), BLOCK):
            block = points[first : first + BLOCK].double()
            here = squared_distances(chunk, block, of_chunk, lengths[first : first + BLOCK])
            if rows is not None:
                inside = (rows >= first) & (rows < first + len(block))
                here[inside.nonzero().flatten(), rows[inside] - first] = torch.inf
            near = here.topk(min(k, len(block)), largest=False)
            squares = torch.cat([squares, near.values.clamp(min=0)], 1)
            places = torch.cat([places, near.indices + first], 1)
            best = squares.topk(min(k, squares.shape[1]), largest=False)
            squares, places = best.values, places.gather(1, best.indices)
        found.append((squares, places))
    of_all = [torch.cat(parts) for parts in zip(*found, strict=True)]
    return of_all[0], of_all[1]


def squared_lengths(points: Tensor) -> Tensor:
    """|x|^2 of points (N, D), (N,), float64."""
    parts = [
        chunk.double().square().sum(1) for chunk in points.split(rows_at_once(points.shape[1]))
    ]
    return torch.cat(parts)


def squared_distances(x: Tensor, y: Tensor, of_x: Tensor, of_y: Tensor) -> Tensor:
    """|x|^2 + |y|^2 - 2 x . y of points (n, D) and (m, D), float64, of which `squared_lengths` are
    known; (n, m). Rounding can make it negative."""
    return torch.addmm(of_y[None], x, y.T, alpha=-2).add_(of_x[:, None])


def strips(block: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """A block (n, m) in parts of some rows."""
    rows = max(1, STRIP_ELEMENTS // max(block.shape[1], 1))
    for start in range(0, len(block), rows):
        part = slice(start, start + rows)
        yield part, block[part]


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


def sum_over_pairs(
    x: Tensor, y: Tensor | None, of_block: Callable[[slice, slice], Tensor]
) -> float:
    """The sum of a symmetric kernel over all pairs of x (N, D) and y (M, D), or of x with itself.
    `of_block` gives that of some rows with some; of x with itself half of them are enough."""
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for i, j in block_pairs(len(x), len(x if y is None else y)):
        if y is not None or i.start == j.start:
            total += of_block(i, j)
        elif i.start < j.start:
            total += 2 * of_block(i, j)
    return total.item()


def rows_at_once(n_columns: int) -> int:
    """Rows of so many numbers that are held at once."""
    return max(1, CHUNK_ELEMENTS // max(n_columns, 1))

r"""Distances between two sets of samples, as functions on arrays of features.

Every function takes `real` (N, D) and `fake` (M, D), computes in float64 and returns Python numbers
(or a tensor with one number per resample). None of them knows where the features came from: the
extractors are in `features.py`, and figures of different extractors cannot be compared. Features
are read in chunks: what is needed besides them does not grow with N or M.

| function | asks | best value |
|---|---|---|
| `frechet_distance` | do mean and covariance agree? | 0, biased upwards by about 1/N + 1/M |
| `frechet_distance_infinity` | the same with the bias of M taken off | 0, can be negative |
| `inception_score` | is each sample of one class, and all of many? | the reference's own |
| `kernel_distance` | do all moments up to the third agree? | 0, unbiased (so it can be negative) |
| `gaussian_mmd` | do the distributions agree, at three scales? | 0, unbiased |
| `precision`, `density` | does each fake lie where real ones are? | 1 (density may exceed it) |
| `recall`, `coverage` | does each real have fakes around it? | 1 |
| `sliced_wasserstein` | do all one-dimensional shadows agree? | 0 |
| `nearest_distances` | is a sample a copy of a training image? | compare with held-out images |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..diffusion.randomness import generator

_CHUNK_ELEMENTS = 2**24  # numbers held at once: 128 MiB of float64
_BLOCK = 4096  # rows of both sets whose distances are held at once, as many


# --- Frechet distance ------------------------------------------------------------------------


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and covariance (D, D) of a set of features, float64."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Gaussian:
        """The Gaussian with the features' mean and unbiased covariance; features (N, D), N >= 2."""
        features = _checked(features, at_least=2)
        n, n_dims = features.shape
        mean = torch.zeros(n_dims, dtype=torch.float64, device=features.device)
        covariance = mean.new_zeros(n_dims, n_dims)
        for chunk in features.split(_rows_at_once(n_dims)):
            mean += chunk.double().sum(0) / n
        for chunk in features.split(_rows_at_once(n_dims)):
            centred = chunk.double() - mean
            covariance.addmm_(centred.T, centred, alpha=1 / (n - 1))
        return cls(mean, covariance)

    @cached_property
    def root(self) -> Tensor:
        """The symmetric square root of the covariance, (D, D)."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return (vectors * _roots(values)) @ vectors.T


def frechet_distance(real: Tensor | Gaussian, fake: Tensor | Gaussian) -> float:
    r"""Squared Frechet (2-Wasserstein) distance between the Gaussians of two sets of features.

    d = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1^(1/2) S2 S1^(1/2))^(1/2)

    With Inception features this is called FID. The matrix in the last term is symmetric and
    positive, so its root follows from its eigenvalues, also where a covariance is singular. Finite
    samples bias d upwards: compare only figures with the same N and M, and beside them the distance
    of a resample of the real set itself (`frechet_distance_of_resamples`).

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
    trace_of_root = _roots(torch.linalg.eigvalsh(product)).sum()
    distance = (first.mean - second.mean).square().sum()
    distance += first.covariance.trace() + second.covariance.trace() - 2 * trace_of_root
    return max(distance.item(), 0.0)


def _roots(eigenvalues: Tensor) -> Tensor:
    """Square roots of a positive matrix's eigenvalues. What is rounding error (of a singular
    matrix) is 0: the root would turn 1e-16 into 1e-8, in hundreds of directions."""
    noise = len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps * eigenvalues.abs().max()
    return torch.where(eigenvalues > noise, eigenvalues, 0).sqrt()


def frechet_distance_of_resamples(
    real: Tensor, n_fake: int, n_resamples: int = 10, seed: int = 0
) -> Tensor:
    """Frechet distances between the real set and resamples of itself, (n_resamples,).

    Each resample draws `n_fake` features with replacement from `real`. This is what a generator
    that repeats the reference perfectly would reach with as many samples: the floor at this N, M.

    Source: ours.
    """
    real = _checked(real, at_least=2)
    whole, random = Gaussian.of(real), generator("cpu", seed, "resamples of the reference")
    distances = []
    for _ in range(n_resamples):
        rows = torch.randint(len(real), (n_fake,), generator=random).to(real.device)
        distances.append(frechet_distance(whole, real[rows]))
    return torch.tensor(distances, dtype=torch.float64)


def frechet_distance_of_halves(real: Tensor, n_splits: int = 10, seed: int = 0) -> float:
    """Mean Frechet distance between two random halves of the real set: what unseen real images of
    half the number would score. Source: ours."""
    real = _checked(real, at_least=4)
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
    fake, random = _checked(fake, at_least=8), generator("cpu", seed, "infinity")
    whole = real if isinstance(real, Gaussian) else Gaussian.of(real)
    sizes = np.linspace(len(fake) // 2, len(fake), n_points).astype(int)
    distances = []
    for n in sizes:
        rows = torch.randperm(len(fake), generator=random)[:n].to(fake.device)
        distances.append(frechet_distance(whole, fake[rows]))
    _, d_inf = np.polyfit(1 / sizes, distances, 1)
    return float(d_inf)


# --- Inception Score -------------------------------------------------------------------------


def inception_score(
    logits: Tensor, n_splits: int = 10, seed: int | None = 0
) -> tuple[float, float]:
    r"""Inception Score: mean and standard deviation over equal parts of the samples.

    IS = exp mean_i KL(p(y | x_i) || mean_j p(y | x_j)),   p = softmax(logits)

    Between 1 and the number of classes; it never looks at real images, and is biased downwards by
    small parts.

    Args:
        logits: (N, n_classes), N >= n_splits, without the layer's bias as in the original code.
        n_splits: Parts.
        seed: Of the random order in which the samples fall into parts; None: as they come.

    Source: Salimans et al., "Improved techniques for training GANs", 2016, section 4.
    """
    logits = _checked(logits, at_least=n_splits)
    if seed is not None:
        order = torch.randperm(len(logits), generator=generator("cpu", seed, "parts"))
        logits = logits[order.to(logits.device)]
    scores = []
    for part in torch.tensor_split(logits, n_splits):
        log_p = part.double().log_softmax(1)
        log_mean = log_p.exp().mean(0).log()
        scores.append((log_p.exp() * (log_p - log_mean)).sum(1).mean().exp().item())
    return float(np.mean(scores)), float(np.std(scores))


# --- Kernel distance -------------------------------------------------------------------------


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    r"""Kernel distance: unbiased squared maximum mean discrepancy with a polynomial kernel.

    d = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)
    k(x, y) = (x . y / D + 1)^3

    Its expectation is 0 for equal distributions whatever N and M, so single values may be negative.

    Args:
        real: Features (N, D), N >= 2.
        fake: Features (M, D), M >= 2.

    Source: Binkowski et al., "Demystifying MMD GANs", 2018, eq. 4 and section 4 (where d, times
    1,000, is called KID).
    """
    real, fake = _checked_pair(real, fake, at_least=2)
    n, m = len(real), len(fake)
    within_real = _kernel_sum(real, real) - _kernel_trace(real)
    within_fake = _kernel_sum(fake, fake) - _kernel_trace(fake)
    between = _kernel_sum(real, fake)
    return within_real / (n * (n - 1)) + within_fake / (m * (m - 1)) - 2 * between / (n * m)


def kernel_distance_of_subsets(
    real: Tensor, fake: Tensor, n_subsets: int = 50, subset_size: int = 1000, seed: int = 0
) -> Tensor:
    """Kernel distances of random subsets (without replacement) of both sets, (n_subsets,).

    Their mean is the usual figure and is unbiased as well; the cost grows with n_subsets and no
    longer with N * M. Smaller sets lower `subset_size` to half their own size (`subset_size_for`),
    so that the subsets differ and their spread gives an `interval`.

    Source: Binkowski et al., 2018, section 4.
    """
    real, fake = _checked_pair(real, fake, at_least=2)
    size = subset_size_for(len(real), len(fake), subset_size)
    random = generator("cpu", seed, "kernel distance")
    distances = []
    for _ in range(n_subsets):
        of_real = torch.randperm(len(real), generator=random)[:size].to(real.device)
        of_fake = torch.randperm(len(fake), generator=random)[:size].to(fake.device)
        distances.append(kernel_distance(real[of_real], fake[of_fake]))
    return torch.tensor(distances, dtype=torch.float64)


def subset_size_for(n_real: int, n_fake: int, subset_size: int = 1000) -> int:
    """The size of `kernel_distance_of_subsets`: at most half of the smaller set, at least 2."""
    return max(min(subset_size, min(n_real, n_fake) // 2), 2)


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    """Sum of (x_i . y_j / D + 1)^3 over all pairs."""
    blocks = ((one @ other.T).div_(x.shape[1]).add_(1).pow_(3) for one, other in _blocks(x, y))
    return sum(block.sum().item() for block in blocks)


def _kernel_trace(x: Tensor) -> float:
    """Sum of (x_i . x_i / D + 1)^3."""
    chunks = (chunk.double() for chunk in x.split(_BLOCK))
    return sum((x_i.square().mean(1) + 1).pow(3).sum().item() for x_i in chunks)


def gaussian_mmd(real: Tensor, fake: Tensor, bandwidth: float | None = None) -> float:
    r"""Unbiased squared maximum mean discrepancy with a sum of three Gaussian kernels.

    d = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)
    k(x, y) = sum over h in (b/2, b, 2b) of exp(-|x - y|^2 / (2 h^2))

    Its expectation is 0 for equal distributions and positive for all others, so single values may
    be negative; between 0 and 6.

    Args:
        real: Samples (N, D), N >= 2.
        fake: Samples (M, D), M >= 2.
        bandwidth: b, in the samples' units; None: the median distance between two real samples.

    Raises:
        ValueError: where the bandwidth is not positive: half of the real samples are one point.

    Source: Gretton et al., "A kernel two-sample test", 2012, eq. 3 and section 8. Differs from it
    in: the median is that of the real samples, not of both, so that one kernel measures all fakes.
    """
    real, fake = _checked_pair(real, fake, at_least=2)
    b = median_distance(real) if bandwidth is None else bandwidth
    if not b > 0:
        raise ValueError(f"the kernel's bandwidth must be > 0, got {b}: are the samples all alike?")

    def total(x: Tensor, y: Tensor) -> float:
        found = 0.0
        for one, other in _blocks(x, y):
            kernel = torch.cdist(one, other).square_().div_(-8 * b**2).exp_()  # h = 2b
            found += kernel.sum().item()
            for _ in range(2):  # h half as wide: the 4th power; in place, at a third of the time
                kernel.square_().square_()
                found += kernel.sum().item()
        return found

    n, m = len(real), len(fake)
    within_real = (total(real, real) - 3 * n) / (n * (n - 1))
    within_fake = (total(fake, fake) - 3 * m) / (m * (m - 1))
    return within_real + within_fake - 2 * total(real, fake) / (n * m)


def median_distance(points: Tensor) -> float:
    """The median Euclidean distance between two different points of (N, D).

    Of more than 4,096 points, that many evenly spaced ones are asked: all pairs would not fit.
    """
    points = _checked(points, at_least=2)
    some = points[:: -(-len(points) // _BLOCK)]
    return torch.pdist(some.double()).median().item()


# --- Nearest neighbours ----------------------------------------------------------------------


def nearest_distances(queries: Tensor, points: Tensor) -> Tensor:
    """Euclidean distance of each query (M, D) to the nearest of the points (N, D), shape (M,)."""
    points, queries = _checked_pair(points, queries, at_least=1)
    nearest = []
    for chunk in queries.split(_BLOCK):
        found = (torch.cdist(one, other).amin(1) for one, other in _blocks(chunk, points))
        nearest.append(torch.stack(list(found)).amin(0))
    return torch.cat(nearest)


def neighbour_radii(points: Tensor, k: int) -> Tensor:
    """Distance of each point (N, D) to its k-th nearest other point, (N,); needs N > k >= 1."""
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")
    points = _checked(points, at_least=k + 1)
    radii = []
    for chunk in points.split(_BLOCK):
        nearest = torch.empty(len(chunk), 0, dtype=torch.float64, device=points.device)
        for one, other in _blocks(chunk, points):
            nearest = torch.cat([nearest, torch.cdist(one, other)], dim=1)
            # the point itself is its own first neighbour, so the k-th other one is at place k + 1
            nearest = nearest.topk(min(k + 1, nearest.shape[1]), largest=False).values
        radii.append(nearest[:, k])
    return torch.cat(radii)


def precision(real: Tensor, fake: Tensor, k: int = 5) -> float:
    """Share of fakes inside the ball of at least one real point; a ball reaches to the point's k-th
    neighbour among its own set.

    Source: Kynkaanniemi et al., "Improved precision and recall metric", 2019, eq. 1 and 2.
    """
    return precision_recall_density_coverage(real, fake, k)["precision"]


def recall(real: Tensor, fake: Tensor, k: int = 5) -> float:
    """Share of reals inside the ball of at least one fake point.

    Source: Kynkaanniemi et al., 2019, eq. 1 and 2, with the roles exchanged.
    """
    return precision_recall_density_coverage(real, fake, k)["recall"]


def density(real: Tensor, fake: Tensor, k: int = 5) -> float:
    """Mean number of real balls that hold a fake, over k; about 1 for equal distributions.

    Source: Naeem et al., "Reliable fidelity and diversity metrics", 2020, eq. 3.
    """
    return precision_recall_density_coverage(real, fake, k)["density"]


def coverage(real: Tensor, fake: Tensor, k: int = 5) -> float:
    """Share of real balls that hold at least one fake.

    Source: Naeem et al., 2020, eq. 4.
    """
    return precision_recall_density_coverage(real, fake, k)["coverage"]


def precision_recall_density_coverage(
    real: Tensor, fake: Tensor, k: int = 5, real_radii: Tensor | None = None
) -> dict[str, float]:
    """The four figures above from one look at all distances.

    Args:
        real: Features (N, D), N > k.
        fake: Features (M, D), M > k.
        k: Which neighbour the balls reach to.
        real_radii: `neighbour_radii(real, k)` where they are known already.
    """
    real, fake = _checked_pair(real, fake, at_least=1)
    real_radii = neighbour_radii(real, k) if real_radii is None else real_radii
    fake_radii = neighbour_radii(fake, k)
    real_is_met, real_is_covered = (
        torch.zeros(len(real), dtype=torch.bool, device=real.device) for _ in range(2)
    )
    n_real_balls = torch.zeros(len(fake), dtype=torch.long, device=fake.device)
    for i in range(0, len(real), _BLOCK):
        for j in range(0, len(fake), _BLOCK):
            of_real, of_fake = slice(i, i + _BLOCK), slice(j, j + _BLOCK)
            distances = torch.cdist(real[of_real].double(), fake[of_fake].double())
            in_real_ball = distances <= real_radii[of_real, None]
            real_is_covered[of_real] |= in_real_ball.any(1)
            real_is_met[of_real] |= (distances <= fake_radii[of_fake]).any(1)
            n_real_balls[of_fake] += in_real_ball.sum(0)
    return {
        "precision": _share(n_real_balls > 0),
        "recall": _share(real_is_met),
        "density": n_real_balls.double().mean().item() / k,
        "coverage": _share(real_is_covered),
    }


def _share(true: Tensor) -> float:
    return true.double().mean().item()


# --- Sliced Wasserstein distance -------------------------------------------------------------


def sliced_wasserstein(
    real: Tensor, fake: Tensor, n_projections: int = 500, seed: int = 0
) -> float:
    r"""Mean over random directions of the one-dimensional Wasserstein-1 distance.

    d = mean_theta integral_0^1 |F^-1_real(u) - F^-1_fake(u)| du,   theta uniform on the unit sphere

    The integral is a mean over max(N, M) levels u; the smaller set's quantile function is
    interpolated linearly between its sorted values. For N = M this is the exact W1 of the two sets.

    Args:
        real: Samples (N, D), data units.
        fake: Samples (M, D); M may differ from N.
        n_projections: Number of directions.
        seed: Seed of the directions.

    Returns:
        The distance, >= 0, data units. Finite samples leave a floor of about the spread / sqrt(N).

    Source: Bonneel et al., "Sliced and Radon Wasserstein barycenters", 2015, with p = 1.
    """
    real, fake = _checked_pair(real, fake, at_least=1)
    theta = directions(real.shape[1], n_projections, seed).to(real.device)
    total = 0.0
    for part in theta.split(_rows_at_once(max(len(real), len(fake)))):
        shadows = (
            torch.cat([rows.double() @ part.T for rows in one.split(_rows_at_once(one.shape[1]))])
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

    With shadows `x @ directions(...).T` this is `sliced_wasserstein`, for whoever keeps the shadows
    and not the samples.
    """
    real, fake = _checked_pair(real, fake, at_least=1)
    n_levels = max(len(real), len(fake))
    of_real = _quantiles(_sorted(real.T), n_levels)
    of_fake = _quantiles(_sorted(fake.T), n_levels)
    return (of_real - of_fake).abs().mean().item()


def _sorted(rows: Tensor) -> Tensor:
    """Rows (P, N), each in rising order."""
    if rows.device.type == "cpu":  # numpy's sort takes a third of torch's time
        return torch.from_numpy(np.sort(rows.contiguous().numpy(), axis=1))
    return rows.sort(1).values


def _quantiles(ordered: Tensor, n_levels: int) -> Tensor:
    """Values at levels (j + 1/2) / n_levels of sorted rows (P, N), whose own levels are
    (i + 1/2) / N; linear in between, constant beyond the ends."""
    n = ordered.shape[1]
    if n == n_levels:
        return ordered
    levels = (torch.arange(n_levels, dtype=torch.float64, device=ordered.device) + 0.5) / n_levels
    place = (levels * n - 0.5).clamp(0, n - 1)
    below = place.long()
    above = (below + 1).clamp(max=n - 1)
    return torch.lerp(ordered[:, below], ordered[:, above], place - below)


# --- Checks ----------------------------------------------------------------------------------


def _checked(features: Tensor, at_least: int) -> Tensor:
    if features.ndim != 2:
        raise ValueError(f"features must have shape (N, D), got {tuple(features.shape)}")
    if len(features) < at_least:
        raise ValueError(f"needs at least {at_least} samples, got {len(features)}")
    finite = torch.cat([chunk.isfinite().all(1) for chunk in features.split(_BLOCK)])
    if not finite.all():
        n_bad = int((~finite).sum())
        raise ValueError(f"{n_bad} of {len(features)} feature rows are not finite")
    return features


def _blocks(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """All pairs of chunks of x (N, D) and y (M, D), in float64."""
    for one in x.split(_BLOCK):
        row = one.double()
        for other in y.split(_BLOCK):
            yield row, other.double()


def _checked_pair(real: Tensor, fake: Tensor, at_least: int) -> tuple[Tensor, Tensor]:
    real, fake = _checked(real, at_least), _checked(fake, at_least)
    if real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"real and fake features differ in size: {real.shape[1]} and {fake.shape[1]}"
        )
    return real, fake


def _rows_at_once(n_columns: int) -> int:
    return max(1, _CHUNK_ELEMENTS // max(n_columns, 1))

"""How far a figure would scatter with other samples of the same model."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..diffusion.randomness import generator


def half_samples(
    statistic: Callable[[Tensor], float], features: Tensor, n_resamples: int = 10, seed: int = 0
) -> Tensor:
    """A statistic of random halves of the features, (n_resamples,), for `interval`. A bootstrap's
    copies would be each other's nearest neighbours, and inflate a Frechet distance."""
    random, half = generator("cpu", seed, "halves"), max(len(features) // 2, 1)
    rows = (torch.randperm(len(features), generator=random)[:half] for _ in range(n_resamples))
    values = [statistic(features[chosen]) for chosen in rows]
    return torch.tensor(values, dtype=torch.float64)


def interval(figure: float, resamples: Tensor, size: int = 1, n: int = 2) -> list[float]:
    r"""95 % interval of a figure for the sampling noise: figure -+ 1.96 standard errors.

    standard error = sqrt(size / (n - size)) * standard deviation over the resamples,

    which is that standard deviation itself for halves. `resamples` (R,), R >= 2, are the figures of
    subsets of `size` of all n samples, drawn without replacement; the two may be a ratio. Only
    their spread is used: their mean is biased. It says nothing about another training seed.

    Source: Shao and Wu, "A general theory for jackknife variance estimation", 1989 (delete-d).
    """
    if len(resamples) < 2:
        raise ValueError(f"an interval needs at least 2 resamples, got {len(resamples)}")
    error = math.sqrt(size / (n - size)) * resamples.double().std().item()
    return [figure - 1.96 * error, figure + 1.96 * error]


def with_interval(
    key: str,
    statistic: Callable[[Tensor], float],
    samples: Tensor,
    n_resamples: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """KEY, a figure of samples (N, *), and KEY_interval, its `interval` over `half_samples`."""
    value = statistic(samples)
    halves = half_samples(statistic, samples, n_resamples, seed)
    return {key: value, f"{key}_interval": interval(value, halves)}


def mean_of(values: Tensor) -> float:
    """The mean of values (N,), a statistic for the above."""
    return values.mean().item()

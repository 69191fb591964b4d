r"""Pairs of neighbouring noise levels (t, s), t the noisier: what a consistency loss compares.

Levels are noise-to-signal ratios r = sigma / alpha, which is sigma in EDM's words, and mean the
same for every schedule. Level 0 is the smallest, where a consistency function is the identity.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..diffusion.randomness import StepRandom
from ..diffusion.schedules import Schedule
from ..diffusion.solver_steps import consistency_range, karras


class Levels(ABC):
    """Draws the pairs of a whole global batch."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.low, self.high = consistency_range(schedule)  # smallest and largest ratio

    @abstractmethod
    def draw(self, rng: StepRandom, step: int) -> tuple[Tensor, Tensor]:
        """Times (t, s) of all rows of the global batch, (n_rows,) each, float64, s < t.

        A pair that ends in the data itself, at no noise at all, has s = nan.
        """


class KarrasLevels(Levels):
    r"""Neighbours on a grid r_i = (low^{1/7} + i/N (high^{1/7} - low^{1/7}))^7, i = 0..N.

    N = n_levels, which doubles at even intervals of the K = max_train_steps updates where
    n_levels_end is given: N(k) = min(n_levels 2^{floor(k / K')}, n_levels_end), with
    K' = floor(K / (log2 floor(n_levels_end / n_levels) + 1)). ln r is normal with `mean` and `std`
    and then put on the grid; mean None draws all gaps alike.

    Source: Karras et al. 2022, eq. 5; Song & Dhariwal 2023 (iCT), section 3.4 (10 and 1280) and
    3.5 (-1.1 and 2.0). The same number for each gap is consistency distillation's (Song et al.
    2023, 18 levels, 17 gaps).
    """

    def __init__(
        self,
        schedule: Schedule,
        n_levels: int = 17,
        n_levels_end: int | None = None,
        max_train_steps: int = 1,
        mean: float | None = None,
        std: float = 2.0,
    ) -> None:
        super().__init__(schedule)
        n_levels_end = n_levels if n_levels_end is None else n_levels_end
        if n_levels > n_levels_end:
            raise ValueError(f"n_levels must be <= n_levels_end, got {n_levels}, {n_levels_end}")
        self.n_levels, self.n_levels_end, self.mean, self.std = n_levels, n_levels_end, mean, std
        n_stages = math.floor(math.log2(n_levels_end // n_levels)) + 1
        self.steps_per_stage = max(1, max_train_steps // n_stages)

    def n_at(self, step: int) -> int:
        doubled = self.n_levels * 2 ** min(step // self.steps_per_stage, 60)
        return min(doubled, self.n_levels_end)

    def ratios(self, n: int) -> Tensor:
        """The grid with n gaps, from low to high, (n + 1,), float64."""
        ratios = karras(self.low, self.high, torch.linspace(0, 1, n + 1, dtype=torch.float64))
        ratios[0], ratios[-1] = self.low, self.high
        return ratios

    def probabilities(self, n: int) -> Tensor:
        """Of the gap from level i to i + 1, (n,)."""
        if self.mean is None:
            return torch.full((n,), 1 / n, dtype=torch.float64)
        z = (self.ratios(n).log() - self.mean) / (math.sqrt(2) * self.std)
        mass = z[1:].erf() - z[:-1].erf()
        return mass / mass.sum()

    def draw(self, rng: StepRandom, step: int) -> tuple[Tensor, Tensor]:
        n = self.n_at(step)
        cumulative = self.probabilities(n).cumsum(0)
        i = torch.searchsorted(cumulative, rng.uniform_all("time").double(), right=True)
        i = i.clamp(max=n - 1)
        times = self.schedule.time_of_ratio(self.ratios(n))
        return times[i + 1], times[i]


class ShrinkingGap(Levels):
    r"""A continuous level and a neighbour that comes closer during training.

    ln r ~ N(mean, std^2),   r_s = r (1 - n(r) / q^a),   n(r) = 1 + k sigmoid(-b r),
    a = 1 + floor(step / steps_per_stage), at most n_stages

    Where that leaves nothing, r_s < low, the pair ends in the data: at first most do, so training
    starts as that of a diffusion model.

    Source: Geng et al. 2024, "Consistency Models Made Easy" (ECT) and its official code.
    """

    def __init__(
        self,
        schedule: Schedule,
        max_train_steps: int,
        n_stages: int = 8,
        q: float = 2.0,
        k: float = 8.0,
        b: float = 1.0,
        mean: float = -1.1,
        std: float = 2.0,
    ) -> None:
        super().__init__(schedule)
        self.steps_per_stage, self.n_stages = max(1, max_train_steps // n_stages), n_stages
        self.q, self.k, self.b, self.mean, self.std = q, k, b, mean, std

    def neighbour(self, ratio: Tensor, step: int) -> Tensor:
        """r_s for r, nan where the pair ends in the data."""
        stage = min(1 + step // self.steps_per_stage, self.n_stages)
        gap = (1 + self.k * torch.sigmoid(-self.b * ratio)) / self.q**stage
        below = ratio * (1 - gap)
        return torch.where(below < self.low, math.nan, below)

    def draw(self, rng: StepRandom, step: int) -> tuple[Tensor, Tensor]:
        z = rng.normal_all("time").double()
        ratio = (self.mean + self.std * z).exp().clamp(1.001 * self.low, self.high)
        below = self.neighbour(ratio, step)
        t, s = self.schedule.time_of_ratio(torch.stack([ratio, below.nan_to_num(self.low)]))
        return t, torch.where(below.isnan(), math.nan, s)


class SkippingLevels(Levels):
    r"""Every k-th training time and the one k below it: t = k n - 1, s = t - k, at least 0.

    n_levels training times are kept, T / k; 50 of 1000 in LCM. ValueError for a schedule without
    integer times, or more levels than times.

    Source: Luo et al. 2023 (latent consistency models), section 4.3; diffusers' training script.
    """

    def __init__(self, schedule: Schedule, n_levels: int = 50) -> None:
        super().__init__(schedule)
        n_times = schedule.n_train_timesteps
        if n_levels > n_times:
            raise ValueError(f"n_levels must lie in [1, {n_times}], got {n_levels}")
        self.n_levels, self.skip = n_levels, n_times // n_levels

    def draw(self, rng: StepRandom, step: int) -> tuple[Tensor, Tensor]:
        n = (rng.uniform_all("time").double() * self.n_levels).long().clamp(max=self.n_levels - 1)
        t = (n + 1) * self.skip - 1
        return t, (t - self.skip).clamp(min=0)

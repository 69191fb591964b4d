r"""Solver steps and their coefficients, in this package's own arithmetic.

One rule serves all first-order samplers (DDIM, flow Euler): keep the two unknowns, move the clock,

    x_s = alpha_s x0_hat + sigma_s eps_hat.

With a network's output o = a x0 + b eps this is linear in (x_t, o): x_s = A x_t + B o.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .noising import on_device, wide
from .parametrization import Pair, Prediction, column
from .schedules import EDMSchedule, FlowSchedule, Schedule, VPSchedule

_HIGHEST_RATIO = 80.0  # of consistency models, as in Song et al. 2023: noise enough
_LOWEST_RATIO = 0.002


def step(prediction: Prediction, alpha_s: Tensor, sigma_s: Tensor) -> Tensor:
    """From x_t to x_s without noise: alpha_s x0_hat + sigma_s eps_hat, (B, *).
    Source: DDIM (Song et al. 2021), eq. 12 with eta = 0; for flow this is the Euler step."""
    return alpha_s * prediction.x0 + sigma_s * prediction.eps


def step_coefficients(
    pair: Pair, alpha_t: Tensor, sigma_t: Tensor, alpha_s: Tensor, sigma_s: Tensor
) -> Pair:
    """(A, B) of x_s = A x_t + B output, for a network whose output is a x0 + b eps.
    Source: ours (the 2x2 system of `parametrization` put into `step`)."""
    a, b = pair
    det = a * sigma_t - b * alpha_t
    return (a * sigma_s - b * alpha_s) / det, (alpha_s * sigma_t - sigma_s * alpha_t) / det


def restate(pair: Pair, other: Pair, alpha: Tensor, sigma: Tensor) -> Pair:
    """(p, q) of other_output = p output + q x_t: the same estimate in the words of another kind.
    `pair` and `other` are (a, b) of the outputs, a x0 + b eps; alpha and sigma are those of x_t.
    Source: ours (the 2x2 system of `parametrization`)."""
    (a, b), (c, d) = pair, other
    det = a * sigma - b * alpha
    return (c * sigma - d * alpha) / det, (a * d - b * c) / det


def heun(
    predict: Callable[[Tensor, Tensor], Prediction],
    prediction: Prediction,
    schedule: Schedule,
    s: Tensor,
) -> Tensor:
    r"""From x_t to x_s by Heun's step of dy/dr = eps_hat, y = x/alpha, r = sigma/alpha.

    y' = y_t + (r_s - r_t) eps_hat(t);   y_s = y_t + (r_s - r_t) (eps_hat(t) + eps_hat(y', s)) / 2

    `predict` is the denoiser as a function of (x, t), `prediction` what it says at t, where alpha
    must not vanish. Source: Karras et al. 2022, algorithm 1 (without churn); there alpha = 1.
    """
    alpha_s, sigma_s = schedule.at(s, like=prediction.x_t)
    gap = sigma_s / alpha_s - prediction.sigma / prediction.alpha
    there = predict(step(prediction, alpha_s, sigma_s), s)
    mean_eps = (prediction.eps + there.eps) / 2
    return alpha_s * (prediction.x_t / prediction.alpha + gap * mean_eps)


def karras(first: Tensor | float, last: float, u: Tensor | float) -> Tensor:
    """Noise levels (first^{1/7} + u (last^{1/7} - first^{1/7}))^7, u in [0, 1]; one is a tensor.
    Source: Karras et al. 2022, eq. 5 with rho = 7."""
    root, end = first ** (1 / 7), last ** (1 / 7)
    return (root + u * (end - root)) ** 7  # pyright: ignore[reportReturnType]


def consistency_range(schedule: Schedule) -> tuple[float, float]:
    """Smallest and largest noise level sigma / alpha of a consistency model of this schedule.
    A VP table's first entry and EDM's sigma_min and sigma_max; 0.002 and 80 (Song et al. 2023)
    where the schedule ends in the data or in pure noise, and 80 at most for VP."""
    if isinstance(schedule, EDMSchedule):
        return schedule.sigma_min, schedule.sigma_max
    if isinstance(schedule, VPSchedule):
        ends = torch.tensor([0, schedule.n_train_timesteps - 1])
        low, high = schedule.ratio(ends).tolist()
        return low, min(high, _HIGHEST_RATIO)
    return _LOWEST_RATIO, _HIGHEST_RATIO


@dataclass(frozen=True)
class Jump:
    r"""A consistency function from any denoiser: one step to the smallest noise level r_0.

    f(x_t, t) = c_skip x_t / alpha + c_out x0_hat

    "ddim":  c_skip = r_0 / r, c_out = 1 - c_skip, r = sigma / alpha: where `step` goes from t to
             r_0, divided by alpha there. With EDM's preconditioning this is Song et al.'s choice up
             to terms of order r_0 / r, and it is as well defined for any other network (ours).
    "lcm":   c_skip = h^2 / ((10 t)^2 + h^2), c_out = 10 t / sqrt((10 t)^2 + h^2), h = 1/2: that of
             latent consistency models and of diffusers' LCMScheduler, for VP only. There x_t is
             not divided by alpha, which makes a difference at t = 0 only.

    At the smallest time f(x_t, t) = x_t / alpha, to the bit. Raises ValueError for another
    boundary, or lcm on a schedule without integer times.
    """

    schedule: Schedule
    boundary: str = "ddim"

    def __post_init__(self) -> None:
        if self.boundary not in ("ddim", "lcm"):
            raise ValueError(f"boundary must be ddim or lcm, got {self.boundary!r}")
        if self.boundary == "lcm" and not isinstance(self.schedule, VPSchedule):
            raise ValueError("boundary lcm needs integer times: a DDPM-family scheduler")

    @property
    def first_time(self) -> Tensor:
        """The smallest time, where the function is the identity; float64."""
        low, _ = consistency_range(self.schedule)
        return self.schedule.time_of_ratio(torch.tensor(low, dtype=torch.float64))

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(c_skip, c_out) at t, (B,) each, as wide as the schedule's values."""
        if self.boundary == "lcm":
            scaled, half = 10 * wide(t), 0.5
            norm = scaled**2 + half**2
            return half**2 / norm, scaled / norm.sqrt()
        first = self.schedule.ratio(on_device(self.first_time, t.device))
        c_skip = (first / self.schedule.ratio(t)).clamp(max=1)
        # a time that was rounded to float32 on its way may miss the smallest by an ulp
        c_skip = torch.where(t <= self.first_time.to(t), 1.0, c_skip)
        return c_skip, 1 - c_skip

    def __call__(self, prediction: Prediction, t: Tensor) -> Tensor:
        """f(x_t, t), an estimate of x0, (B, *), from what the network says at t (B,)."""
        x_t = prediction.x_t
        coefficients = self.coefficients(on_device(t, x_t.device))
        c_skip, c_out = (column(c.to(x_t), x_t) for c in coefficients)
        return c_skip * (x_t / prediction.alpha) + c_out * prediction.x0


def time_grid(schedule: Schedule, n_steps: int) -> Tensor:
    """The times of a sampler's n_steps network calls, from noise towards data, (n_steps,).

    For VP these are diffusers' DDIM grid of spacing "trailing" (Lin et al. 2024, table 2), for flow
    diffusers' FlowMatchEuler grid (shift included), for EDM Karras' grid with rho = 7. Raises
    ValueError for more steps than the schedule has.
    """
    n_train = schedule.n_train_timesteps
    if not 0 < n_steps <= n_train:
        raise ValueError(f"n_steps must lie in [1, {n_train}], got {n_steps}")
    if isinstance(schedule, FlowSchedule):
        lowest = schedule.shifted(torch.tensor(1 / n_train, dtype=torch.float64))
        sigmas = torch.linspace(1.0, float(lowest), n_steps, dtype=torch.float64)
        return schedule.shifted(sigmas) * n_train
    if isinstance(schedule, EDMSchedule):
        u = torch.linspace(0, 1, n_steps, dtype=torch.float64)
        return schedule.time_of_ratio(karras(schedule.sigma_max, schedule.sigma_min, u))
    if not isinstance(schedule, VPSchedule):
        raise ValueError(f"no grid is known for {type(schedule).__name__}")
    return torch.arange(n_train, 0, -n_train / n_steps).round().long() - 1

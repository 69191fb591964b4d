r"""Solver steps and their coefficients, in this package's own arithmetic.

One rule serves all first-order samplers (DDIM, flow Euler): keep the two unknowns, move the clock,

    x_s = alpha_s x0_hat + sigma_s eps_hat.

With a network's output o = a x0 + b eps this is linear in (x_t, o): x_s = A x_t + B o.
"""

import torch
from torch import Tensor

from .parametrization import Pair, Prediction
from .schedules import EDMSchedule, FlowSchedule, Schedule, VPSchedule


def step(prediction: Prediction, alpha_s: Tensor, sigma_s: Tensor) -> Tensor:
    """From x_t to x_s without noise: alpha_s x0_hat + sigma_s eps_hat, (B, *).

    Source: DDIM (Song et al. 2021), eq. 12 with eta = 0; for flow this is the Euler step.
    """
    return alpha_s * prediction.x0 + sigma_s * prediction.eps


def step_coefficients(
    pair: Pair, alpha_t: Tensor, sigma_t: Tensor, alpha_s: Tensor, sigma_s: Tensor
) -> Pair:
    """(A, B) of x_s = A x_t + B output, for a network whose output is a x0 + b eps.

    Source: ours (the 2x2 system of `parametrization` put into `step`).
    """
    a, b = pair
    det = a * sigma_t - b * alpha_t
    return (a * sigma_s - b * alpha_s) / det, (alpha_s * sigma_t - sigma_s * alpha_t) / det


def time_grid(schedule: Schedule, n_steps: int, spacing: str = "trailing") -> Tensor:
    """The times a sampler visits, from noise towards data, shape (n_steps,).

    Args:
        schedule: For VP the times are diffusers' DDIM grid with the same `spacing`; for flow
            diffusers' FlowMatchEuler grid (shift included); for EDM Karras' grid with rho = 7.
        n_steps: Number of network calls.
        spacing: VP only: "leading", "trailing" or "linspace" (Lin et al. 2024, table 2).

    Raises:
        ValueError: for an unknown spacing or more steps than the schedule has.
    """
    n_train = schedule.n_train_timesteps
    if not 0 < n_steps <= n_train:
        raise ValueError(f"n_steps must lie in [1, {n_train}], got {n_steps}")
    if isinstance(schedule, FlowSchedule):
        lowest = schedule.shifted(torch.tensor(1 / n_train, dtype=torch.float64))
        sigmas = torch.linspace(1.0, float(lowest), n_steps, dtype=torch.float64)
        return schedule.shifted(sigmas) * n_train
    if isinstance(schedule, EDMSchedule):
        ramp = torch.linspace(0, 1, n_steps, dtype=torch.float64)
        high, low = schedule.sigma_max ** (1 / 7), schedule.sigma_min ** (1 / 7)
        return schedule.time_of_ratio((high + ramp * (low - high)) ** 7)
    if not isinstance(schedule, VPSchedule):
        raise ValueError(f"no grid is known for {type(schedule).__name__}")
    if spacing == "leading":
        return (torch.arange(n_steps) * (n_train // n_steps)).flip(0)
    if spacing == "trailing":
        return torch.arange(n_train, 0, -n_train / n_steps).round().long() - 1
    if spacing == "linspace":
        return torch.linspace(0, n_train - 1, n_steps).round().long().flip(0)
    raise ValueError(f"spacing must be leading, trailing or linspace, got {spacing!r}")

r"""The variational bound for networks that learn their variance (Improved DDPM's hybrid loss).

    L_vlb = KL( q(x_{t-1} | x_t, x0) || p_theta(x_{t-1} | x_t) ) / ln 2,  bits per dimension,

at t = 0 the negative log-likelihood of the 8-bit data. The mean is frozen: only the variance
learns from this term.

Source: Nichol & Dhariwal 2021, eqs. 10-16; Improved DDPM's code for what the paper leaves open.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..diffusion.noising import per_sample_mean
from ..diffusion.parametrization import Prediction, column
from ..diffusion.schedules import Schedule, VPSchedule


def vlb(schedule: Schedule, prediction: Prediction, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """One term of the bound per sample, bits per dimension, (B,).

    x0 (B, *) are data in [-1, 1], 8-bit originally; the posterior is taken at x_t (B, *) and at
    integer t (B,). The prediction's output is held fixed and read as said of `x_t`. ValueError
    without a learned variance or with continuous times.
    """
    if prediction.variance is None or not isinstance(schedule, VPSchedule):
        raise ValueError("the VLB needs learned_variance and a DDPM-family scheduler")
    p = posterior(schedule, t, like=x0)
    share = (prediction.variance + 1) / 2
    log_variance = share * p["log_beta"] + (1 - share) * p["log_variance"]
    true_mean = p["of_x0"] * x0 + p["of_x_t"] * x_t
    fixed = replace(prediction, x_t=x_t, output=prediction.output.detach())
    mean = p["of_x0"] * fixed.x0 + p["of_x_t"] * x_t

    gap = (true_mean - mean) ** 2 * torch.exp(-log_variance)
    ratio = torch.exp(p["log_variance"] - log_variance)
    kl = 0.5 * (log_variance - p["log_variance"] + ratio + gap - 1)
    nll = -discretized_log_likelihood(x0, mean, 0.5 * log_variance)
    return per_sample_mean(torch.where(column(t == 0, x0), nll, kl)) / math.log(2)


def posterior(schedule: VPSchedule, t: Tensor, like: Tensor) -> dict[str, Tensor]:
    r"""Coefficients of q(x_{t-1} | x_t, x0), each (B, 1, ...).

    mean = of_x0 x0 + of_x_t x_t; log_variance is that of the posterior (at t = 0 that of t = 1,
    since it is -inf there), log_beta the upper end of the learned range.
    """
    abar = schedule.alphas_cumprod
    before = torch.cat([torch.ones(1, dtype=abar.dtype), abar[:-1]])
    beta = 1 - abar / before
    variance = beta * (1 - before) / (1 - abar)
    table = {
        "of_x0": beta * before.sqrt() / (1 - abar),
        "of_x_t": (1 - before) * (1 - beta).sqrt() / (1 - abar),
        "log_variance": torch.cat([variance[1:2], variance[1:]]).log(),
        "log_beta": beta.log(),
    }
    return {name: column(values[t.cpu()].to(like), like) for name, values in table.items()}


def discretized_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log P of 8-bit data x in [-1, 1] under a Gaussian binned to the 256 levels, nats, (B, *).

    The normal distribution function is the tanh approximation of the original code.
    """
    inverse = torch.exp(-log_scale)
    upper = _normal_cdf(inverse * (x - mean + 1 / 255))
    lower = _normal_cdf(inverse * (x - mean - 1 / 255))
    inside = torch.where(x > 0.999, 1 - lower, upper - lower)
    return torch.where(x < -0.999, upper, inside).clamp(min=1e-12).log()


def _normal_cdf(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

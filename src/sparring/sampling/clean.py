r"""Cleaning images of one's own: a noisy image is an x_t whose noise is there already.

    y = x0 + tau n,   n ~ N(0, I),   is   x_t / alpha_t   at the t where sigma_t / alpha_t = tau,

so alpha_t y is handed to the network as it is. One call gives the posterior mean x0_hat =
E[x0 | y], the answer of least squared error, and a smooth one. Going down from t in more calls
(DDIM; `eta` = 1 draws at random) gives an image that looks like the data, at a larger error.

Purification adds noise on the way, up to a level r above tau, and goes down from there:

    x_t = alpha_t (y + sqrt(r^2 - tau^2) z),   z ~ N(0, I),   sigma_t / alpha_t = r.

It drowns what is not Gaussian noise (an attack, blocks of JPEG), and detail of the same size.

Everything is in the model's range: images in [-1, 1], where noise is twice as large as on the
[0, 1] scale. Source: Xiao et al. 2022 ("DensePure"), Carlini et al. 2023 ("(Certified!!)
adversarial robustness for free!", section 3); purification: Nie et al. 2022 ("DiffPure"), with the
noise that is there already counted in (ours).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser, evaluation_mode
from ..diffusion.noising import on_device
from ..diffusion.parametrization import column
from ..diffusion.randomness import generator
from ..diffusion.schedules import Schedule
from ..diffusion.solver_steps import Jump, consistency_range, karras
from ..models.model import Model
from ..options.sections import check_options
from ..options.value_types import Count, NotNegative, Share
from .sample import device_of, sample_dtype


def matching_time(schedule: Schedule, sigma: Tensor) -> Tensor:
    """The t (B,) at which an image with noise of size sigma (B,), > 0, is x_t / alpha_t.
    sigma_t / alpha_t = sigma;   t is float64, for VP between the integers. Raises ValueError where
    the schedule has no such time."""
    t = schedule.time_of_ratio(sigma)
    missed = (schedule.ratio(t) / sigma.double() - 1).abs() > 1e-6
    if missed.any():
        low, high = consistency_range(schedule)
        raise ValueError(
            f"noise of size {sigma[missed][0]:.4g} in the model's range lies outside what this "
            f"model knows, {low:.4g} to {high:.4g}"
        )
    return t


@dataclass(frozen=True)
class Cleaning:
    """How images, or vectors, are cleaned."""

    # network calls: from the image's own noise level to the least (Karras' grid), then x0_hat
    n_steps: Count = 1
    eta: Share = 0.0  # noise of the steps between, 0 deterministic, 1 as in ancestral sampling
    purify: NotNegative = 0.0  # noise level, in the model's range, up to which noise is added first
    clip_sample: bool = False  # each x0_hat to [-1, 1], the step's noise going with the clipped one
    seed: int = 0  # sample i's noise (purification, eta) follows from (seed, index i)
    batch_size: Count = 256  # samples per call of the network

    def __post_init__(self) -> None:
        check_options(type(self), vars(self))


def clean(
    model: Model | Denoiser,
    noisy: Tensor,
    sigma: Tensor | float,
    cleaning: Cleaning | None = None,
    *,
    condition: Mapping[str, Tensor] | None = None,
    index: Tensor | None = None,
    **words: Any,
) -> Tensor:
    """Clean images, or vectors, of Gaussian noise of a known size: estimates (N, *), on the CPU.

    A sample whose noise is below the least that the model knows (VP: its first time) is handed back
    as it is, unless it is purified.

    Args:
        model: What `sparring.load` returns, or a `Denoiser`.
        noisy: Samples (N, *) in the model's range, not clipped where they have not been.
        sigma: Standard deviation of their noise, (N,) or one number, in the model's range.
        cleaning: How; None is `Cleaning()`.
        condition: Further arguments of the network, (N, ...) each.
        index: Numbers of the samples, (N,); None: 0 to N - 1.
        words: Fields of `Cleaning` that differ from `cleaning`: clean(model, y, 0.2, n_steps=4).

    Raises:
        ValueError: for noise larger than the model knows, or more than one step of a consistency
            model.
    """
    denoiser = model if isinstance(model, Denoiser) else model.denoiser
    n, how = len(noisy), replace(cleaning or Cleaning(), **words)
    levels = torch.as_tensor(sigma, dtype=torch.float64).cpu().expand(n)
    if not (levels.isfinite() & (levels >= 0)).all():
        raise ValueError("sigma must be finite and >= 0")
    if denoiser.boundary is not None and how.n_steps > 1:
        raise ValueError("a consistency model answers in one step, not in several")
    index = torch.arange(n) if index is None else index
    device = device_of(denoiser)
    least, _ = consistency_range(denoiser.schedule)
    cleaned = noisy.to("cpu", sample_dtype(denoiser), copy=True)
    start = levels.clamp(min=how.purify)
    with evaluation_mode(denoiser), torch.no_grad():
        for rows in (start >= least).nonzero().flatten().split(how.batch_size):
            random = [generator("cpu", how.seed, "clean", i) for i in index[rows].tolist()]
            y, added = cleaned[rows], (start[rows] ** 2 - levels[rows] ** 2).sqrt()
            if added.any():
                y = y + column(added.to(y), y) * _normal(y, random)
            own = {name: value[rows].to(device) for name, value in (condition or {}).items()}
            grid = [karras(start[rows], least, k / how.n_steps) for k in range(how.n_steps)]
            cleaned[rows] = _down(denoiser, y.to(device), grid, own, random, how).cpu()
    return cleaned


def _down(
    denoiser: Denoiser,
    y: Tensor,
    grid: list[Tensor],
    condition: Mapping[str, Tensor],
    random: list[torch.Generator],
    how: Cleaning,
) -> Tensor:
    """From y = x_t / alpha_t at the first noise levels, (B,) each, to x0_hat at the last."""
    schedule = denoiser.schedule
    times = [on_device(matching_time(schedule, ratio), y.device) for ratio in grid]
    alpha, sigma = schedule.at(times[0], like=y)
    x_t, x0 = alpha * y, y
    for t, s in zip(times, [*times[1:], None], strict=True):
        prediction = denoiser(x_t, t, **condition)
        jump = denoiser.boundary and Jump(schedule, denoiser.boundary)
        x0 = jump(prediction, t) if jump else prediction.x0
        x0 = x0.clamp(-1, 1) if how.clip_sample else x0
        if s is not None:
            alpha_s, sigma_s = schedule.at(s, like=y)
            eps = (x_t - alpha * x0) / sigma
            # DDIM's eq. 16, which is the spread of x_s given x_t and x0 on any schedule
            share = 1 - (sigma_s * alpha / (alpha_s * sigma)) ** 2
            fresh = how.eta * sigma_s * share.clamp(min=0).sqrt()
            x_t = alpha_s * x0 + (sigma_s**2 - fresh**2).sqrt() * eps
            if how.eta:
                x_t = x_t + fresh * _normal(y, random)
            alpha, sigma = alpha_s, sigma_s
    return x0


def _normal(like: Tensor, random: list[torch.Generator]) -> Tensor:
    """Standard normal numbers, shape of `like` (B, *), row by row from its own generator."""
    return torch.stack([torch.randn(like.shape[1:], generator=own) for own in random]).to(like)

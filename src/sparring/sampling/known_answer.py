r"""Is a sampler right? It draws a Gaussian whose every answer is known, before it draws images.

For data x0 ~ N(M, S^2) the perfect denoiser is known, E[x0 | x_t] = M + g (x_t - alpha M) with
g = alpha S^2 / v and v = alpha^2 S^2 + sigma^2. A sampler that is given it must return mean M and
spread S, up to the error that so few steps make. How far it is off is the Wasserstein distance of
two Gaussians in units of the data's spread,

    d = sqrt((mean - M)^2 + (spread - S)^2) / S.

What is allowed is measured against a sampler of our own: DDIM's step (with eta = 1 for samplers
that add noise), in closed form, on the schedule's plain grid of as many steps,

    x_s = alpha_s x0_hat + sigma_s eps_hat:   factor (alpha_s alpha S^2 + sigma_s sigma) / v.

    d <= FLOOR + FACTOR d_reference

With one to five steps d_reference is near 1, and only what explodes is refused; with fifty it is a
few per cent. FLOOR is above what a schedule that ends at alpha = 0.07 (Stable Diffusion's) costs,
below what is lost at alpha = 0.4. Both were set on a grid of every sampler, 1 to 1,000 steps, on
linear, scaled, sigmoid, cosine and zero-terminal tables, flows of shift 1 to 12 and EDM: what is
sound lies below (PNDM with three steps comes nearest, at 1.18), and what lies above has exploded or
left its grid (Heun's 20 steps on cosine betas draw a spread of 1.1 where nothing is clipped).

eta, eps_scale, guidance, stop_ratio, grid_power, ratios and a learned variance are left out of the
comparison. What is clipped is clipped at +-2, which the Gaussian does not feel. A consistency model
is given the perfect consistency function instead, f(x_t) = M + S (x_t - alpha M) / sqrt(v), and
must return M and S with any number of steps.
"""

import functools
import json
import logging
import math
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..diffusion.denoiser import Denoiser
from ..diffusion.parametrization import column
from ..diffusion.schedules import (
    EDMSchedule,
    FlowSchedule,
    Schedule,
    VPSchedule,
    schedule_from_config,
)
from ..diffusion.solver_steps import Jump, karras
from ..support.errors import UserError
from .schedulers import default_sampler, make_scheduler
from .settings import Sampling
from .steps import Steps, integrate

MEAN, SPREAD = 0.3, 0.5  # of the Gaussian: pixels in [-1, 1] are about as wide
FLOOR, FACTOR = 0.1, 1.2  # see above
_N = 2048
_CLIPPED_AT = 2.0
_OF_CONSISTENCY = ("consistency", "lcm", "LCMScheduler")
_UNKNOWN = ("TCDScheduler",)  # no plain diffusion model stands in for its network: it must run


class Drawn(NamedTuple):
    """What a sampler makes of the Gaussian; `problem` is why there is nothing."""

    mean: float = math.nan
    spread: float = math.nan
    problem: str = ""

    @property
    def distance(self) -> float:
        """d, infinite where nothing finite came out."""
        d = math.hypot(self.mean - MEAN, self.spread - SPREAD) / SPREAD
        return d if math.isfinite(d) else math.inf


def check_sampler(
    sampling: Sampling,
    train_scheduler_config: Mapping[str, Any],
    kind: str,
    *,
    boundary: str | None = None,
    advice: str | None = None,
) -> None:
    """Refuses a sampler that draws a known Gaussian wrongly; milliseconds, once a configuration.
    For the arguments see `make_scheduler`; the scheduler has a name or is None. Raises UserError
    with what came out and what works instead: `advice`, or what a search finds."""
    n_steps, options = sampling.num_inference_steps, sampling.scheduler_options or {}
    words = _as_json(options), _as_json(train_scheduler_config)
    clips = bool(sampling.clip_sample)
    asked = _Asked(sampling.scheduler, n_steps, clips, *words, kind, boundary)
    if _is_right(asked):
        return
    drawn = _drawn(asked)
    what = f"{n_steps} step{'s' * (n_steps > 1)} of {asked.sampler}"
    if options:
        what += " with " + ", ".join(f"{key}={value}" for key, value in options.items())
    outcome = (
        f"would draw mean {drawn.mean:.3g} and spread {drawn.spread:.3g} of data with "
        f"{MEAN} and {SPREAD}"
    )
    if drawn.problem:
        outcome = f"cannot be taken ({drawn.problem})"
    raise UserError(f"{what} {outcome}: {advice or _advice(asked)}")


def check_ends_in_noise(schedule: Schedule) -> None:
    """Refuses a schedule whose last time still shows the data, where every sampler would go wrong.
    Raises UserError: one line that says what to change."""
    (alpha, *_), (sigma, *_) = _grid(schedule, 1)
    gain = SPREAD / math.sqrt(alpha**2 * SPREAD**2 + sigma**2)  # of the whole path
    started = math.hypot(sigma, 1) if isinstance(schedule, EDMSchedule) else 1.0
    # d of exact integration from pure noise instead of from x_T
    if math.hypot(gain * alpha * MEAN, gain * started - SPREAD) / SPREAD <= FLOOR:
        return
    if isinstance(schedule, EDMSchedule):
        raise UserError(
            f"model.scheduler.sigma_max is {schedule.sigma_max:g}: sampling starts from pure "
            "noise, and data in [-1, 1] still show through that much; take 10 or more"
        )
    raise UserError(
        f"model.scheduler does not end in noise: at the last of its {schedule.n_train_timesteps} "
        f"times x_t is still {alpha:.2g} times the image, and sampling starts from pure noise. "
        "Take beta_schedule=squaredcos_cap_v2, a larger beta_end, or more num_train_timesteps"
    )


def draw(
    sampling: Sampling, config: Mapping[str, Any], kind: str, boundary: str | None = None
) -> Drawn:
    """Mean and spread of what a sampler draws of the Gaussian, from 2048 quantiles of its noise."""
    name, schedule = sampling.scheduler, schedule_from_config(config)
    if name in _OF_CONSISTENCY or (name is None and boundary is not None):
        boundary = boundary or "lcm"
        sampling = replace(sampling, clip_sample=False)  # its range is fixed, at +-1
    else:
        boundary = None
    network = _Gaussian(schedule, kind, boundary)
    if kind == "eps" and isinstance(schedule, FlowSchedule):
        raise UserError("eps-prediction says nothing of x0 at the start of a flow: use flow or v")
    try:
        with _quiet(), torch.no_grad():
            clipping = {**config, "clip_sample_range": _CLIPPED_AT}
            scheduler = make_scheduler(sampling, clipping, kind, boundary=boundary)
            scheduler.set_timesteps(sampling.num_inference_steps)
            levels = (torch.arange(_N, dtype=torch.float64) + 0.5) / _N
            noise = torch.special.ndtri(levels).float()[None]
            noise = noise / noise.std(correction=0)
            generators = [torch.Generator().manual_seed(0)]
            denoiser = Denoiser(network, schedule, kind)
            steps = Steps(denoiser, scheduler, sampling, generators=generators)
            x = integrate(steps, noise * getattr(scheduler, "init_noise_sigma", 1.0)).double()
    except UserError:
        raise
    except Exception as error:  # whatever a scheduler of diffusers makes of numbers it cannot take
        words = (type(error).__name__, " ".join(str(error).split()))
        return Drawn(problem=": ".join(filter(None, words)))
    return Drawn(x.mean().item(), x.std(correction=0).item())


def reference_distance(schedule: Schedule, n_steps: int, stochastic: bool) -> float:
    """d of DDIM's step in closed form, started from x_T as it really is; eta = 1 if stochastic."""
    levels = list(zip(*_grid(schedule, n_steps), strict=True))
    alpha, sigma = levels[0]
    variance = alpha**2 * SPREAD**2 + sigma**2
    for (alpha, sigma), (alpha_s, sigma_s) in pairwise([*levels, (1.0, 0.0)]):
        fresh = 0.0
        if stochastic:
            fresh = sigma_s**2 * max(0.0, 1 - (sigma_s * alpha / (alpha_s * sigma)) ** 2)
        kept = math.sqrt(max(0.0, sigma_s**2 - fresh))
        v = alpha**2 * SPREAD**2 + sigma**2
        factor = (alpha_s * alpha * SPREAD**2 + kept * sigma) / v
        variance = factor**2 * variance + fresh
    return abs(math.sqrt(variance) / SPREAD - 1)


def _grid(schedule: Schedule, n: int) -> tuple[list[float], list[float]]:
    """alpha and sigma at the times of a plain sampler, from noise to data."""
    u = torch.linspace(0, 1, n, dtype=torch.float64)
    if isinstance(schedule, FlowSchedule):
        sigma = schedule.shifted(1 - u * (1 - 1e-3))
        return (1 - sigma).tolist(), sigma.tolist()
    if isinstance(schedule, EDMSchedule):
        sigma = karras(torch.tensor(schedule.sigma_max), schedule.sigma_min, u)
        return [1.0] * n, sigma.tolist()
    last = schedule.n_train_timesteps
    t = (torch.arange(last, 0, -last / n)[:n].round().long() - 1).clamp(min=0)
    return schedule.alpha(t).tolist(), schedule.sigma(t).tolist()


class _Asked(NamedTuple):
    """A sampler's configuration, hashable."""

    name: str | None
    n_steps: int
    clip_sample: bool
    options: str
    config: str
    kind: str
    boundary: str | None

    @property
    def sampler(self) -> str:
        """The name, also of a default."""
        if self.name is not None:
            return self.name
        schedule = schedule_from_config(json.loads(self.config))
        network = _Gaussian(schedule, self.kind, None)
        return default_sampler(Denoiser(network, schedule, self.kind, boundary=self.boundary))


@functools.lru_cache(maxsize=1024)
def _drawn(asked: _Asked) -> Drawn:
    name, n_steps, clips, options, config, kind, boundary = asked
    chosen = json.loads(options)
    sampling = Sampling(name, n_steps, clip_sample=clips, scheduler_options=chosen)
    return draw(sampling, json.loads(config), kind, boundary)


@functools.lru_cache(maxsize=1024)
def _is_right(asked: _Asked) -> bool:
    drawn, schedule = _drawn(asked), schedule_from_config(json.loads(asked.config))
    if drawn.distance <= FLOOR:
        return True
    if asked.name in _UNKNOWN:
        return not drawn.problem and math.isfinite(drawn.distance)
    if asked.sampler in _OF_CONSISTENCY or drawn.problem:
        return False
    n = asked.n_steps
    allowed = max(reference_distance(schedule, n, stochastic) for stochastic in (False, True))
    return drawn.distance <= FLOOR + FACTOR * allowed


def _advice(asked: _Asked) -> str:
    """What works instead: without the options, other numbers of steps, other samplers."""
    schedule = schedule_from_config(json.loads(asked.config))
    n, found = asked.n_steps, []
    most = schedule.n_train_timesteps if isinstance(schedule, VPSchedule) else 1000
    options, plain = json.loads(asked.options), asked._replace(options="{}", clip_sample=False)
    if options and _is_right(plain):
        found.append(f"leave {' and '.join(options)} out")
    for other in (n - 1, n + 1, 2 * n, n // 2, 4 * n, n // 4, most):
        if 1 < other <= most and other != n and _is_right(asked._replace(n_steps=other)):
            found.append(f"take {other} steps")
            break
    for name in ("ddim", "dpmsolver++", "flow_euler", "unipc", "euler_edm", None):
        other = plain._replace(name=name)
        with suppress(UserError):  # of another family
            if name != asked.name and _is_right(other):
                found.append(f"take {other.sampler}")
                break
    return ", or ".join(found) or "no sampler is right on this schedule, change model.scheduler"


class _Gaussian(nn.Module):
    """The perfect network for x0 ~ N(MEAN, SPREAD^2), or for jumps to it with a `boundary`."""

    def __init__(self, schedule: Schedule, kind: str, boundary: str | None) -> None:
        super().__init__()
        self.schedule, self.kind = schedule, kind
        self.jump = None if boundary is None else Jump(schedule, boundary)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule.at(t, like=x)
        x_t = x / self.schedule.input_scale(sigma)
        v = alpha**2 * SPREAD**2 + sigma**2
        x0 = MEAN + alpha * SPREAD**2 / v * (x_t - alpha * MEAN)
        if self.jump is not None:
            c_skip, c_out = (column(c.to(x), x) for c in self.jump.coefficients(t))
            f = MEAN + SPREAD / v.sqrt() * (x_t - alpha * MEAN)
            scale = alpha if self.jump.boundary == "ddim" else 1.0
            x0 = torch.where(c_out > 0, (f - c_skip * x_t / scale) / c_out.clamp(min=1e-12), x0)
        eps = (x_t - alpha * x0) / sigma
        a, b = Denoiser(nn.Identity(), self.schedule, self.kind).pair(alpha, sigma)
        return a * x0 + b * eps


def _as_json(words: Mapping[str, Any]) -> str:
    return json.dumps(dict(words), sort_keys=True, default=lambda value: value.tolist())


@contextmanager
def _quiet() -> Any:
    """diffusers' own warnings are of no use to who asked for a number."""
    logger = logging.getLogger("diffusers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)

"""Samplers of diffusers on any schedule: data ~ N(M, S^2) with its perfect denoiser, so that mean
and spread of what comes out are known. The oracle integrates in float64 by itself.

What is right: near the data's own mean and spread, as near as an integrator of first order comes
with as many steps; or a refusal. Few steps of plain samplers must never be refused.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from known_answers import Verdict, right, wrong
from torch import Tensor, nn

N = 1500
TOLERANCE = 0.12
"""Of the data's spread, beside what the steps cost: chance is 0.03, SD's unfinished noise 0.03."""
VP_PLAIN = ("ddim", "ddpm", "euler", "euler_ancestral", "dpmsolver++", "unipc", "deis")
VP_ALL = (
    *VP_PLAIN,
    "heun",
    "dpm2",
    "lms",
    "pndm",
    "dpmsolver++_sde",
    "DPMSolverSinglestepScheduler",
)
FLOW_ALL = ("flow_euler", "flow_heun", "dpmsolver++", "unipc")
EDM_ALL = ("euler_edm", "dpmsolver++")


class Perfect(nn.Module):
    """E[x0 | x_t], stated in the words of a kind, with coefficients of the oracle's own."""

    def __init__(
        self, at: Callable[[Tensor], tuple[Tensor, Tensor]], kind: str, m: float, s: float
    ) -> None:
        super().__init__()
        self.at, self.kind, self.m, self.s = at, kind, m, s

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (one[:, None].to(x.dtype) for one in self.at(t.double()))
        if self.kind == "edm":
            x = x * (sigma**2 + 0.25).sqrt()
        gain = alpha * self.s**2 / (alpha**2 * self.s**2 + sigma**2)
        x0 = self.m + gain * (x - alpha * self.m)
        eps = (x - alpha * x0) / sigma.clamp(min=1e-12)
        if self.kind == "edm":
            skip, scale = 0.25 / (sigma**2 + 0.25), sigma * 0.5 / (sigma**2 + 0.25).sqrt()
            return (x0 - skip * x) / scale
        return {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0, "flow": eps - x0}[self.kind]


def _table(abar: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """alpha and sigma between the entries of a table, ln(sigma / alpha) being linear."""
    log_ratio = ((1 - abar) / abar.clamp(min=2.0**-40)).log() / 2

    def at(t: Tensor) -> tuple[Tensor, Tensor]:
        low = t.floor().long().clamp(0, len(abar) - 1)
        high = (low + 1).clamp(max=len(abar) - 1)
        ratio = (log_ratio[low] + (t - low) * (log_ratio[high] - log_ratio[low])).exp()
        exact = t == low
        alpha = torch.where(exact, abar[low].sqrt(), 1 / (1 + ratio**2).sqrt())
        return alpha, torch.where(exact, (1 - abar[low]).sqrt(), ratio / (1 + ratio**2).sqrt())

    return at


def _betas(kind: str, n: int, start: float, end: float) -> Tensor:
    if kind == "squaredcos_cap_v2":
        bar = [math.cos((i / n + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(n + 1)]
        ratios = [min(1 - bar[i + 1] / bar[i], 0.999) for i in range(n)]
        return torch.tensor(ratios, dtype=torch.float64)
    if kind == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, n, dtype=torch.float64) ** 2
    return torch.linspace(start, end, n, dtype=torch.float64)


def _first_order(alpha: list[float], sigma: list[float], s: float) -> float:
    """Relative error of the spread that x0-and-eps steps make on this grid, without and with noise;
    the larger one."""
    errors = []
    for eta in (0.0, 1.0):
        var = alpha[0] ** 2 * s**2 + sigma[0] ** 2
        for i in range(len(alpha)):
            a, b = (alpha[i + 1], sigma[i + 1]) if i + 1 < len(alpha) else (1.0, 0.0)
            share = 1 - (b * alpha[i] / (a * sigma[i])) ** 2 if a else 0.0
            fresh = eta * b**2 * max(share, 0.0)
            v = alpha[i] ** 2 * s**2 + sigma[i] ** 2
            factor = (a * alpha[i] * s**2 + math.sqrt(max(b**2 - fresh, 0.0)) * sigma[i]) / v
            var = factor**2 * var + fresh
        errors.append(abs(math.sqrt(var) / s - 1))
    return max(errors)


def _verdict(
    rng: random.Random,
    config: Mapping[str, Any],
    kind: str,
    at: Callable[[Tensor], tuple[Tensor, Tensor]],
    grid: Tensor,
    name: str,
    must_be_taken: bool,
    **options: Any,
) -> Verdict:
    """Samples and compares."""
    from sparring import Denoiser, Model, Sampling, sample, schedule_from_config
    from sparring.support.errors import UserError

    m, s, n = rng.uniform(-0.4, 0.4), rng.uniform(0.4, 0.6), len(grid)
    told = f"{name} n={n} {kind} {dict(config) if len(str(config)) < 300 else '...'} {options}"
    try:
        schedule = schedule_from_config(config)
        model = Model.around(Denoiser(Perfect(at, kind, m, s), schedule, kind), (2,), dict(config))
        sampling = Sampling(
            name, n, clip_sample=False, batch_size=N, seed=rng.randrange(1000), **options
        )
        x = sample(model, N, sampling).double()
    except (UserError, ValueError) as error:
        if must_be_taken:
            return wrong(f"refused: {told}: {error}")
        return wrong(f"several lines: {error}") if "\n" in str(error) else right("refused")
    off = math.hypot(x.mean().item() - m, x.std().item() - s) / s
    alpha, sigma = (one.tolist() for one in at(grid.double()))
    allowed = TOLERANCE + 1.25 * _first_order(alpha, sigma, s)
    if off <= allowed:
        return right("read")
    return wrong(f"{told}: {x.mean():.3f} and {x.std():.3f} for {m:.3f} and {s:.3f}")


def _trailing(n_train: int, n: int) -> Tensor:
    return (torch.arange(n, dtype=torch.float64) * -n_train / n + n_train).round() - 1


def plain_tables(rng: random.Random, folder: Path) -> Verdict:
    """Schedules as people train them, samplers as people use them: all must be taken."""
    n_train = rng.choice([100, 250, 1000])
    words: dict[str, Any] = rng.choice([
        {"beta_schedule": "linear", "beta_start": 0.1 / n_train, "beta_end": 20 / n_train},
        {"beta_schedule": "scaled_linear", "beta_start": 0.85 / n_train, "beta_end": 12 / n_train},
        {"beta_schedule": "squaredcos_cap_v2"},
    ])  # fmt: skip
    betas = _betas(
        words["beta_schedule"], n_train, *(words.get(k, 0.0) for k in ("beta_start", "beta_end"))
    )
    config = {"_class_name": "DDPMScheduler", "num_train_timesteps": n_train, **words}
    is_cosine = words["beta_schedule"] == "squaredcos_cap_v2"
    names = tuple(one for one in VP_PLAIN if one != "euler_ancestral") if is_cosine else VP_PLAIN
    n = rng.choice([1, 2, 3, 4, 5, 7, 10, 20, 25, 33, 50])
    kind, at = rng.choice(["eps", "x0", "v"]), _table((1 - betas).cumprod(0))
    return _verdict(rng, config, kind, at, _trailing(n_train, n), rng.choice(names), True)


def any_table(rng: random.Random, folder: Path) -> Verdict:
    """Any T, betas by name or by number, zero terminal SNR, other noise levels and spacings."""
    n_train = rng.choice([2, 4, 10, 20, 50, 100, 333, 1000])
    which = rng.choice(["linear", "scaled_linear", "squaredcos_cap_v2", "by number"])
    start, end = rng.choice([(1e-4, 0.02), (0.00085, 0.012), (0.01, 0.5), (0.1, 0.9)])
    betas = _betas("linear" if which == "by number" else which, n_train, start, end)
    abar = (1 - betas).cumprod(0)
    config: dict[str, Any] = {"_class_name": "DDPMScheduler", "num_train_timesteps": n_train}
    if which == "by number":
        config["trained_betas"] = betas.tolist()
    else:
        config |= {"beta_schedule": which, "beta_start": start, "beta_end": end}
    kind = rng.choice(["eps", "x0", "v"])
    if rng.random() < 0.25 and abar[0] > abar[-1] > 0:
        root = abar.sqrt()
        abar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        config |= {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
        kind = rng.choice(["x0", "v"])
    options: dict[str, Any] = {}
    name, n = rng.choice(VP_ALL), rng.randint(1, min(n_train, 60))
    if rng.random() < 0.3:
        options = {
            rng.choice(["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"]): True
        }
    elif rng.random() < 0.3:
        options = {"timestep_spacing": rng.choice(["leading", "linspace"])}
    grid = _trailing(n_train, n)
    return _verdict(rng, config, kind, _table(abar), grid, name, False, scheduler_options=options)


def flows(rng: random.Random, folder: Path) -> Verdict:
    """Any T and shift, any number of steps; those that people use must be taken."""
    n_train, shift = (
        rng.choice([1, 2, 4, 10, 50, 100, 1000, 1000, 1000]),
        rng.choice([1, 1.5, 3, 6, 12]),
    )
    n = rng.choice([1, 2, 4, 8, 20, 28, 50, 60, 84, 125, 170])
    sigma = torch.linspace(1, 1e-3, n, dtype=torch.float64)
    grid = shift * sigma / (1 + (shift - 1) * sigma) * n_train
    name = rng.choice(FLOW_ALL)
    config = {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": n_train,
        "shift": shift,
    }
    must = (n_train == 1000 and shift <= 6) or name in ("dpmsolver++", "unipc")

    def at(t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t / n_train, t / n_train

    return _verdict(rng, config, rng.choice(["flow", "v"]), at, grid, name, must)


def edm(rng: random.Random, folder: Path) -> Verdict:
    high, low, n = (
        rng.choice([1.0, 20.0, 80.0]),
        rng.choice([0.002, 0.01]),
        rng.choice([1, 2, 4, 18, 40]),
    )
    config = {"_class_name": "EDMEulerScheduler", "sigma_max": high, "sigma_min": low}
    u = torch.linspace(0, 1, n, dtype=torch.float64)
    sigma = (high ** (1 / 7) + u * (low ** (1 / 7) - high ** (1 / 7))) ** 7

    def at(t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), (4 * t).exp()

    return _verdict(rng, config, "edm", at, sigma.log() / 4, rng.choice(EDM_ALL), high > 1)


def asked_for(rng: random.Random, folder: Path) -> Verdict:
    """What changes the samples on purpose is never refused."""
    from sparring import Sampling
    from sparring.sampling.known_answer import check_sampler
    from sparring.support.errors import UserError

    config = {"_class_name": "DDPMScheduler", "num_train_timesteps": rng.choice([100, 1000])}
    config["beta_schedule"] = "squaredcos_cap_v2"
    words: dict[str, Any] = rng.choice([
        {"stop_ratio": rng.uniform(0.05, 2)}, {"grid_power": rng.uniform(0.5, 3)},
        {"clip_sample": True},
        {"stop_ratio": rng.uniform(0.05, 2), "grid_power": 1.5, "clip_sample": True},
    ])  # fmt: skip
    n, kind = rng.choice([1, 2, 4, 10, 50]), rng.choice(["eps", "x0", "v"])
    name = rng.choice([None, "ddim"])
    if rng.random() < 0.4:
        name, words = "consistency", {"clip_sample": rng.random() < 0.5}
    try:
        boundary = "ddim" if name == "consistency" else None
        check_sampler(Sampling(name, n, **words), config, kind, boundary=boundary)
    except UserError as error:
        return wrong(f"refused: {words} n={n}: {error}")
    return right("read")


KINDS = {
    "tables as people train them": plain_tables,
    "any table, levels and spacing": any_table,
    "flows": flows,
    "edm": edm,
    "deviations asked for": asked_for,
}

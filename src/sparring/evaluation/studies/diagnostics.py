r"""The denoiser as a field: how equivariant, how steep, how straight, and how near to the true one.

| figure | per t | formula |
|---|---|---|
| `equivariance_error` | yes | norm of eps(x_t + sigma omega) - eps(x_t) - omega, over omega's |
| `lipschitz` | yes | largest singular value of d x0_hat / d x_t |
| `score_error` | yes, known truth | rms of score_hat - score over the score's; it is -eps/sigma |
| `straightness` | no | distance from start to end over the length of the path |

**Equivariance.** A denoiser that takes omega, an isotropic perturbation in noise units, for noise
answers with eps(x_t) + omega, error 0; for data, with eps(x_t), error 1. That of clean data lies
between, by how much of omega lies along the data: for N(mu, s^2) it is alpha^2 s^2 / (alpha^2 s^2 +
sigma^2). omega has a uniform direction and an rms uniform in `RADII`, the radius of `detail`.

**Lipschitz.** Power iteration on J^T J, J = d x0_hat / d x_t at each point; a lower bound that is
near after `N_ITERATIONS`. For N(mu, s^2): alpha s^2 / (alpha^2 s^2 + sigma^2).

**Straightness.** Of the deterministic path from noise to data (`step`), in the coordinates

    z = x_t / (alpha_t + sigma_t) = (1 - tau) x0 + tau eps,    tau = sigma_t / (alpha_t + sigma_t),

in which every schedule is a rectified flow and a path is straight where x0_hat and eps_hat stay
what they are: ||z_end - z_start|| / sum_k ||z_k+1 - z_k||, 1 for a straight path.

Figures per t are means over points x_t = alpha_t x0 + sigma_t eps of clean data, with quartiles.
Source: the equivariance error is that of Briglia et al., ICLR 2026 (paper 2), relative; straight
paths after Liu et al. 2022, who integrate ||(z_1 - z_0) - dz/dtau||^2 instead; the rest ours.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...data.analytic import Truth
from ...diffusion.denoiser import Denoiser, frozen
from ...diffusion.noising import add_noise, l2_norm, on_device
from ...diffusion.parametrization import column
from ...diffusion.randomness import StepRandom, generator
from ...diffusion.solver_steps import consistency_range, step, time_grid
from ...perturbations import L2Ball
from ..figure import Figure
from .true_score import LEAST_RATIO, has_true_score, true_score

FIGURES = {
    figure.key: figure
    for figure in (
        Figure("equivariance_error", "Equivariance error", "relative error"),
        Figure("lipschitz", "Lipschitz estimate", "of x0_hat in x_t"),
        Figure("score_error", "Score error", "relative error", better="lower"),
    )
}
RADII = (0.3, 1.0)
N_ITERATIONS = 20
N_TIMES = 12
RATIOS = (0.02, 20.0)  # noise levels sigma/alpha looked at, as far as the schedule has them
N_PATH_STEPS = 100
ARROW_RATIOS = (0.1, 0.5, 2.0)
N_ARROWS = 15  # arrows in a row of the grid

Condition = Mapping[str, Tensor]


def diagnostics(
    denoiser: Denoiser,
    x0: Tensor,
    *,
    condition: Condition | None = None,
    truth: Truth | None = None,
    n_times: int = N_TIMES,
    n_path_steps: int = N_PATH_STEPS,
    seed: int = 0,
) -> dict[str, Any]:
    """All figures of a denoiser in evaluation mode.

    Args:
        x0: Clean data in the model's range, (N, *), on the denoiser's device: the points.
        condition: The network's further arguments, (N, ...) each.
        truth: What is known about the data, for the score; only where the model's range is that of
            the data (vectors), and no matter with a condition, which has a score of its own.
        n_times: Noise levels, evenly spaced in the logarithm.
        n_path_steps: Steps of each of the N paths.
        seed: Of noise, perturbations, starts of power iterations and paths.

    Returns:
        JSON-ready. `times`: t, alpha, sigma, ratio and the figures above, each with NAME_quartiles;
        `straightness` with its quartiles; `arrows` for two-dimensional data with a known score:
        points, true and learned eps at a few noise levels; `protocol`.

    Raises:
        ValueError: for a consistency model, whose answers are no field, or fewer than 2 points.
    """
    if denoiser.boundary is not None:
        raise ValueError("a consistency model jumps: it has no field to look at")
    if len(x0) < 2 or n_times < 1:
        raise ValueError(f"at least 2 points and 1 time are needed, got {len(x0)} and {n_times}")
    condition = dict(condition or {})
    known = truth if has_true_score(truth) and not condition else None  # not that of one class
    schedule = denoiser.schedule
    times = []
    for i, ratio in enumerate(noise_levels(denoiser, n_times)):
        rng = StepRandom(seed, i, len(x0))
        t = schedule.time_of_ratio(torch.tensor(ratio, dtype=torch.float64))
        alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
        t = on_device(t, x0.device).expand(len(x0))
        eps = rng.normal("eps", x0.shape[1:]).to(x0)
        x_t = add_noise(x0, eps, *schedule.at(t, like=x0))
        radius = RADII[0] + (RADII[1] - RADII[0]) * rng.uniform("radius")
        omega = L2Ball().draw(rng, "omega", tuple(x0.shape[1:]), radius).to(x0)
        start = rng.normal("power", x0.shape[1:]).to(x0)
        row = {"t": t[0].item(), "alpha": alpha, "sigma": sigma, "ratio": sigma / alpha}
        row |= _spread("equivariance_error", equivariance_error(denoiser, x_t, t, omega, condition))
        row |= _spread("lipschitz", lipschitz(denoiser, x_t, t, start, condition))
        if known is not None and ratio >= LEAST_RATIO:
            row["score_error"] = score_error(denoiser, x_t, t, known)
        times.append(row)
    z = torch.randn(x0.shape, generator=generator("cpu", seed, "paths")).to(x0)
    straight = straightness(denoiser, z, n_path_steps, condition)
    found: dict[str, Any] = {"times": times, **_spread("straightness", straight)}
    if known is not None and x0[0].numel() == 2:
        found["arrows"] = [arrows(denoiser, known, ratio) for ratio in ARROW_RATIOS]
    return found | {
        "protocol": {
            "n_points": len(x0), "n_times": n_times, "radii": list(RADII),
            "omega": "uniform direction, rms uniform between the radii, noise units",
            "n_power_iterations": N_ITERATIONS, "n_path_steps": n_path_steps,
            "seeds": {"diagnostics": seed},
        }
    }  # fmt: skip


def noise_levels(denoiser: Denoiser, n: int) -> list[float]:
    """n levels sigma/alpha, evenly in the logarithm, between `RATIOS` and the schedule's ends."""
    low, high = consistency_range(denoiser.schedule)
    low, high = max(low, RATIOS[0]), min(high, RATIOS[1])
    return torch.logspace(math.log10(low), math.log10(high), n, dtype=torch.float64).tolist()


@torch.no_grad()
def equivariance_error(
    denoiser: Denoiser, x_t: Tensor, t: Tensor, omega: Tensor, condition: Condition | None = None
) -> Tensor:
    """||eps(x_t + sigma omega) - eps(x_t) - omega|| / ||omega||, (B,).
    At points x_t (B, *) and times t (B,), for perturbations omega (B, *) in noise units, not 0."""
    _, sigma = denoiser.schedule.at(t, like=x_t)
    model = denoiser.bind(t, condition or {})
    residual = model(x_t + sigma * omega).eps - model(x_t).eps - omega
    return l2_norm(residual) / l2_norm(omega)


def lipschitz(
    denoiser: Denoiser,
    x_t: Tensor,
    t: Tensor,
    start: Tensor,
    condition: Condition | None = None,
    n_iterations: int = N_ITERATIONS,
) -> Tensor:
    """Largest singular value of d x0_hat / d x_t at each point x_t (B, *) and time t (B,), (B,).

    By power iteration from `start` (B, *), not 0; more products with J^T J come nearer, from below.
    """
    model = denoiser.bind(t, condition or {})
    # math: the other attentions have no second derivative; rows do not see each other, so the
    # Jacobian of all of them is a block for each
    with frozen(denoiser), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        x = x_t.detach().requires_grad_(True)
        x0_hat = model(x).x0
        u = torch.zeros_like(x0_hat, requires_grad=True)
        (transposed,) = torch.autograd.grad(x0_hat, x, u, create_graph=True)  # J^T u, linear in u
        v = start
        for _ in range(n_iterations):
            (along,) = torch.autograd.grad(transposed, u, _normed(v), retain_graph=True)  # J v
            (v,) = torch.autograd.grad(x0_hat, x, along, retain_graph=True)  # J^T J v
        (along,) = torch.autograd.grad(transposed, u, _normed(v))
    return l2_norm(along)


def _normed(v: Tensor) -> Tensor:
    return v / column(l2_norm(v).clamp(min=torch.finfo(v.dtype).tiny), v)


@torch.no_grad()
def straightness(
    denoiser: Denoiser, noise: Tensor, n_steps: int, condition: Condition | None = None
) -> Tensor:
    """||z_end - z_start|| / sum ||z_k+1 - z_k|| of the path from each noise, (B,), in (0, 1].
    The paths start at unit noise (B, *) and take n_steps calls of the network."""
    schedule = denoiser.schedule
    _, high = consistency_range(schedule)  # beyond it nothing but noise: eps says nothing of x0
    last = schedule.time_of_ratio(torch.tensor(high, dtype=torch.float64))
    times = torch.minimum(time_grid(schedule, n_steps).double(), last)
    times = on_device(times, noise.device)
    ends = [schedule.at(t, like=noise) for t in times]
    one = torch.ones((), dtype=noise.dtype, device=noise.device)
    alpha, sigma = ends[0]
    # where alpha is not 0 yet, pure noise of x_t's size
    x_t = noise * (alpha**2 + sigma**2).sqrt()
    z = first = x_t / (alpha + sigma)
    length = torch.zeros(len(noise), dtype=noise.dtype, device=noise.device)
    for k, t in enumerate(times):
        prediction = denoiser(x_t, t.expand(len(noise)), **dict(condition or {}))
        alpha_s, sigma_s = ends[k + 1] if k + 1 < n_steps else (one, 0 * one)
        x_t = step(prediction, alpha_s, sigma_s)
        there = x_t / (alpha_s + sigma_s)
        length, z = length + l2_norm(there - z), there
    return l2_norm(z - first) / length.clamp(min=torch.finfo(length.dtype).tiny)


@torch.no_grad()
def score_error(denoiser: Denoiser, x_t: Tensor, t: Tensor, truth: Truth) -> float:
    """sqrt(mean ||score_hat - score||^2 / mean ||score||^2) over points x_t (B, d) at one time."""
    alpha, sigma = denoiser.schedule.alpha(t)[0].item(), denoiser.schedule.sigma(t)[0].item()
    score = true_score(truth, x_t.cpu(), alpha, sigma)
    learned = -denoiser(x_t, t).eps.cpu().double() / sigma
    error = (learned - score).square().sum(1).mean() / score.square().sum(1).mean()
    return error.sqrt().item()


@torch.no_grad()
def arrows(denoiser: Denoiser, truth: Truth, ratio: float) -> dict[str, Any]:
    """True and learned sigma * score, which is -eps, on a grid of the plane at one noise level.
    The grid is that of x_t / sqrt(alpha^2 + sigma^2) in [-1.8, 1.8]^2."""
    schedule = denoiser.schedule
    t = schedule.time_of_ratio(torch.tensor(ratio, dtype=torch.float64))
    alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
    like = next(denoiser.parameters(), torch.zeros(()))
    side = torch.linspace(-1.8, 1.8, N_ARROWS, dtype=torch.float64)
    points = torch.cartesian_prod(side, side)
    x_t = points * math.hypot(alpha, sigma)
    learned = -denoiser(x_t.to(like), on_device(t, like.device).expand(len(x_t))).eps.cpu()
    return {
        "ratio": ratio, "t": t.item(), "points": _rounded(points),
        "true": _rounded(sigma * true_score(truth, x_t, alpha, sigma)),
        "learned": _rounded(learned),
    }  # fmt: skip


def _rounded(values: Tensor) -> list[list[float]]:
    return [[round(number, 4) for number in row] for row in values.tolist()]


def _spread(name: str, values: Tensor) -> dict[str, Any]:
    """Mean and quartiles over points (B,)."""
    values = values.cpu().double()
    quartiles = torch.quantile(values, torch.tensor([0.25, 0.75], dtype=torch.float64))
    return {name: values.mean().item(), f"{name}_quartiles": quartiles.tolist()}

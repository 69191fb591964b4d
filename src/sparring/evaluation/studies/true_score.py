r"""The true score of noised data, where the density of x_t is known in closed form.

    q_t(x) = density of alpha x0 + sigma eps,      score = grad log q_t(x) = -E[eps | x] / sigma

| data | q_t | exact |
|---|---|---|
| `MixtureTruth` | Gaussians at alpha mu_k with variance alpha^2 std^2 + sigma^2 | yes |
| `PlaneTruth` | along it a difference of normal distributions, off it N(0, sigma^2) | yes |
| `TwoMoonsTruth`, `SwissRollTruth`, dim = 2 | N(0, sigma^2) along the curve | by quadrature |

The quadrature has 4,096 points a curve, and is exact to rounding from `LEAST_RATIO` on.
"""

import math

import torch
from torch import Tensor

from ...data.analytic import MixtureTruth, PlaneTruth, SwissRollTruth, Truth, TwoMoonsTruth

N_NODES = 4096
LEAST_RATIO = 0.01  # sigma/alpha below which a curve's points would show


def has_true_score(truth: Truth | None) -> bool:
    """Whether `log_density` knows these data."""
    is_curve = isinstance(truth, TwoMoonsTruth | SwissRollTruth) and truth.dim == 2
    return isinstance(truth, MixtureTruth | PlaneTruth) or is_curve


def log_density(truth: Truth, x: Tensor, alpha: float, sigma: float) -> Tensor:
    """log q_t(x), shape (n,), nats, of points x (n, d), float64.
    Raises ValueError for data without a closed form, or sigma/alpha too small for a curve."""
    x = x.double()
    if isinstance(truth, PlaneTruth):
        inside, off = _plane_coordinates(truth, x, alpha)
        log_inside = (_plane_mass(inside, alpha, sigma) / (2 * alpha)).log().sum(1)
        d_off = x.shape[1] - inside.shape[1]
        constant = d_off / 2 * math.log(2 * math.pi * sigma**2)
        return log_inside - off.square().sum(1) / (2 * sigma**2) - constant
    centres, variance = _gaussians(truth, alpha, sigma)
    exponent = -_squared_distances(x, centres) / (2 * variance)
    constant = math.log(len(centres)) + x.shape[1] / 2 * math.log(2 * math.pi * variance)
    return torch.logsumexp(exponent, 1) - constant


def true_score(truth: Truth, x: Tensor, alpha: float, sigma: float) -> Tensor:
    """grad log q_t(x), (n, d), float64, of points x (n, d); raises as `log_density`.

    Gaussians: (sum_k w_k centre_k - x) / variance, w_k the share of Gaussian k at x. Plane: per
    coordinate u in it (phi(a) - phi(b)) / (sigma (Phi(a) - Phi(b))), a, b = (u +- alpha) / sigma.
    """
    x = x.double()
    if isinstance(truth, PlaneTruth):
        inside, off = _plane_coordinates(truth, x, alpha)
        above, below = (
            torch.exp(-(((inside + end) / sigma) ** 2) / 2) / math.sqrt(2 * math.pi)
            for end in (alpha, -alpha)
        )
        along = (above - below) / (sigma * _plane_mass(inside, alpha, sigma))
        return along @ _basis(truth) - off / sigma**2
    centres, variance = _gaussians(truth, alpha, sigma)
    share = torch.softmax(-_squared_distances(x, centres) / (2 * variance), 1)
    return (share @ centres - x) / variance


def _gaussians(truth: Truth, alpha: float, sigma: float) -> tuple[Tensor, float]:
    """Centres (K, d) and the variance of equally likely Gaussians that make q_t."""
    if isinstance(truth, MixtureTruth):
        return alpha * truth.means.double(), alpha**2 * truth.std**2 + sigma**2
    if not has_true_score(truth):
        raise ValueError(f"no closed form of the noised density of {type(truth).__name__}")
    if sigma < LEAST_RATIO * alpha:
        raise ValueError(f"sigma/alpha must be >= {LEAST_RATIO} for a curve, got {sigma / alpha}")
    u = (torch.arange(N_NODES, dtype=torch.float64) + 0.5) / N_NODES
    if isinstance(truth, SwissRollTruth):
        t = 1.5 * math.pi * (1 + 2 * u)
        points = torch.stack([t * t.cos(), t * t.sin()], 1) / (4.5 * math.pi)
    else:
        a = math.pi * u
        upper = torch.stack([a.cos(), a.sin()], 1)
        points = torch.cat([upper, torch.stack([1 - a.cos(), 0.5 - a.sin()], 1)])
        points = points - torch.tensor([0.5, 0.25], dtype=torch.float64)
    return alpha * points, sigma**2


def _squared_distances(x: Tensor, centres: Tensor) -> Tensor:
    """||x_i - c_k||^2, (n, K): exact where torch.cdist's product would cancel."""
    return (x[:, None] - centres).square().sum(2)


def _basis(truth: PlaneTruth) -> Tensor:
    # exact: the truth's own is orthonormal to float32 only
    q, r = torch.linalg.qr(truth.basis.double().T)
    return q.T * torch.sign(r.diagonal())[:, None]


def _plane_coordinates(truth: PlaneTruth, x: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Coordinates in the plane, (n, 2), and what is off it, (n, d), of x - alpha mean."""
    centred, basis = x - alpha * truth.mean.double(), _basis(truth)
    inside = centred @ basis.T
    return inside, centred - inside @ basis


def _plane_mass(inside: Tensor, alpha: float, sigma: float) -> Tensor:
    """Phi((u + alpha) / sigma) - Phi((u - alpha) / sigma), (n, 2), without cancellation."""
    # of two far tails the difference is taken where they are small
    u = -inside.abs()
    scale = sigma * math.sqrt(2)
    mass = 0.5 * (torch.erfc((-u - alpha) / scale) - torch.erfc((-u + alpha) / scale))
    return mass.clamp(min=torch.finfo(torch.float64).tiny)

r"""Equivariant smoothing (paper 2): shift the input, and the predicted noise shifts with it.

    mse(eps(x_t), eps) + lam_t mse(eps(x_t + sigma omega), eps(x_t) + omega)

omega, in noise units, is random, or climbs the invariance gap mse(eps(x_t + sigma omega),
eps(x_t)). Equivariance of eps is invariance of the estimate of x0, times (alpha / sigma)^2.

Source: Briglia et al., ICLR 2026, "Why Adversarially Train Diffusion Models?" (paper 2). Where the
paper (in what could be read of it) is silent, the choice is a named option and says so.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any, Literal

import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser, SharedDropout, frozen
from ..diffusion.noising import mse, per_sample_mean
from ..diffusion.parametrization import Prediction
from ..diffusion.randomness import StepRandom
from ..options.value_types import Count, CountOrZero, NotNegative, Positive, SomeShare
from ..perturbations import LinfBall, Radius, pgd
from .base import Draws, Objective, Terms, Turn

EpsAt = Callable[[Tensor], Tensor]


@dataclass(kw_only=True)
class SmoothingDraws(Draws):
    """With what the regulariser needs."""

    rows: Tensor | None  # indices of the own rows that take part, (n,), or None for all
    share: Tensor  # factor that makes the sub-batch's sum an unbiased mean, (n,) or (B,)
    omega0: Tensor  # start of the perturbation on those rows, noise units, (n, *)
    radius: Tensor  # its ball's radius on those rows, noise units, (n,)


class Smoothing(Objective):
    r"""Denoising plus the equivariance regulariser, in the paper's mode; omega is the subclass's.

    Args:
        lam: Weight of the regulariser, 0.3 in the paper.
        lam_scaling: "paper": lam_t = lam sqrt(3) / r_t, that is lam over the standard deviation of
            a uniform perturbation (second-hand from v1 of the paper); "constant": lam_t = lam;
            "relative": lam_t = lam / mean(omega^2), the dimensionless weight of `Detail` (ours),
            at which attacks whose omega differ in length can be compared.
        radius: How the radius follows the noise level, see `Radius`.
        rho: Exponent of the powers of it.
        min_bias, max_bias: Ends of the random bias of the radius, noise units.
        radius_scale: Factor of the whole radius.
        bias_per: The radius's random bias is drawn per "sample" or per "batch" (paper: unknown).
        move: "noise": x_t moves by sigma omega, which keeps x0; "sample": x_t moves by omega, the
            literal reading of the paper's formula. They agree where sigma = 1.
        fraction: Share q of the global batch on which the regulariser is computed (the paper: 1).
        start_step: First step with the regulariser (the paper fine-tunes with it in the last 100
            epochs only).
        detach_clean: Whether the clean prediction in the regulariser is detached (paper: unknown;
            written as a plain loss it is not).
    """

    term = "equivariance"  # the name of the regulariser in the log

    def __init__(
        self,
        *args: Any,
        lam: NotNegative = 0.3,
        lam_scaling: Literal["paper", "constant", "relative"] = "paper",
        radius: Literal["power", "power_sum", "sigma", "constant"] = "power",
        rho: Positive = 2.0,
        min_bias: NotNegative = 8 / 255,
        max_bias: NotNegative = 0.3,
        radius_scale: NotNegative = 1.0,
        bias_per: Literal["sample", "batch"] = "sample",
        move: Literal["noise", "sample"] = "noise",
        fraction: SomeShare = 1.0,
        start_step: CountOrZero = 0,
        detach_clean: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(*args, **common)
        self.lam, self.lam_scaling, self.bias_per, self.move = lam, lam_scaling, bias_per, move
        self.radius = Radius(radius, rho, min_bias, max_bias, radius_scale)
        self.fraction, self.start_step, self.detach_clean = fraction, start_step, detach_clean
        self.n_graphs = 1 + fraction

    def draw(self, batch: Mapping[str, Any], rng: StepRandom, step: int) -> Draws:
        """`SmoothingDraws` in the steps with the regulariser, else what plain draws."""
        s = super().draw(batch, rng, step)
        if step < self.start_step:
            return s
        u = rng.uniform("bias").to(s.x0)
        if self.bias_per == "batch":
            u = rng.uniform_all("bias")[:1].to(s.x0).expand(len(s.x0))
        rows, share, radius = None, torch.ones_like(u), self.radius(s.sigma.flatten(), u)
        omega0 = LinfBall().draw(rng, "omega", s.x0.shape[1:], radius).to(s.x0)
        if self.fraction < 1:
            everyone = torch.ones(rng.n_rows, dtype=torch.bool)
            rows, share = choose_rows(rng, everyone, ceil(self.fraction * rng.n_rows))
            rows, share = rows.to(u.device), share.to(u)
            omega0, radius = omega0[rows], radius[rows]
        return SmoothingDraws(**vars(s), rows=rows, share=share, omega0=omega0, radius=radius)

    def turns(self, nets: Mapping[str, Denoiser], s: Draws) -> Iterator[Turn]:
        model = self.bind(nets["model"], s)

        def part() -> Terms:
            dropout = SharedDropout(s.x0.device)
            if not isinstance(s, SmoothingDraws):
                return self.denoising(model(s.x_t), s)
            with nullcontext() if s.rows is not None else dropout():  # of another batch size
                clean = model(s.x_t)
            terms = self.denoising(clean, s)
            return terms | {self.term: self.regulariser(nets["model"], clean, s, dropout)}

        yield Turn("model", [part])

    def regulariser(
        self, denoiser: Denoiser, clean: Prediction, s: SmoothingDraws, dropout: SharedDropout
    ) -> Tensor:
        """lam_t mse(eps(x_t + sigma omega), goal), (B,), zero on rows left out."""
        model = self.bind(denoiser, s, s.rows)
        known = (s.x_t, s.sigma, clean.eps)
        x_t, sigma, eps_hat = known if s.rows is None else (one[s.rows] for one in known)
        scale = sigma if self.move == "noise" else 1.0

        def eps_at(omega: Tensor) -> Tensor:
            with dropout():
                return model(x_t + scale * omega).eps

        with frozen(denoiser):
            omega = self.omega(eps_at, eps_hat.detach(), s)
        at_x_t = eps_hat.detach() if self.detach_clean else eps_hat
        residual = mse(eps_at(omega), self.goal(at_x_t, omega))
        return put(s.rows, s.share * self.lam_t(omega, s.radius) * residual, like=s.weight)

    def omega(self, eps_at: EpsAt, eps_hat: Tensor, s: SmoothingDraws) -> Tensor:
        """The perturbation of the chosen rows, noise units, (n, *): here where it starts.

        The network's answer there is eps_at(omega), and eps_hat, detached, (n, *), at omega = 0.
        """
        return s.omega0

    def goal(self, at_x_t: Tensor, omega: Tensor) -> Tensor:
        """What the network should answer at omega, (n, *), from its answer at x_t."""
        return at_x_t + omega

    def lam_t(self, omega: Tensor, radius: Tensor) -> Tensor | float:
        """The weight of each row, (n,); one number where it is the same for all."""
        if self.lam_scaling == "paper":
            return self.lam * sqrt(3) / radius
        if self.lam_scaling == "relative":
            length = per_sample_mean(omega**2)
            return self.lam / length.clamp(min=torch.finfo(length.dtype).tiny)
        return self.lam


class SmoothingRandom(Smoothing):
    """omega is uniform in the Linf ball. Take it as the control of `smoothing_adversarial`."""

    name = "smoothing_random"


class SmoothingAdversarial(Smoothing):
    r"""omega climbs the invariance gap from a random start, projected: FGSM, or more steps. Take it
    to compare with the paper; against dirt take `detail`, which keeps more variety.

    Args:
        step_size: Length of an ascent step relative to the radius (the paper does not say;
            1.25 as in fast adversarial training).
        n_steps: Ascent steps, 1 in the paper.
    """

    name = "smoothing_adversarial"

    def __init__(
        self, *args: Any, step_size: Positive = 1.25, n_steps: Count = 1, **rest: Any
    ) -> None:
        super().__init__(*args, **rest)
        self.step_size, self.n_steps = step_size, n_steps

    def omega(self, eps_at: EpsAt, eps_hat: Tensor, s: SmoothingDraws) -> Tensor:
        step = self.step_size * s.radius
        return pgd(
            lambda w: mse(eps_at(w), eps_hat), s.omega0, s.radius, LinfBall(), step, self.n_steps
        )


class Invariance(SmoothingAdversarial):
    """The failing ablation instead: mse(eps(x_t + sigma omega), eps(x_t)).

    Args:
        attack: "random" or "adversarial" omega, as in the two above.
    """

    name = "invariance"
    term = "invariance"

    def __init__(
        self, *args: Any, attack: Literal["random", "adversarial"] = "adversarial", **rest: Any
    ) -> None:
        super().__init__(*args, **rest)
        self.attack = attack

    def omega(self, eps_at: EpsAt, eps_hat: Tensor, s: SmoothingDraws) -> Tensor:
        return s.omega0 if self.attack == "random" else super().omega(eps_at, eps_hat, s)

    def goal(self, at_x_t: Tensor, omega: Tensor) -> Tensor:
        return at_x_t


def choose_rows(rng: StepRandom, allowed: Tensor, most: int) -> tuple[Tensor, Tensor]:
    r"""n = min(m, most) of the m `allowed` rows of the global batch, (n_rows,), at random.

    The regulariser is the mean over the whole batch of B rows, 0 on rows that are not allowed. Its
    estimate from n of the m rows gives each of them m / (n B); the loop's mean is the 1 / B, so a
    row carries m / n, whatever the number of processes.

    Returns:
        Own rows that take part, as indices (n_own,), and their factor, (n_own,). Their number is
        filled up to a multiple of 8 by the first row at factor zero: kernels and compiled graphs
        are made anew for every batch size they meet. It also means that a process without a row of
        its own makes the same calls as the others.
    """
    order = rng.on("cpu").permutation("rows")
    order = order[allowed[order]]
    m, chosen = len(order), order[:most]
    start, stop, _ = rng.rows.indices(rng.n_rows)
    own = chosen[(chosen >= start) & (chosen < stop)].sort().values - start
    n_filled = min(max(ceil(len(own) / 8), 1) * 8, stop - start)
    rows, share = torch.zeros(n_filled, dtype=torch.long), torch.zeros(n_filled)
    rows[: len(own)] = own
    share[: len(own)] = m / max(len(chosen), 1)
    return rows, share


def put(rows: Tensor | None, values: Tensor, like: Tensor) -> Tensor:
    """Values (n,) of the chosen rows in their places of a batch (B,), zeros elsewhere."""
    if rows is None:
        return values
    return torch.zeros_like(like, dtype=values.dtype).index_add(0, rows, values)

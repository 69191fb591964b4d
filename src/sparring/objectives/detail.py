r"""Our own smoothing: it removes the noise and keeps the detail.

    mse(eps(x_t), eps) + lam R,
    R = ||eps(x_t + sigma omega) - eps(x_t) - omega||^2 / ||omega||^2     where sigma/alpha < window

omega: L2, `n_iterations` power iterations on the invariance gap from a random direction. What
differs from paper 2, and why, is in docs/smoothing.md:

- the relative error R makes lam dimensionless: for an isotropic omega and a linear denoiser the
  optimum is the denoiser of data with every variance divided by 1 + lam;
- the power iteration turns omega towards what the denoiser calls noise, off the data manifold,
  and only there is shrinking wanted;
- outside the window (high noise) the off-manifold directions cannot be told from the signal.

Source: ours.
"""

from collections.abc import Iterator, Mapping
from math import ceil, inf
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoiser, SharedDropout, frozen
from ..noising import mse, per_sample_mean
from ..parametrization import Prediction, column
from ..perturbations import L2Ball, power_iteration
from ..randomness import StepRandom
from ..schedules import Schedule
from .base import Draws, Objective, Terms, Turn
from .smoothing import SmoothingDraws, choose_rows, put, take
from .spectrum import Scales, Spectrum
from .times import Times


class Detail(Objective):
    r"""Denoising plus the relative equivariance error inside a window of noise levels.

    Args:
        lam: Weight of R, dimensionless. Larger removes more noise and, in the end, variability.
        radius_low, radius_high: The radius is uniform between them, noise units (rms).
        n_iterations: Power iterations, 1 or 2; 0 leaves omega random. In many dimensions 1 is
            better: more drift to directions that are clean already.
        window: Noise levels sigma/alpha below it take part, in data units: 1 to 4 times the
            contamination's standard deviation. None for all. "auto" reads it off the plain loss of
            the second half of the steps before `start_step`, see `Spectrum`; where that finds no
            noise, no row takes part and training stays plain.
        fraction: Share q of the global batch computed at most.
        start_step: First step with the regulariser: two thirds of the run is best, when the shapes
            are there and the learning rate falls.

    Raises:
        ValueError: if an option is out of range.

    Source: ours; see docs/smoothing.md.
    """

    def __init__(
        self,
        schedule: Schedule,
        times: Times | None = None,
        *,
        lam: float = 10.0,
        radius_low: float = 0.3,
        radius_high: float = 1.0,
        n_iterations: int = 1,
        window: float | str | None = "auto",
        fraction: float = 0.25,
        start_step: int = 1000,
        **common: Any,
    ) -> None:
        super().__init__(schedule, times, **common)
        if not 0 < radius_low <= radius_high:
            raise ValueError(
                "radius must satisfy 0 < radius_low <= radius_high, got "
                f"{radius_low} and {radius_high}"
            )
        if lam < 0 or not 0 < fraction <= 1 or start_step < 0 or n_iterations < 0:
            raise ValueError(
                "detail needs lam >= 0, 0 < fraction <= 1, start_step >= 0, n_iterations >= 0; "
                f"got {lam}, {fraction}, {start_step}, {n_iterations}"
            )
        if window != "auto" and (isinstance(window, str) or (window is not None and window <= 0)):
            raise ValueError(f"window must be > 0, auto, or null for none, got {window!r}")
        if window == "auto" and start_step < 2:
            raise ValueError(
                "window auto reads the plain steps before the regulariser starts: set start_step"
            )
        self.lam, self.radius_low, self.radius_high = lam, radius_low, radius_high
        self.n_iterations, self.window, self.fraction = n_iterations, window, fraction
        self.start_step, self.spectrum = start_step, Spectrum()
        self.auto: Scales | None = None

    def draw(self, batch: Mapping[str, Any], rng: StepRandom, step: int) -> Draws:
        """`SmoothingDraws` in the steps with the regulariser, else what plain draws."""
        s = super().draw(batch, rng, step)
        limit = self.limit(s.x0[0].numel()) if step >= self.start_step else 0.0
        if limit == 0:
            return s
        t_all, _ = self.times.draw(rng.on("cpu"))  # every process sees the times of all rows
        inside = self.schedule.ratio(t_all) < limit
        rows, share = choose_rows(rng, inside, ceil(self.fraction * rng.n_rows))
        rows, share = rows.to(s.x0.device), share.to(s.x0)

        u = rng.uniform("radius").to(s.x0)[rows]
        radius = self.radius_low + (self.radius_high - self.radius_low) * u
        direction = L2Ball().draw(rng, "omega", s.x0.shape[1:], torch.ones(len(s.x0)).to(s.x0))
        omega0 = direction.to(s.x0)[rows]
        omega0 = column(radius, omega0) * omega0
        return SmoothingDraws(**vars(s), rows=rows, share=share, omega0=omega0, radius=radius)

    def turns(self, nets: Mapping[str, Denoiser], s: Draws) -> Iterator[Turn]:
        model = self.bind(nets["model"], s)

        def part() -> Terms:
            clean = model(s.x_t)
            terms = self.denoising(clean, s)
            if isinstance(s, SmoothingDraws):
                terms["equivariance"] = self.regulariser(nets["model"], clean, s)
            elif self.window == "auto" and self.start_step / 2 <= s.step < self.start_step:
                self.spectrum.add((s.sigma / s.alpha).flatten(), mse(clean.eps.detach(), s.eps))
            return terms

        yield Turn("model", [part])

    def limit(self, n_elements: int) -> float:
        """Noise levels sigma/alpha below this take part."""
        if self.window is None:
            return inf
        if self.window != "auto":
            return float(self.window)
        if self.auto is None:
            self.auto = self.spectrum.scales(n_elements)
            self.news.append(f"window auto: {self.auto.in_words()}")
        return self.auto.window

    def found(self) -> dict[str, float]:
        if self.auto is None:
            return {}
        return {"window": self.auto.window, "noise_scale": self.auto.noise or 0.0}

    def state_dict(self) -> dict[str, Tensor]:
        return super().state_dict() | {"spectrum": self.spectrum.sums.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.spectrum.sums = state["spectrum"].clone()

    def regulariser(self, denoiser: Denoiser, clean: Prediction, s: SmoothingDraws) -> Tensor:
        """lam R, (B,), zero on rows outside the window and on rows not chosen."""
        model = self.bind(denoiser, s, s.rows)
        x_t, sigma, eps_hat = take(s.rows, s.x_t, s.sigma, clean.eps)
        dropout, fixed = SharedDropout(x_t.device), eps_hat.detach()

        def eps_at(omega: Tensor) -> Tensor:
            with dropout():
                return model(x_t + sigma * omega).eps

        with frozen(denoiser):
            omega = power_iteration(
                lambda w: mse(eps_at(w), fixed), s.omega0, s.radius, self.n_iterations
            )
        residual = eps_at(omega) - eps_hat - omega
        relative = per_sample_mean(residual**2) / per_sample_mean(omega**2)
        return put(s.rows, s.share * self.lam * relative, like=s.weight)

r"""Our own smoothing: it removes the noise and keeps the detail.

Each row of a batch may be dirty up to a noise level of its own, s = sigma/alpha:

    s > level   L = mse(A eps(x_t), eps),  x_t = alpha (y + s A eps),  A = sqrt(I - Sigma / s^2)
    s < level   L = mse(eps(x_t), eps),    x_t = alpha (y + s eps)

for data y = x0 + noise of covariance Sigma (`own_noise`), and below the level

    w [ L + lam R ],  R = ||eps(x_t + sigma omega) - eps(x_t) - omega||^2 / ||omega||^2
    w = weight / (1 + n(s) / few),  n(s) images of the set teaching at s; R where n(s) < few

omega: L2, `n_iterations` power iterations of the network's Jacobian from a random direction, which
turn it towards what the denoiser calls noise, off the data manifold: only there shrinking is
wanted. Sigma and the levels come with the batch (`trust`): each image has its own. Where few images
are clean these come more often (`how_often`), and rows trade their times so that each is
where it teaches well, at `EASE` times its own noise (`times.traded`): the clean ones at low noise,
the others above. Where nothing comes, as with vectors, all rows have noise of one size tau and one
window, found from the plain loss. lam is dimensionless: for an isotropic omega and a linear
denoiser the optimum is the denoiser of data with every variance divided by 1 + lam. Why so is in
docs/explanation/smoothing.md.

Source: ours; the first line after Daras et al. 2024 ("Consistent diffusion meets Tweedie").
"""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from math import ceil, inf
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..data.trust.trust import Trust
from ..diffusion.denoiser import Denoiser, evaluation_mode
from ..diffusion.noising import mse, per_sample_mean
from ..diffusion.parametrization import Prediction, column
from ..diffusion.randomness import StepRandom
from ..options.value_types import CountOrZero, NotNegative, Positive, SomeShare
from ..perturbations import L2Ball, power_iteration
from .base import Draws, Objective, Terms, Turn
from .how_often import FEW, ratios, shares
from .own_noise import EASE, teaching_levels, white
from .smoothing import SmoothingDraws, choose_rows, put
from .spectrum import Scales, Spectrum
from .times import all_rows, traded

LEAST_READ = 500  # updates before R: after fewer a network's own error looks like noise
FINE = 4  # times that an image comes in an epoch if all come equally often: others in proportion


class Detail(Objective):
    r"""Denoising of the data's own noise, and the relative equivariance error below it. Take it
    when images are dirty and few are clean; on clean ones it is plain training.

    Args:
        lam: Weight of R, dimensionless. Larger removes more noise and, in the end, variability.
        radius_low, radius_high: The radius is uniform between them, noise units (rms).
        n_iterations: Power iterations, each a forward pass; 0 leaves omega random. One leaves more
            of the signal in omega, more than two drift to directions that are clean already.
        bf16_omega: Whether they are in bfloat16 while the rest is in float32: a direction is all
            that is wanted (cosine to the exact one 0.97 and more from sigma/alpha = 0.05 on).
        noise: tau, standard deviation of the data's own noise, data units (images in [-1, 1]:
            twice the value on the [0, 1] scale), where batches come without `trust`. "auto" reads
            it off the plain loss of the second half of the steps before `start_step`, see
            `Spectrum`; where that finds none, training stays plain. Where batches come with trust,
            it looks at the rows that are called clean, and says so if it finds noise in them,
            unless the network had too few updates to tell. None for data without noise of one size.
        window: R is applied at noise levels sigma/alpha below it, where batches come without trust.
            "auto" is tau if that is given; where tau is found, up to twice that, as far as R takes
            little of the signal.
        weight: Of rows below their level, or below window or tau, R included. What is 1 for the
            others: a large one disturbs the rest of the network, 0 leaves R nothing to hold on to.
        few: Where the levels of the set are known: so many images that teach at a noise level halve
            the weight of those that do not, and there R is not needed; fewer come no more often
            than so many would.
        fraction: Share q of the global batch on which R is computed, at most.
        start_step: First step that is not plain: two thirds of the run is best, when the shapes
            are there and the learning rate falls. None is that in a run, 1,000 elsewhere.

    Source: ours; see docs/explanation/smoothing.md.
    """

    name = "detail"
    told_of_dirt = "table"
    of_the_run: ClassVar = {"start_step": lambda run: 2 * run.n_steps // 3}
    below = 1.0  # `weight` is of L and R alike

    def __init__(
        self,
        *args: Any,
        lam: NotNegative = 10.0,
        radius_low: Positive = 0.3,
        radius_high: Positive = 1.0,
        n_iterations: CountOrZero = 2,
        bf16_omega: bool = False,
        noise: Positive | Literal["auto"] | None = "auto",
        window: Positive | Literal["auto"] = "auto",
        weight: Positive = 0.2,
        few: Positive = FEW,
        fraction: SomeShare = 0.125,
        start_step: CountOrZero | None = None,
        **common: Any,
    ) -> None:
        super().__init__(*args, **common)
        start_step = 1000 if start_step is None else start_step
        if radius_low > radius_high:
            raise ValueError(f"radius_low must be <= radius_high, got {radius_low}, {radius_high}")
        if noise is None and window == "auto":
            raise ValueError("window auto is the noise found or given: set window, or noise")
        if noise == "auto" and start_step < 2:
            why = "noise auto reads the plain steps before the regulariser starts"
            raise ValueError(f"{why}: set start_step")
        self.lam, self.radius_low, self.radius_high = lam, radius_low, radius_high
        self.n_iterations, self.bf16_omega = n_iterations, bf16_omega
        self.noise, self.window = noise, window
        self.weight, self.few, self.fraction = weight, few, fraction
        self.n_graphs = 1 + fraction
        self.start_step = start_step
        self.spectrum = Spectrum()
        self.auto = None if isinstance(noise, str) else Scales(noise, None, noise)

    @classmethod
    def check_section(cls, section: Any) -> None:
        if section.noise == "auto" and section.window == "auto":
            return
        if section.dirt != "none" and "dirt" in section.model_fields_set:
            one = "objective.noise and objective.window are one size for all images"
            each = f"objective.dirt={section.dirt} says each image's own"
            raise ValueError(f"{one}, and {each}: leave one of them out")
        section.dirt = "none"

    def epoch(self, trust: Trust, height: int, width: int) -> Tensor | None:
        level = teaching_levels(trust, height, width, EASE)
        share = shares(level, ratios(self.schedule, self.times), self.few)
        copies = (FINE * len(share) * share).round().long().clamp(min=1)
        copies = torch.where(share > 0, copies, 0)
        if (copies == copies[0]).all():
            return None
        return torch.arange(len(copies)).repeat_interleave(copies)

    def draw(self, batch: Mapping[str, Any], rng: StepRandom, step: int) -> Draws:
        """`SmoothingDraws` in the steps with R; what plain draws before `start_step`, but for the
        times and the corrections of rows that are known to be dirty."""
        t_all, weight_all = self.times.draw(rng.on("cpu"))  # every process sees those of all rows
        trust: Trust | None = batch.get("trust")
        levels = torch.empty(0)  # of all rows
        if trust is not None:
            height, width = batch["x0"].shape[-2:]
            own = [teaching_levels(trust, height, width, ease) for ease in (1.0, EASE)]
            levels, easy = _of_all(torch.stack(own, 1), rng).unbind(1)
            order = traded(self.schedule.ratio(t_all), easy)
            t_all, weight_all = t_all[order], weight_all[order]
        s = self.noised(batch, rng, step, t_all[rng.rows], weight_all[rng.rows])
        if s.incomplete is not None:
            if self.auto is None and step >= self.start_step:
                self.check(s.x0[0].numel())
            edge = s.incomplete.level
            below = levels.masked_fill(levels == torch.inf, 0).clamp(max=self.enough())
            n_rows = int((below >= 0).sum())
        elif step < self.start_step:
            return s
        else:
            noise, window = self.scales(s.x0[0].numel())
            if noise > 0:
                s.carries(white(torch.full_like(s.weight, noise), s.x0))
            edge = torch.full_like(s.weight, max(noise, window))
            below, n_rows = torch.full((rng.n_rows,), window), rng.n_rows
        ratio = (s.sigma / s.alpha).flatten()
        s.weight = torch.where(ratio < edge, self.weight_below(ratio), 1.0) * s.weight
        if step < self.start_step or not (below > 0).any():
            return s
        inside = self.schedule.ratio(t_all) < below
        rows, share = choose_rows(rng, inside, ceil(self.fraction * n_rows))
        rows, share = rows.to(s.x0.device), share.to(s.x0)

        u = rng.uniform("radius").to(s.x0)[rows]
        radius = self.radius_low + (self.radius_high - self.radius_low) * u
        direction = L2Ball().draw(rng, "omega", s.x0.shape[1:], torch.ones(len(s.x0)).to(s.x0))
        omega0 = direction.to(s.x0)[rows]
        omega0 = column(radius, omega0) * omega0
        return SmoothingDraws(**vars(s), rows=rows, share=share, omega0=omega0, radius=radius)

    def weight_below(self, ratio: Tensor) -> Tensor:
        """w at noise levels (B,), for rows that do not teach there."""
        if self.teaching_levels is None:
            return torch.full_like(ratio, self.weight)
        self.teaching_levels = self.teaching_levels.to(ratio)  # once, to where the model is
        n_teaching = torch.searchsorted(self.teaching_levels, ratio)
        return self.weight / (1 + n_teaching / self.few)

    def enough(self) -> float:
        """Noise level from which on `few` images of the set teach, infinite for none: R is not
        wanted above it."""
        if self.teaching_levels is None or len(self.teaching_levels) < self.few:
            return inf
        return float(self.teaching_levels[ceil(self.few) - 1])

    def turns(self, nets: Mapping[str, Denoiser], s: Draws) -> Iterator[Turn]:
        model = self.bind(nets["model"], s)

        def part() -> Terms:
            if isinstance(s, SmoothingDraws):
                clean, moved, omega = self.both(nets["model"], s)
                terms = self.denoising(clean, s)
                error = self.regulariser(clean, moved, omega, s)
                return terms | {"equivariance": s.weight * error}
            clean = model(s.x_t)
            if self.noise == "auto" and self.start_step / 2 <= s.step < self.start_step:
                error = mse(clean.eps.detach(), s.eps)
                if s.incomplete is not None:
                    error = torch.where(s.incomplete.level == 0, error, torch.nan)
                self.spectrum.add((s.sigma / s.alpha).flatten(), error)
            return self.denoising(clean, s)

        yield Turn("model", [part])

    def both(self, denoiser: Denoiser, s: SmoothingDraws) -> tuple[Prediction, Prediction, Tensor]:
        """The answers at x_t, (B,), and at x_t + sigma omega, (n,), and omega, (n, *).

        All in one pass: the few rows cost twice as much in a pass of their own.
        """
        omega, n_rows, rows = self.omega(denoiser, s), len(s.x_t), s.rows
        everyone = torch.arange(n_rows, device=s.x_t.device)
        model = self.bind(denoiser, s, torch.cat([everyone, rows]))  # pyright: ignore
        answer = model(torch.cat([s.x_t, s.x_t[rows] + s.sigma[rows] * omega]))
        return answer[:n_rows], answer[n_rows:], omega

    def omega(self, denoiser: Denoiser, s: SmoothingDraws) -> Tensor:
        rows: Any = s.rows  # some are always chosen
        x_t, sigma = s.x_t[rows], s.sigma[rows]
        here: Tensor | None = None

        def change(omega: Tensor) -> Tensor:
            nonlocal here
            if here is None:  # asked once, in one batch with the first omega
                model = self.bind(denoiser, s, torch.cat([rows, rows]))
                here, there = model(torch.cat([x_t, x_t + sigma * omega])).eps.chunk(2)
            else:
                there = self.bind(denoiser, s, rows)(x_t + sigma * omega).eps
            return there - here

        bf16 = torch.autocast(x_t.device.type, torch.bfloat16) if self.bf16_omega else nullcontext()
        with bf16, evaluation_mode(denoiser):  # two masks would be most of the change
            return power_iteration(change, s.omega0, s.radius, self.n_iterations)

    def regulariser(
        self, clean: Prediction, moved: Prediction, omega: Tensor, s: SmoothingDraws
    ) -> Tensor:
        """lam R, (B,), zero on rows outside the window and on rows not chosen."""
        residual = moved.eps - clean.eps[s.rows] - omega
        relative = per_sample_mean(residual**2) / per_sample_mean(omega**2)
        return put(s.rows, s.share * self.lam * relative, like=s.weight)

    def scales(self, n_elements: int) -> tuple[float, float]:
        """(tau, window), 0 for none."""
        if self.auto is None:
            self.auto = self.spectrum.scales(n_elements, self.lam)
            self.news.append(f"noise auto: {self.auto.in_words()}")
        noise, window = self.auto.noise or 0.0, self.auto.window or 0.0
        return noise, window if self.window == "auto" else float(self.window)

    def check(self, n_elements: int) -> None:
        """Says so if the loss finds noise in the rows that are called clean."""
        if self.start_step < LEAST_READ:
            return
        self.auto = self.spectrum.scales(n_elements, self.lam)
        if self.auto.noise is not None:
            size = f"noise of standard deviation {self.auto.noise:.3g}"
            where = "in images that are called clean: look at the table of the audit"
            self.news.append(f"the loss finds {size} {where}")

    def found(self) -> dict[str, float]:
        if self.auto is None or self.noise != "auto":
            return {}
        return {"noise_scale": self.auto.noise or 0.0, "window": self.auto.window or 0.0}

    def state_dict(self) -> dict[str, Tensor]:
        return super().state_dict() | {"spectrum": self.spectrum.sums.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.spectrum.sums = state["spectrum"].clone()


def _of_all(values: Tensor, rng: StepRandom) -> Tensor:
    """Values (B, k) of the own rows, and those of the other processes, in their places in the
    global batch, (n_rows, k), on the CPU; -1 for the rows of other micro-batches."""
    if len(values) == rng.n_rows:  # all of them, also where each process has a batch of its own
        return values.detach().cpu()
    known = all_rows(values).cpu()
    first = rng.rows.start // len(known) * len(known)
    everyone = torch.full((rng.n_rows, values.shape[1]), -1.0)
    everyone[first : first + len(known)] = known
    return everyone

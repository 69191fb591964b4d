r"""DRO adversarial training (paper 1): perturb x_t, correct the target so that x0 stays.

    max over ||delta||_2 <= r of  mse(eps(x_t + delta), eps + delta / sigma)

x_t + delta = alpha x0 + sigma (eps + delta / sigma): the corrected target is exactly the noise
that maps x0 to the perturbed point. For any parametrisation: a x0 + b (eps + delta / sigma).

Source: Wang et al., ICLR 2025 (arXiv 2502.17099) and its official CIFAR-10 code.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser, SharedDropout, frozen
from ..diffusion.noising import mse
from ..diffusion.randomness import StepRandom
from ..options.value_types import Count, CountOrZero, NotNegative
from ..perturbations import L2Ball, Per, Units, pgd, size_in
from .base import Draws, Objective, Terms, Turn

PAPERS_STEP = 0.1 / (3 * 32 * 32) ** 0.5
"""Paper 1's step, a length of 0.1 over 3x32x32, per element: the same for data of another size."""


@dataclass(frozen=True)
class Climb:
    """How far delta goes, as the options of `dro` say it."""

    step_size: float
    step_per: Per
    max_norm: float
    units: Units

    def at(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Step and radius on x (B, *) with noise sigma, per element in sample units, (B,) each."""
        step = size_in("sample", self.step_size, x, sigma, units=self.units, per=self.step_per)
        return step, size_in("sample", self.max_norm, x, sigma, units=self.units)


class _Robust(Objective):
    """The loss at a perturbed point, shared by the two ways to find that point.

    Args:
        step_size: Size of an ascent step, in `units`. The script's is a length of 0.1 over 3x32x32;
            the default is that per element, so it means the same for images of another size.
        step_per: Whether step_size is that of an "element" (rms) or its length over the "image".
        max_norm: Radius of the L2 ball per element, ||delta||_2 <= sqrt(d) max_norm, in `units`;
            0.1 in the script, where (K - 1) steps never reach it.
        units: "sample": delta itself, as in the script; "noise": delta / sigma_t, so that delta
            shrinks with the noise.
        target: "corrected_detached" (the script's): delta acts through the network's input only;
            "corrected": its gradient also goes through the target (and the VLB's x_t);
            "uncorrected": the noise that was drawn (for an x0-network all three are x0).
    """

    ema_warmup = False

    def __init__(
        self,
        *args: Any,
        step_size: NotNegative = PAPERS_STEP,
        step_per: Per = "element",
        max_norm: NotNegative = 0.1,
        units: Units = "sample",
        target: Literal["corrected_detached", "corrected", "uncorrected"] = "corrected_detached",
        **common: Any,
    ) -> None:
        super().__init__(*args, **common)
        self.climb, self.target = Climb(step_size, step_per, max_norm, units), target

    def robust(self, denoiser: Denoiser, s: Draws, delta: Tensor) -> Terms:
        """Denoising at x_t + delta with the target of choice."""
        prediction, shift = self.bind(denoiser, s)(s.x_t + delta), self.target_shift(delta)
        return self.denoising(prediction, s, s.eps + shift / s.sigma, x_t=s.x_t + shift)

    def target_shift(self, delta: Tensor) -> Tensor:
        """The part of delta that the target follows, sample units, (B, *)."""
        if self.target == "uncorrected":
            return torch.zeros_like(delta)
        return delta if self.target == "corrected" else delta.detach()


class FreeAT(_Robust):
    r"""K passes over one batch, each an update of the weights and an ascent of delta for free. Take
    it when samples drift from the data, not when images are dirty or a better solver mends it.

        delta = 0
        K times:  backward of mse(eps(x_t + delta), eps + delta / sigma), for weights and delta
                  weights step, EMA steps
                  delta <- project(delta + step_size g / rms(g)),  g = d loss / d delta

    x0, eps, t and the importance weight stay the same over the K passes; dropout is drawn afresh in
    each. The first pass is a plain step, so K = 1 is plain training, and an update costs the same.

    Args:
        n_passes: K, 3 in the official CIFAR-10 script.

    Source: paper 1's official code (fast adversarial training after Shafahi et al. 2019). A row
    whose gradient is not finite keeps its delta (ours; the official code would lose the row).
    """

    name = "dro"

    def __init__(self, *args: Any, n_passes: Count = 3, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self.n_updates = n_passes

    def turns(self, nets: Mapping[str, Denoiser], s: Draws) -> Iterator[Turn]:
        robust = partial(self.robust, nets["model"], s)
        yield from free_at(robust, s.x_t, self.n_updates, *self.climb.at(s.x_t, s.sigma))


def free_at(
    loss: Callable[[Tensor], Terms], like: Tensor, n_passes: int, step: Tensor, radius: Tensor
) -> Iterator[Turn]:
    """The turns of Free-AT: an update of the model and an ascent of delta from each backward pass.

    `loss` gives the terms at a delta, which is added to what is `like` it, (B, *), and zero in the
    first of K = n_passes passes; `step` and `radius` (B,) are per element, in sample units.

    Source: Shafahi et al. 2019, as in paper 1's official code.
    """
    ball, delta = L2Ball(), torch.zeros_like(like)
    for k in range(n_passes):
        climbs = k + 1 < n_passes
        delta = delta.detach().requires_grad_(climbs)
        yield Turn("model", [partial(loss, delta)])
        if climbs and delta.grad is not None:
            delta = ball.climb(delta, delta.grad, step, radius)


@dataclass(kw_only=True)
class PGDDraws(Draws):
    """With the start of the ascent, sample units, (B, *)."""

    delta0: Tensor


class PGDTraining(_Robust):
    r"""The expensive alternative to `dro`: find delta by projected gradient ascent, then take one
    step. Take it to see what a stronger attack would give, not for a long run.

    Args:
        n_steps: Ascent steps, each one forward and one backward that updates nothing.
        random_start: Start on a random point of the ball's surface instead of at zero.

    Source: Madry et al. 2018 on paper 1's objective (the paper's PGD ablation; its settings are
    unknown).
    """

    name = "dro_pgd"

    def __init__(
        self, *args: Any, n_steps: CountOrZero = 3, random_start: bool = False, **rest: Any
    ) -> None:
        super().__init__(*args, **rest)
        self.n_steps, self.random_start = n_steps, random_start

    def draw(self, batch: Mapping[str, Any], rng: StepRandom, step: int) -> PGDDraws:
        s = super().draw(batch, rng, step)
        _, radius = self.climb.at(s.x0, s.sigma)
        radius = radius if self.random_start else torch.zeros_like(radius)
        delta0 = L2Ball().draw(rng, "delta", s.x0.shape[1:], radius).to(s.x0)
        return PGDDraws(**vars(s), delta0=delta0)

    def turns(self, nets: Mapping[str, Denoiser], s: PGDDraws) -> Iterator[Turn]:
        denoiser, dropout = nets["model"], SharedDropout(s.x0.device)
        step, radius = self.climb.at(s.x0, s.sigma)

        def gain(delta: Tensor) -> Tensor:  # the time sampler does not hear of it
            with dropout():
                prediction = self.bind(denoiser, s)(s.x_t + delta)
            eps = s.eps + self.target_shift(delta) / s.sigma
            return mse(prediction.output, prediction.target(s.x0, eps))

        def part() -> Terms:
            with frozen(denoiser):
                delta = pgd(gain, s.delta0, radius, L2Ball(), step, self.n_steps)
            with dropout():
                return self.robust(denoiser, s, delta)

        yield Turn("model", [part])
